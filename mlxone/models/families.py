"""The families of the universal decoder: one row each. A new family of this shape is a row.

A row says which `model_type`s it serves, what their configs may leave out, and where the family
departs from the plain llama decoder. Numbers come from config.json; a row never holds sizes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.spec import AttentionKind, DecoderSpec, LayerSpec, RopeSpec


def _every_fourth_layer_without(config: Config, layers: int) -> list[bool]:
    """SmolLM3: `no_rope_layers` has a 1 where a layer does use rotary positions."""
    stated = config.get("no_rope_layers")
    if stated is None:
        interval = config.count("no_rope_layer_interval", 4)
        return [(i + 1) % interval != 0 for i in range(layers)]
    if not isinstance(stated, list) or len(stated) != layers:
        raise config.wrong("no_rope_layers", f"a list of {layers} values")
    return [bool(v) for v in stated]


def _every_layer(config: Config, layers: int) -> list[bool]:
    return [True] * layers


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    model_types: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    qk_norm: bool = False
    qkv_bias: bool | None = None  # None: the config's attention_bias decides, for both
    out_bias: bool | None = None
    head_dim_from_config: bool = True  # False: always hidden_size / heads
    rope_layers: Callable[[Config, int], list[bool]] = _every_layer
    sliding_layers: bool = True  # False: mlx-lm takes every layer as full, whatever layer_types says
    refuses: Mapping[str, Any] = field(default_factory=dict)  # settings that would compute other numbers


# Lists of this length are made before the weights are looked at; published models stay below 200.
MAX_LAYERS = 10_000
_LLAMA_DEFAULTS = {"rope_theta": 10000.0, "tie_word_embeddings": True}

FAMILIES: tuple[Family, ...] = (
    Family("llama", ("llama",), _LLAMA_DEFAULTS),
    Family("mistral", ("mistral",), _LLAMA_DEFAULTS),
    Family(
        "qwen2",
        ("qwen2",),
        {"rope_theta": 1_000_000.0, "tie_word_embeddings": True, "max_position_embeddings": 32768},
        qkv_bias=True,
        out_bias=False,
        head_dim_from_config=False,
        sliding_layers=False,
        refuses={"use_sliding_window": True},
    ),
    Family(
        "qwen3",
        ("qwen3",),
        qk_norm=True,
        sliding_layers=False,
        refuses={"use_sliding_window": True, "rope_traditional": True},
    ),
    Family(
        "smollm3",
        ("smollm3",),
        _LLAMA_DEFAULTS,
        rope_layers=_every_fourth_layer_without,
        refuses={"use_sliding_window": True},
    ),
)

BY_MODEL_TYPE: Mapping[str, Family] = {t: family for family in FAMILIES for t in family.model_types}


def family_of(config: Config) -> Family:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise config.wrong("model_type", "the name of an architecture")
    if model_type in BY_MODEL_TYPE:
        return BY_MODEL_TYPE[model_type]
    known = sorted(BY_MODEL_TYPE)
    near = difflib.get_close_matches(model_type, known, n=3, cutoff=0.4)
    raise UnsupportedModel(
        f"architecture {model_type[:60]!r} is not supported",
        hint=f"{'nearest: ' + ', '.join(near) + '; ' if near else ''}supported: {', '.join(known)}",
    )


def spec_of(config: Config) -> DecoderSpec:
    family = family_of(config)
    config = config.with_defaults(family.defaults)
    _refuse(family, config)
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    layers = config.count("num_hidden_layers", most=MAX_LAYERS)
    kv_heads = config.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    head_dim = _head_dim(family, config, hidden, heads)
    kinds = _attention_kinds(family, config, layers)
    attention_bias = config.flag("attention_bias", False)
    return DecoderSpec(
        family=family.name,
        vocab_size=config.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=config.count("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=config.positive("rms_norm_eps"),
        layers=_layers(family, config, kinds, head_dim),
        window=config.count("sliding_window") if "sliding" in kinds else None,
        tied_head=config.flag("tie_word_embeddings", False),
        qk_norm=family.qk_norm,
        qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
        out_bias=attention_bias if family.out_bias is None else family.out_bias,
        mlp_bias=config.flag("mlp_bias", False),
        context_length=config.count("max_position_embeddings")
        if "max_position_embeddings" in config
        else None,
    )


def _head_dim(family: Family, config: Config, hidden: int, heads: int) -> int:
    if family.head_dim_from_config and "head_dim" in config:
        head_dim = config.count("head_dim")
    elif hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden})")
    else:
        head_dim = hidden // heads
    if head_dim % 2:
        raise DamagedModel(f"{config.source}: head_dim is {head_dim}, rotary positions need an even number")
    return head_dim


def _refuse(family: Family, config: Config) -> None:
    for key, value in family.refuses.items():
        if config.get(key) == value:
            raise UnsupportedModel(f"{config.source}: {family.name} with {key}={value} is not supported")
    if config.number("partial_rotary_factor", 1.0) != 1:
        raise UnsupportedModel(f"{config.source}: {family.name} with partial_rotary_factor is not supported")
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModel(
            f"{config.source}: {family.name} with hidden_act={str(activation)[:40]!r} is not supported"
        )


def _attention_kinds(family: Family, config: Config, layers: int) -> list[AttentionKind]:
    """Without `layer_types` every layer is full: a bare `sliding_window` has no effect in mlx-lm either."""
    stated = config.get("layer_types")
    if stated is None:
        return ["full"] * layers
    names: dict[Any, AttentionKind] = {"full_attention": "full", "sliding_attention": "sliding"}
    if not isinstance(stated, list) or len(stated) != layers or not all(isinstance(v, str) for v in stated):
        raise config.wrong("layer_types", f"a list of {layers} names")
    for kind in stated:
        if kind not in names:
            raise UnsupportedModel(f"{config.source}: layer type {kind[:40]!r} is not supported")
    if "sliding_attention" in stated and not family.sliding_layers:
        raise UnsupportedModel(f"{config.source}: {family.name} with sliding layers is not supported")
    return [names[kind] for kind in stated]


def _layers(
    family: Family, config: Config, kinds: list[AttentionKind], head_dim: int
) -> tuple[LayerSpec, ...]:
    rope = _rope(config, head_dim)
    rotated = family.rope_layers(config, len(kinds))
    return tuple(LayerSpec(kind, rope if uses else None) for kind, uses in zip(kinds, rotated, strict=True))


def _rope(config: Config, head_dim: int) -> RopeSpec:
    # transformers 5 nests what used to be two keys under rope_parameters.
    nested = config.section("rope_parameters")
    if any(isinstance(v, dict) for v in nested.values()):
        raise UnsupportedModel(f"{config.source}: rope_parameters per kind of layer are not supported")
    inside = nested.get("rope_theta") is not None
    place = Config(nested, source=f"{config.source}: rope_parameters") if inside else config
    return RopeSpec(
        dims=head_dim,
        base=place.positive("rope_theta"),
        traditional=config.flag("rope_traditional", False),
        scaling=config.section("rope_scaling") or nested,
        trained_context=config.get("max_position_embeddings"),
    )
