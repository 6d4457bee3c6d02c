"""What rows of the table share: one value of a config read and checked, one list of layers made.

A row (`family.Family`) says where its family departs from the plain llama decoder; these functions
know what to do with that. Numbers come from config.json; a row never holds sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.spec import (
    AttentionSpec,
    DenseSpec,
    FeedForwardSpec,
    HeadNorm,
    LayerSpec,
    MixerSpec,
    NormSpec,
    RopeSpec,
)

if TYPE_CHECKING:
    from mlxone.models.families.family import Family

Kind = Literal["full", "sliding"]
# Lists of this length are made before the weights are looked at; published models stay below 200.
MAX_LAYERS = 10_000
# What configs call the kinds of rope scaling, and which of them mean the same.
ROPE_KINDS: Mapping[str, str] = {
    **{kind: kind for kind in ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional")},
    "mrope": "default", "deepseek_yarn": "yarn", "su": "longrope",
}  # fmt: skip
KIND_NAMES: Mapping[str, Kind] = {"full_attention": "full", "sliding_attention": "sliding"}


def unsupported(family: Family, config: Config, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"{config.source}: {family.name} with {what} is not supported")


def layer_count(config: Config) -> int:
    return config.count("num_hidden_layers", most=MAX_LAYERS)


def whole(config: Config, key: str, default: int | None = None) -> int:
    """Of what may be none at all."""
    value = config.get(key, default)
    if type(value) is not int or not 0 <= value < 2**31:
        raise config.wrong(key, "a whole number of at least 0")
    return value


def whole_numbers(config: Config, key: str) -> list[int]:
    value = config.get(key, [])
    if not isinstance(value, list) or not all(type(number) is int for number in value):
        raise config.wrong(key, "a list of whole numbers")
    return value


def norm_spec(family: Family, config: Config) -> NormSpec:
    return NormSpec(
        config.positive(family.norm_key), family.norm, family.norm_plus, _flag(config, family.norm_bias)
    )


def head_sizes(family: Family, config: Config) -> tuple[int, int, int]:
    """Heads of the queries, of the keys, and the dimensions of one."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if family.head_dim_from_config and "head_dim" in config:
        head_dim = config.count("head_dim")
    elif hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden})")
    else:
        head_dim = hidden // heads
    return heads, kv_heads, head_dim


def attention_kinds(family: Family, config: Config) -> list[Kind]:
    """Without `layer_types` and a pattern of the family's every layer is full: a bare `sliding_window`
    has no effect in mlx-lm either."""
    count, stated = layer_count(config), config.get("layer_types")
    kinds: list[Kind]
    if stated is None or not family.reads_layer_types:
        kinds = family.kinds(config, count) if family.kinds is not None else ["full"] * count
    else:
        kinds = stated_kinds(config, count)
    if "sliding" in kinds and family.ignores_windows:
        raise unsupported(family, config, "sliding layers")
    return kinds


def stated_kinds(config: Config, count: int, names: Mapping[str, Any] = KIND_NAMES) -> list[Any]:
    stated = config.get("layer_types")
    if not isinstance(stated, list) or len(stated) != count or not all(isinstance(v, str) for v in stated):
        raise config.wrong("layer_types", f"a list of {count} names")
    for kind in stated:
        if kind not in names:
            raise UnsupportedModel(f"{config.source}: layer type {kind[:40]!r} is not supported")
    return [names[kind] for kind in stated]


def every(count: int, config: Config, key: str, default: int) -> list[Kind]:
    """One layer in so many is full, the last of each group."""
    pattern = config.count(key, default)
    return ["full" if (i + 1) % pattern == 0 else "sliding" for i in range(count)]


def attention_layers(family: Family, config: Config) -> list[MixerSpec | None]:
    kinds = attention_kinds(family, config)
    rotated = [True] * len(kinds) if family.rotated is None else family.rotated(config, kinds)
    by_kind: dict[tuple[Kind, bool], AttentionSpec] = {}
    for own in zip(kinds, rotated, strict=True):
        if own not in by_kind:
            by_kind[own] = attention_spec(family, config, *own)
    return [by_kind[own] for own in zip(kinds, rotated, strict=True)]


def attention_spec(
    family: Family, config: Config, kind: Kind = "full", rotated: bool = True
) -> AttentionSpec:
    heads, kv_heads, head_dim = head_sizes(family, config)
    bias = config.flag("attention_bias", False)
    return AttentionSpec(
        heads,
        kv_heads,
        head_dim,
        scale=head_dim**-0.5 if family.scale is None else family.scale(config),
        rope=rope_spec(family, config, head_dim, kind) if rotated else None,
        window=config.count("sliding_window") if kind == "sliding" else None,
        qkv_bias=bias if family.qkv_bias is None else _flag(config, family.qkv_bias),
        out_bias=bias if family.out_bias is None else _flag(config, family.out_bias),
        fused=family.fused_qkv,
        head_norm=_head_norm(family, config),
        **({} if family.attention is None else family.attention(config)),
    )


def _head_norm(family: Family, config: Config) -> HeadNorm | None:
    if not _flag(config, family.head_norm):
        return None
    eps = config.positive(family.norm_key)
    own = NormSpec(eps, "rms", family.norm_plus)
    return HeadNorm(own, family.head_norm_reach, family.head_norm_after_rope)


def dense_layers(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    return [dense_spec(family, config)] * layer_count(config)


def dense_spec(family: Family, config: Config, key: str = "intermediate_size") -> DenseSpec:
    return DenseSpec(
        config.count(key),
        family.activation,
        bias=_flag(config, family.mlp_bias),
        gated=family.gated,
        fused=family.fused_gate_up,
    )


def rope_spec(family: Family, config: Config, head_dim: int, kind: Kind = "full") -> RopeSpec:
    """transformers 5 nests what used to be two keys under rope_parameters, some by kind of layer."""
    nested = config.section("rope_parameters")
    own = nested.get(f"{kind}_attention")
    if isinstance(own, dict):
        nested = own
    elif any(isinstance(v, dict) for v in nested.values()):
        raise unsupported(family, config, f"rope_parameters without {kind}_attention")
    inner = Config(nested, source=f"{config.source}: rope_parameters")
    base_key = family.sliding_rope_key if kind == "sliding" and family.sliding_rope_key else "rope_theta"
    base = inner.positive("rope_theta") if "rope_theta" in inner else config.positive(base_key)
    scaling = config.section("rope_scaling") or nested
    if kind == "sliding" and family.sliding_rope_plain and not isinstance(own, dict):
        scaling = {}
    return RopeSpec(
        rotary_dims(family, config, inner, head_dim),
        base,
        family.rope_traditional or config.flag("rope_traditional", False),
        known_rope(config, scaling if family.rope is None else family.rope(config, scaling)),
        trained_context=config.get("max_position_embeddings"),
    )


def known_rope(config: Config, scaling: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scaling, if it is of a kind that `models.rope` computes. Both keys are in use for its name."""
    scaling = {key: value for key, value in scaling.items() if value is not None}
    kinds = [scaling[key] for key in ("type", "rope_type") if key in scaling]
    for kind in kinds:
        if not isinstance(kind, str) or kind not in ROPE_KINDS:
            raise UnsupportedModel(
                f"{config.source}: rope scaling {str(kind)[:40]!r} is not supported",
                hint=f"supported: {', '.join(sorted(ROPE_KINDS))}",
            )
    if len({ROPE_KINDS[kind] for kind in kinds}) > 1:
        raise DamagedModel(f"{config.source}: rope scaling is of type {kinds[0]!r} and of {kinds[1]!r}")
    return scaling


def rotary_dims(family: Family, config: Config, inner: Config, head_dim: int) -> int:
    """Of one head; part of them where the family allows it."""
    share = inner.number("partial_rotary_factor", config.number("partial_rotary_factor", family.partial_rope))
    if share != 1 and not family.partial:
        raise unsupported(family, config, "partial_rotary_factor")
    dims = int(head_dim * share)
    if dims < 2 or dims % 2 or dims > head_dim:
        raise DamagedModel(
            f"{config.source}: rotary positions over {dims} of the {head_dim} dimensions of a head; "
            "they need an even number"
        )
    return dims


def numbered(
    mixers: Sequence[MixerSpec | None], feed_forwards: Sequence[FeedForwardSpec | None]
) -> tuple[LayerSpec, ...]:
    """Each layer that remembers gets a state of its own; one that shares, the last one of its kind's."""
    layers: list[LayerSpec] = []
    own: dict[str, int] = {}
    count = 0
    for mixer, fed in zip(mixers, feed_forwards, strict=True):
        layer = LayerSpec(mixer, fed, None)
        if layer.remembers:
            own[layer.mask] = count
            layer, count = LayerSpec(mixer, fed, count), count + 1
        elif mixer is not None:
            layer = LayerSpec(mixer, fed, own[layer.mask])
        layers.append(layer)
    return tuple(layers)


def in_bfloat16(value: float) -> float:
    """The nearest value that bfloat16 has; ties to even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    bits += 0x7FFF + (bits >> 16 & 1)
    (rounded,) = struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))
    return float(rounded)


def _flag(config: Config, setting: bool | str) -> bool:
    """A row says yes or no, or the key of the config that does."""
    return setting if isinstance(setting, bool) else config.flag(setting, False)
