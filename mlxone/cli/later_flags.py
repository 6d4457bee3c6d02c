"""Flags of `serve` that come with what they switch. Until then each is refused, with how things are today."""

from __future__ import annotations

from mlxone.core.errors import UsageError

_ONE = "requests are answered one after the other"
_AS_THEY_ARE = "keys and values are kept as they are computed"
_NO_GUESSING = "each token is computed in a step of its own"
_ONE_ROAD = "there is one way to compute, and it is exact"
_IN_MEMORY = "the prompt cache lives in memory"
_TONE = "sampling is by temperature, top-p, top-k and min-p"
LATER: dict[str, str] = {
    "--batch": _ONE,
    "--decode-concurrency": _ONE,
    "--prompt-concurrency": _ONE,
    "--max-concurrent": _ONE,
    "--prefill-budget": _ONE,
    "--kv-quant": _AS_THEY_ARE,
    "--prompt-cache-dir": _IN_MEMORY,
    "--prompt-cache-disk": _IN_MEMORY,
    "--spec": _NO_GUESSING,
    "--exact": _ONE_ROAD,
    "--pld": _NO_GUESSING,
    "--no-pld": _NO_GUESSING,
    "--pld-draft-len": _NO_GUESSING,
    "--pld-key-len": _NO_GUESSING,
    "--drafter": _NO_GUESSING,
    "--no-drafter": _NO_GUESSING,
    "--draft-model": _NO_GUESSING,
    "--draft-block-size": _NO_GUESSING,
    "--num-draft-tokens": _NO_GUESSING,
    "--reasoning-budget": "a model thinks for as long as it likes, or with --thinking false not at all",
    "--no-tool-repair": "tools are not offered to models",
    "--store-dir": "no responses are stored",
    "--no-vision": "models answer text only",
    "--no-open": "there is no page to open",
    "--hlg-sampling": _TONE,
    "--hlg-width": _TONE,
    "--hlg-shoulder": _TONE,
    "--hlg-toe": _TONE,
    "--hlg-pivot-offset": _TONE,
    "--expert-offload": "all experts of a model are kept in memory",
    "--compiled-decode": _ONE_ROAD,
    "--perf-kernel": _ONE_ROAD,
    "--fused-decode": _ONE_ROAD,
    "--fused-sdpa": _ONE_ROAD,
    "--force-wire": "a model's memory is wired on Apple silicon unless MLXONE_WIRE=0",
}


def not_built_yet(flag: str, shown_as: str | None = None) -> UsageError:
    return UsageError(f"{shown_as or flag} is not built yet", hint=f"until then {LATER[flag]}")
