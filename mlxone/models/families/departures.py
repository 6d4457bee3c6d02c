"""Where mlx-lm, and so this, computes something else than the code that a model was published with.

One row for each such thing: what docs/models.md and `mlxone models` print of it, and how a config shows
that it concerns this very model. `departures(config)` says that in lines that follow a model's name:
"sees all tokens where the published model sees the last 4,096: differs in texts longer than that".
Imports no MLX. tests/models/test_departures.py holds it against the cases of tests/oracle/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mlxone.formats.config import Config, is_number
from mlxone.models.families.reading import ROPE_KINDS
from mlxone.models.families.table import spec_of, text_model
from mlxone.models.spec import AttentionSpec, DecoderSpec, LatentSpec, Mamba2Spec, RopeSpec, yarn_magnitude

ANY = "any"  # in place of a family: every one that computes this at all
# What the publisher's configuration class says where a config does not say anything, not even null.
UNSAID_WINDOW: Mapping[str, int] = {"mistral": 4096, "mistral3": 4096, "gemma2": 4096}
NULL_WINDOW = "none published: they say null"


@dataclass(frozen=True, slots=True)
class Read:
    """A config as it is understood here."""

    config: Config  # the text model's own, with what it may leave out
    spec: DecoderSpec


@dataclass(frozen=True, slots=True)
class Departure:
    setting: str  # as configs spell it
    computed: str
    matters: Mapping[str, str]  # family -> for which published models
    # Of one config: what the published model does, and which texts differ; nothing where none does.
    published: Callable[[Read], str]


def departures(config: Config) -> tuple[str, ...]:
    """Of a config that can be read at all; an error says otherwise, as `spec_of` does."""
    read = Read(text_model(config)[1], spec_of(config))
    found = []
    for departure in DEPARTURES:
        concerned = ANY in departure.matters or read.spec.family in departure.matters
        if concerned and (published := departure.published(read)):
            found.append(f"{departure.computed} where the published model {published}")
    return tuple(found)


def of_family(name: str) -> list[Departure]:
    return [departure for departure in DEPARTURES if name in departure.matters]


# What of one config shows it -------------------------------------------------------------------


def _window(read: Read) -> str:
    config, family, longest = read.config, read.spec.family, read.spec.context_length
    if family == "mistral3" and config.get("model_type") == "llama":  # a frame around another model
        return ""
    unsaid = None if config.is_null("sliding_window") else UNSAID_WINDOW.get(family)
    window = config.get("sliding_window", unsaid)
    if type(window) is not int or window < 1 or (longest is not None and window >= longest):
        return ""
    windows = [layer.mixer.window for layer in read.spec.layers if isinstance(layer.mixer, AttentionSpec)]
    meant = _gemma2_slides(config, len(windows)) if family == "gemma2" else [True] * len(windows)
    if not any(slides and own is None for slides, own in zip(meant, windows, strict=True)):
        return ""
    where = "" if all(meant) else " in some layers"
    return f"sees the last {window:,}{where}: differs in texts longer than that"


def _gemma2_slides(config: Config, count: int) -> list[bool]:
    stated = config.get("layer_types")
    if isinstance(stated, list) and len(stated) == count:
        return [kind == "sliding_attention" for kind in stated]
    return [i % 2 == 0 for i in range(count)]


def _exact_gelu(read: Read) -> str:
    """In a config of Gemma's, plain "gelu" is an old name of the approximation."""
    exact = read.spec.family != "gemma" and read.config.get("hidden_act") == "gelu"
    return "" if exact else "approximates it by tanh: differs in every text, by 1e-4 to 2e-4"


def _short_factors(read: Read) -> str:
    for rope in _ropes(read, "longrope"):
        short, long = rope.scaling.get("short_factor"), rope.scaling.get("long_factor")
        if short is not None and _each(short, rope) != _each(long, rope):
            trained = rope.scaling.get("original_max_position_embeddings")
            upto = f"{int(trained):,}" if is_number(trained) else "original_max_position_embeddings"
            return f"takes the short ones up to {upto} tokens: differs in texts up to there"
    return ""


def _each(factors: object, rope: RopeSpec) -> list[object]:
    listed = factors if isinstance(factors, list) else [factors]
    return listed * (rope.dims // 2) if len(listed) == 1 else listed


def _yarn_ends(read: Read) -> str:
    kept = any(rope.scaling.get("truncate") is False for rope in _generic_yarn(read))
    return "does not: differs by little, and more the longer a text is" if kept else ""


def _yarn_weights(read: Read) -> str:
    """transformers takes the two together or not at all. A stated result is never passed over."""
    for rope in _generic_yarn(read):
        stated = rope.scaling.get
        factor, one, other = stated("factor"), stated("mscale", 1.0), stated("mscale_all_dim", 0.0)
        together = bool(stated("mscale")) and bool(stated("mscale_all_dim"))
        if together or stated("attention_factor") is not None:
            continue
        if is_number(factor) and is_number(one) and is_number(other):
            theirs, divisor = yarn_magnitude(factor, 1.0), yarn_magnitude(factor, other)
            ours = yarn_magnitude(factor, one) / divisor if divisor > 0 else theirs
            if not math.isclose(ours, theirs, rel_tol=1e-6):
                return f"does by {theirs:.4g} in place of {ours:.4g}: differs in every text"
    return ""


def _generic_yarn(read: Read) -> Iterator[RopeSpec]:
    """DeepSeek's own code reads yarn's settings as mlx-lm does."""
    return iter(()) if read.spec.family.startswith("deepseek") else _ropes(read, "yarn")


def _ropes(read: Read, kind: str) -> Iterator[RopeSpec]:
    for layer in read.spec.layers:
        rope = layer.mixer.rope if isinstance(layer.mixer, AttentionSpec | LatentSpec) else None
        if rope is not None:
            stated = rope.scaling.get("type") or rope.scaling.get("rope_type")
            if isinstance(stated, str) and ROPE_KINDS.get(stated) == kind:
                yield rope


def _step_limits(read: Read) -> str:
    if "time_step_limit" in read.config or not _mamba(read):
        return ""
    return "does not limit them: differs where a head's steps are shorter than 0.001"


def _one_norm(read: Read) -> str:
    if any(mamba.groups > 1 for mamba in _mamba(read)):
        return "takes one for each group: differs in every text"
    return ""


def _mamba(read: Read) -> list[Mamba2Spec]:
    return [layer.mixer for layer in read.spec.layers if isinstance(layer.mixer, Mamba2Spec)]


# The rows --------------------------------------------------------------------------------------

DEPARTURES: tuple[Departure, ...] = (
    Departure(
        "sliding_window", "sees all tokens",
        {
            "mistral": "Mistral-7B-v0.1 and its children, beyond 4,096 tokens",
            "mistral3": NULL_WINDOW,
            "ministral3": f"{NULL_WINDOW} (with layer_types it is computed)",
            "mixtral": NULL_WINDOW,
            "phi3": "Phi-3-mini-4k and -medium-4k, beyond 2,047 tokens",
            "starcoder2": "all of them, beyond 4,096 tokens",
            "gemma2": "all of them, beyond 4,096 tokens",
        },
        _window,
    ),
    Departure(
        "hidden_act: gelu_pytorch_tanh", "computes the exact GELU",
        {"starcoder2": "all of them: 1e-4 to 2e-4 away", "gemma": "all of them, also where it says gelu"},
        _exact_gelu,
    ),
    Departure(
        "rope_scaling of longrope", "takes rope's long factors at any length",
        {
            "phi3": "Phi-3 and 3.5 mini and medium with 128k, Phi-4-mini: texts up to 4,096 tokens",
            ANY: "none published: MiniCPM's short and long factors are the same",
        },
        _short_factors,
    ),
    Departure(
        "rope_scaling: truncate: false", "rounds the ends of yarn's ramp",
        {
            "gpt_oss": "both: it shows after some thousand tokens",
            ANY: "none known; DeepSeek's own code does so too",
        },
        _yarn_ends,
    ),
    Departure(
        "rope_scaling of yarn: mscale without mscale_all_dim, or that alone",
        "sharpens attention by one of mscale and mscale_all_dim",
        {ANY: "none known; DeepSeek's own code does so too"},
        _yarn_weights,
    ),
    Departure(
        "time_step_limit that is not stated", "limits Mamba's time steps to between 0.001 and 100",
        {"granitemoehybrid": "those that do not state it, where a head's steps are shorter than 0.001"},
        _step_limits,
    ),
    Departure(
        "mamba_n_groups above 1", "takes one norm over all groups of Mamba",
        {"granitemoehybrid": "none published: all have 1"},
        _one_norm,
    ),
)  # fmt: skip
