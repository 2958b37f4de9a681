"""What is cut is as near as an SVD brings it, and the loss that is told is the one there is."""

from __future__ import annotations

import numpy
import pytest
import torch

from adapters.deltas import Delta, distance
from train.lowrank import cut_factors, cut_matrix


def drawn(size_out: int, size_in: int, rank: int) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(size_out, rank) @ torch.randn(rank, size_in) / 100


@pytest.mark.parametrize("shape", [(700, 900), (900, 700)], ids=str)
def test_a_matrix_of_low_rank_is_kept_whole(shape: tuple[int, int]) -> None:
    """Both are large enough for the randomised way."""
    delta = drawn(*shape, 16)
    cut = cut_matrix(delta, [8, 16, 32])
    assert (cut.lost[8] / cut.size) ** 0.5 > 0.1
    assert (cut.lost[16] / cut.size) ** 0.5 < 1e-5
    assert (cut.lost[32] / cut.size) ** 0.5 < 1e-5
    at = cut.at(16)
    torch.testing.assert_close(torch.from_numpy(at.b @ at.a), delta, rtol=1e-4, atol=1e-5)


def test_of_full_rank_the_loss_is_measured_and_near_the_least() -> None:
    delta = drawn(700, 900, 16) + 0.01 * torch.randn(700, 900)
    cut = cut_matrix(delta, [4, 16, 64])
    singular = torch.linalg.svdvals(delta)
    for rank in (4, 16, 64):
        at = cut.at(rank)
        lost = float((delta.double() - torch.from_numpy(at.b @ at.a)).square().sum())
        assert cut.lost[rank] == pytest.approx(lost, rel=1e-4)
        assert lost <= 1.02 * float(singular[rank:].square().sum())
    assert cut.size == pytest.approx(float(delta.double().square().sum()))


def test_it_is_the_same_every_time_and_draws_from_nobodys_numbers() -> None:
    delta = drawn(700, 900, 100)
    torch.manual_seed(5)
    first = cut_matrix(delta, [8])
    expected = torch.Generator().manual_seed(5)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
    assert numpy.array_equal(first.a, cut_matrix(delta, [8]).a)


def test_a_rank_above_what_there_is() -> None:
    cut = cut_matrix(drawn(12, 20, 3), [64])
    assert cut.at(64).a.shape == (12, 20)
    assert (cut.lost[64] / cut.size) ** 0.5 < 1e-5


def test_a_difference_of_products_survives_rounding_to_bfloat16() -> None:
    """Stacked, the factors of B A and of B₀A₀ are rounded apart, and their difference drowns."""
    rng = numpy.random.default_rng(0)
    a0, b0 = rng.normal(size=(8, 300)), rng.normal(size=(400, 8))
    a, b = a0 + 1e-3 * rng.normal(size=a0.shape), b0 + 1e-3 * rng.normal(size=b0.shape)
    meant = Delta(numpy.concatenate([a, a0]), numpy.concatenate([b, -b0], axis=1), 1.0)
    size = distance(meant, Delta(0 * meant.a, meant.b, 1.0))

    def rounded(delta: Delta) -> float:
        """Return what serving it in bfloat16 loses, relative."""
        served = [torch.from_numpy(f).bfloat16().double().numpy() for f in (delta.a, delta.b)]
        return distance(meant, Delta(served[0], served[1], delta.scale)) / size

    assert rounded(meant) > 0.5
    assert rounded(cut_factors(meant.a, meant.b, 16)) < 0.01
