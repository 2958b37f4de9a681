"""A configuration's regular expressions mean here what they mean to PEFT, and always end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import InvalidAdapter
from adapters.lint import Scales, check_adapter
from adapters.lint.expressions import Clock, problem
from adapters.lint.targets import Targets, check_targets
from tests.conftest import LLAMA, MakeAdapter

MODULES = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1, 11)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
] + ["model.embed_tokens", "lm_head", "transformer.h.1.attn.c_attn"]
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}"
    r"\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
)
"""As its `get_peft_regex` writes it for a text model."""


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": UNSLOTH},
        {"target_modules": r".*\.(k|q)_proj"},
        {"target_modules": "q_proj"},
        {"target_modules": r"(?i).*Q_PROJ"},
        {"target_modules": r"(.*)\.1\.(.*)_proj", "exclude_modules": r".*k_proj"},
        {"target_modules": ["q_proj", "h.1.attn.c_attn"]},
        {"target_modules": ["_proj", "proj", "", ".q_proj"]},
        {"target_modules": ["q_proj", "embed_tokens"], "exclude_modules": ["0.self_attn.q_proj"]},
        {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "c_attn"], "layers_to_transform": 1, "layers_pattern": "h"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "l.*s"]},
        {"target_modules": ["q_proj"], "layers_to_transform": []},
    ],
)
def test_targets_are_those_of_peft(config: Mapping[str, Any]) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists

    def theirs(module: str) -> bool:
        found = check_target_module_exists(LoraConfig(**config), module)
        return bool(found) and not isinstance(found, _ExcludedModule)

    assert not list(check_targets(config))
    ours = Targets(config, Clock())
    assert {m: ours(m) for m in MODULES} == {m: theirs(m) for m in MODULES}


@settings(deadline=None)  # the first example imports PEFT
@given(
    st.dictionaries(
        st.sampled_from(
            (
                "q_proj", "q.proj", "proj", "0.self_attn.q_proj", "self_attn", ".*", "(.)1.*",
                "^model.*up_proj", "^q_proj", r"model\.layers\.(0|1)\..*k_proj", "k_proj$",
                "lm_head|up_proj",
            )
        ),
        st.integers(1, 512),
    )
)  # fmt: skip
def test_the_first_key_that_matches_counts_as_in_peft(pattern: Mapping[str, int]) -> None:
    from peft.utils.other import get_pattern_key

    ours = Scales({"r": 7, "rank_pattern": pattern})
    for module in MODULES:
        assert ours.rank(module) == pattern.get(get_pattern_key([*pattern], module), 7)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("(", "not a regular expression"),
        ("*", "not a regular expression"),
        ("(?<=a*)b", "not a regular expression"),
        (r"\p{L}+", "read differently"),
        (r"\m.+", "not a regular expression"),
        ("(" * 3000 + ")" * 3000, "not a regular expression"),
        ("(?:(?:(?:a{1000}){1000}){1000})", "repeats more than"),
        ("(?:a{,90}){2,90}", "repeats more than"),
        ("(?:q_proj){e<=3}", "read differently"),
        ("[[:alpha:]_]+", "read differently"),
        ("a" * 9000, "more than 8192 characters"),
        (UNSLOTH, ""),
        ("(a+)+$", ""),
        ("x{0}y{2}", ""),
    ],
)
def test_expressions_that_cannot_be_run(expression: str, said: str) -> None:
    assert said in problem(expression)
    assert bool(said) == bool(problem(expression))


@pytest.mark.parametrize(
    "config",
    [
        {"rank_pattern": {"(?:.|.|.)*y": 8}},
        {"alpha_pattern": {"q_proj": 3, "(?:.|.|.)*y": 8}},
        {"target_modules": "(?:.|.|.)*y"},
        {"exclude_modules": "(?:.|.|.)*y"},
        {"layers_to_transform": [1], "layers_pattern": ["(?:.|.|.)*[jJ]"]},
        {"rank_pattern": {f"{n}.q_proj{n}": 8 for n in range(3000)}},
    ],
    ids=lambda config: " ".join(config),
)
def test_expressions_that_do_not_end_are_stopped(
    make_adapter: MakeAdapter, config: Mapping[str, Any]
) -> None:
    folder, started = make_adapter(config=config), time.thread_time()
    with pytest.raises(InvalidAdapter, match="Name modules plainly"):
        check_adapter(folder, LLAMA)
    assert time.thread_time() - started < 6


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"target_modules": ["q_proj", 7]}, "target_modules"),
        ({"target_modules": {"q_proj": 1}}, "target_modules"),
        ({"target_modules": "q_proj("}, "target_modules"),
        ({"exclude_modules": "["}, "exclude_modules"),
        ({"exclude_modules": 7}, "exclude_modules"),
        ({"target_modules": "q_proj", "layers_to_transform": [0]}, "layers_to_transform"),
        ({"layers_to_transform": "0"}, "layers_to_transform"),
        ({"layers_to_transform": [0, None]}, "layers_to_transform"),
        ({"layers_to_transform": True}, "layers_to_transform"),
        ({"layers_pattern": "layers"}, "layers_pattern"),
        ({"layers_to_transform": 0, "layers_pattern": ["("]}, "layers_pattern"),
        ({"layers_to_transform": 0, "layers_pattern": ["(?P<idx>.)"]}, "layers_pattern"),
        ({"rank_pattern": {"(?i)q_proj": 4}}, "rank_pattern"),
        ({"target_parameters": ["weight"]}, "target_parameters"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters"),
        ({"target_parameters": ["embed_tokens.weight"]}, "target_parameters"),
        ({"target_parameters": "up_proj.weight"}, "target_parameters"),
        (
            {"target_parameters": ["up_proj.weight"], "rank_pattern": {"up_proj": 4}},
            "target_parameters",
        ),
    ],
)
def test_fields_that_peft_does_not_load(
    make_adapter: MakeAdapter, config: Mapping[str, Any], where: str
) -> None:
    found = check_adapter(make_adapter(config=config), LLAMA).findings
    assert [finding.where for finding in found] == [where]
