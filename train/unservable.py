"""Ways to tune that are known by name and not offered: why, and the nearest one that is served."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.errors import UsageError, nearest

_VIRTUAL = "learns tokens before the prompt, or keys and values for them, and no change of a weight"
_FULL_RANK = "changes each weight by a matrix of full rank, which no B A of a small rank is"
_OWN_FORM = "writes each change in factors of its own form, of which vLLM reads only LoRA's"
_FIX_ONE = "; of one that you have, adapters lint --fix makes a plain LoRA"
_LORA = "--tuner lora"
_MANY = f"{_LORA} with a larger --r{_FIX_ONE}"
_SMALL = f"{_LORA} --r 1 or 2, --target-modules q_proj,v_proj, for few parameters{_FIX_ONE}"
_BEGIN = "--tuner pissa or olora, which begin with the base's own directions too"

_NOT_SERVED = {
    **dict.fromkeys(
        ("prefixtuning", "prompttuning", "ptuning", "ptuningv2", "multitaskprompttuning", "cpt"),
        (_VIRTUAL, f"{_LORA} --target-modules q_proj,v_proj"),
    ),
    **dict.fromkeys(
        ("adaptionprompt", "cartridge"), (_VIRTUAL, f"{_LORA} --target-modules q_proj,v_proj")
    ),
    "trainabletokens": ("trains embeddings of tokens, which LoRA has not", "--tuner full"),
    "ia3": ("scales activations, which is a change of full rank", "--tuner dora" + _FIX_ONE),
    **dict.fromkeys(
        ("adapter", "bottleneck", "houlsby", "pfeiffer"),
        ("puts layers of its own between the base's, which vLLM does not have", _LORA),
    ),
    **dict.fromkeys(("loha", "lokr", "krona", "gralora", "miss", "bone"), (_OWN_FORM, _MANY)),
    **dict.fromkeys(("c3a", "fourierft", "waveft", "hira", "delora"), (_FULL_RANK, _MANY)),
    **dict.fromkeys(("vera", "vblora", "randlora", "tinylora", "unilora"), (_OWN_FORM, _SMALL)),
    **dict.fromkeys(("oft", "boft", "hra", "psoft", "road"), (_FULL_RANK, "--tuner dora")),
    "shira": ("changes single entries of the weights, in no low rank", _MANY),
    **dict.fromkeys(
        (
            "adamss", "deft", "frod", "glora", "lily", "osf", "peanut", "pvera", "shadow",
            "supertuning",
        ),
        (_OWN_FORM, _MANY),
    ),
    **dict.fromkeys(
        ("xlora", "poly"),
        ("mixes adapters anew for each token, where vLLM takes one for a request", _LORA),
    ),
    "adalora": ("gives each module a rank of its own in a form of three factors", _LORA),
    "lntuning": ("trains norms, which LoRA has not", "--tuner full"),
    **dict.fromkeys(
        ("bitfit", "beft"), ("trains biases, which vLLM's LoRA has not", "--tuner full")
    ),
    "freeze": ("trains whole layers", "--tuner full --target-modules NAMES"),
    **dict.fromkeys(
        ("galore", "apollo"),
        ("is an optimizer of all weights", "--tuner full with --optim, as transformers names it"),
    ),
    "qpissa": ("would round again what it took out of the base", "--tuner pissa, or qlora"),
    "qolora": ("would round again what it took out of the base", "--tuner olora, or qlora"),
    **dict.fromkeys(
        ("corda", "loraga", "eva"), ("begins from a dataset's own statistics", _BEGIN)
    ),
    "loftq": ("changes the base itself, so all others on it would be wrong", "--tuner qlora"),
    "rslora": ("is a scale of LoRA", f"{_LORA} --use-rslora"),
    **dict.fromkeys(
        ("loraplus", "lora+"), ("is a rate of LoRA", f"{_LORA} --loraplus-lr-ratio 16")
    ),
}  # fmt: skip
"""By name, lower case, without `-`, `_` and spaces: the reason, and what to use."""


def refusal(tuner: str, offered: Sequence[str]) -> UsageError:
    """Return what to say of a tuner that is not offered."""
    plain = "".join(letter for letter in tuner.lower() if letter not in "-_ ")
    if plain in _NOT_SERVED:
        reason, use = _NOT_SERVED[plain]
        return UsageError(f"No tuner {tuner!r}: it {reason}.", fix=f"Use {use}.")
    close = nearest(tuner, offered)
    return UsageError(f"No tuner {tuner!r}.", fix=close or f"Use {' or '.join(offered)}.")
