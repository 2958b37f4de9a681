"""Units are counted without being read."""

from __future__ import annotations

import pytest

from serve.experiments.store.units import key_of, names_of, stored


def test_a_unit_is_written_the_same_way_by_everybody_and_cannot_be_read() -> None:
    # printf 'unit:ann@example.com' | openssl dgst -sha256 -hmac 5a17
    assert stored("ann@example.com", "5a17") == "5d365f5e59bb84d5f64f0382ef784c23"


def test_an_experiment_is_one_among_all_adapters() -> None:
    assert key_of("support", "ab-1") == "support/ab-1" != key_of("tone", "ab-1")
    assert names_of(key_of("support", "ab-1")) == ("support", "ab-1")


def test_two_experiments_do_not_lead_to_each_other() -> None:
    assert stored("ann", "salt-1") != stored("ann", "salt-2")


def test_it_is_written_as_it_is_where_that_was_chosen() -> None:
    assert stored("ann@example.com", "salt", hashed=False) == "ann@example.com"


@pytest.mark.parametrize("unit", ["x" * 201, "a\0b", "a\nb", "\ud800"])
def test_what_is_too_long_or_no_text_is_hashed_in_any_case(unit: str) -> None:
    assert stored(unit, "salt", hashed=False) == stored(unit, "salt")
    assert len(stored(unit, "salt")) == 32
