"""Gemma 1 to 4. Norms up to the third store their weight less one; embeddings are scaled.

mlx-lm's Gemma 1 computes the exact GELU whatever the config says, and its Gemma 2 lets every layer
see everything; so does this. docs/models.md says what that means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxone.formats.config import Config
from mlxone.models.families.family import Family
from mlxone.models.families.reading import (
    attention_kinds,
    attention_spec,
    every,
    in_bfloat16,
    known_rope,
    layer_count,
    norm_spec,
    unsupported,
)
from mlxone.models.spec import (
    AttentionSpec,
    DenseAndExpertsSpec,
    DenseSpec,
    ExpertsSpec,
    FeedForwardSpec,
    HeadNorm,
    LogitsSpec,
    MixerSpec,
    NormSpec,
    PerLayerInputSpec,
    RopeSpec,
    RouterSpec,
)

GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu")
PLAIN: Mapping[str, tuple[Any, ...]] = {"use_bidirectional_attention": (False,), "attention_bias": (False,)}
SIZES = {"rms_norm_eps": 1e-6, "head_dim": 256, "tie_word_embeddings": True}
GEMMA4_ROPE = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


def _scaled(config: Config) -> dict[str, Any]:
    return {"embedding_scale": config.count("hidden_size") ** 0.5}


def _gemma2(config: Config) -> dict[str, Any]:
    return {**_scaled(config), "logits": LogitsSpec(softcap=_cap(config, "final_logit_softcapping"))}


def _cap(config: Config, key: str) -> float | None:
    """None where the config says null, or says nothing and the family has no default."""
    return config.positive(key) if key in config and not config.is_null(key) else None


def _gemma3(config: Config) -> dict[str, Any]:
    scale = in_bfloat16(config.count("hidden_size") ** 0.5)
    return {"embedding_scale": scale, "clipped_residual": True}


def _gemma4(config: Config) -> dict[str, Any]:
    dims = _size_or_none(config, "hidden_size_per_layer_input")
    own = PerLayerInputSpec(dims, config.count("vocab_size_per_layer_input")) if dims else None
    return {
        **_scaled(config),
        "per_layer_input": own,
        "layer_scale": True,
        "logits": LogitsSpec(softcap=_cap(config, "final_logit_softcapping")),
    }


def _size_or_none(config: Config, key: str) -> int:
    """A size, or nothing where the config says 0 or null."""
    return 0 if config.is_null(key) or config.get(key) == 0 else config.count(key)


def _gemma4_mixers(family: Family, config: Config) -> list[MixerSpec | None]:
    kinds = attention_kinds(family, config)
    first_shared = _first_shared(config)
    kept = set(kinds[:first_shared])
    if kinds[-1] == "sliding":  # transformers makes it a full one, mlx-lm does not
        raise unsupported(family, config, "a sliding last layer")
    if not set(kinds) <= kept:
        raise config.wrong("num_kv_shared_layers", "so few that each kind of layer is kept once")
    return [_gemma4_attention(family, config, kind, i >= first_shared, i) for i, kind in enumerate(kinds)]


def _first_shared(config: Config) -> int:
    count, shared = layer_count(config), _size_or_none(config, "num_kv_shared_layers")
    if shared >= count:
        raise config.wrong("num_kv_shared_layers", f"below num_hidden_layers ({count})")
    return count - shared


def _gemma4_sizes(family: Family, config: Config, full: bool, index: int) -> tuple[int, int]:
    """Key heads and the dimensions of one; transformers 5 writes those that differ layer by layer."""
    kv_heads, dims = config.count("num_key_value_heads"), config.count("head_dim")
    by_layer = config.section("per_layer_config")
    if by_layer:
        own = Config(by_layer, source=f"{config.source}: per_layer_config").section(str(index))
        for key in own.keys() - {"head_dim", "num_key_value_heads"}:
            raise unsupported(family, config, f"per_layer_config of {str(key)[:40]!r}")
        stated = Config(own, source=f"{config.source}: per_layer_config.{index}")
        return stated.count("num_key_value_heads", kv_heads), stated.count("head_dim", dims)
    if not full:
        return kv_heads, dims
    if config.flag("attention_k_eq_v"):
        kv_heads = config.count("num_global_key_value_heads", kv_heads)
    return kv_heads, _size_or_none(config, "global_head_dim") or dims


def _gemma4_attention(family: Family, config: Config, kind: str, shared: bool, index: int) -> AttentionSpec:
    full, heads = kind == "full", config.count("num_attention_heads")
    kv_heads, dims = _gemma4_sizes(family, config, full, index)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    norm = NormSpec(config.positive("rms_norm_eps"))
    rope = _gemma4_rope(config, kind, dims)
    return AttentionSpec(
        heads, kv_heads, dims, scale=1.0, rope=rope, window=None if full else config.count("sliding_window"),
        head_norm=HeadNorm(norm), value_norm=norm, values_are_keys=full and config.flag("attention_k_eq_v"),
        shared=shared,
    )  # fmt: skip


def _gemma4_rope(config: Config, kind: str, dims: int) -> RopeSpec:
    stated = config.section("rope_parameters").get(f"{kind}_attention")
    if not isinstance(stated, dict):
        raise config.wrong("rope_parameters", f"an object with {kind}_attention")
    own = Config(stated, source=f"{config.source}: rope_parameters")
    return RopeSpec(
        dims, own.positive("rope_theta", 10_000.0), config.flag("rope_traditional", False),
        known_rope(config, stated),
        trained_context=config.get("max_position_embeddings"),
    )  # fmt: skip


def _gemma4_feed_forwards(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    size, wide = config.count("intermediate_size"), config.flag("use_double_wide_mlp")
    first_shared, count = _first_shared(config), layer_count(config)
    dense = [
        DenseSpec(2 * size if wide and i >= first_shared else size, "geglu") for i in range(count)
    ]  # fmt: skip
    if not config.flag("enable_moe_block"):
        return list(dense)
    available = config.count("num_experts")
    router = RouterSpec(
        available, config.count("top_k_experts", most=available), "chosen_softmax", precise=False,
        own_norm=norm_spec(family, config),
    )  # fmt: skip
    experts = ExpertsSpec(router, config.count("moe_intermediate_size"), "geglu")
    return [DenseAndExpertsSpec(own, experts) for own in dense]


def _bounded(family: Family, config: Config) -> list[MixerSpec | None]:
    """Gemma 3 has no caps; a config that states one is of another model."""
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key) is not None:
            raise unsupported(family, config, f"{key}={config[key]}")
    by_kind = {kind: attention_spec(family, config, kind) for kind in ("full", "sliding")}
    return [by_kind[kind] for kind in attention_kinds(family, config)]


GEMMA3_TEXT = {
    **SIZES, "hidden_size": 1152, "num_hidden_layers": 26, "intermediate_size": 6912, "vocab_size": 262144,
    "num_attention_heads": 4, "num_key_value_heads": 1, "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0, "query_pre_attn_scalar": 256, "max_position_embeddings": 131072,
}  # fmt: skip
GEMMA4_TEXT = {
    **SIZES, "global_head_dim": 512, "num_attention_heads": 8, "num_key_value_heads": 4,
    "vocab_size": 262144, "vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 0, "sliding_window": 512, "max_position_embeddings": 131072,
    "attention_k_eq_v": False, "use_double_wide_mlp": False,
    "enable_moe_block": False, "rope_parameters": GEMMA4_ROPE,
}  # fmt: skip
UNIFIED = {
    **GEMMA4_TEXT, "sliding_window": 1024, "max_position_embeddings": 262144,
    "hidden_size_per_layer_input": 0,
}  # fmt: skip
GEMMA4_NAMES = {
    "per_layer_embedding": "model.embed_tokens_per_layer",
    "per_layer_model_projection": "model.per_layer_model_projection",
    "per_layer_projection_norm": "model.per_layer_projection_norm",
    "layer_scale": "layer_scalar",
    "dense_and_experts": "",
    "router": "router",
    "stacked": "experts.switch_glu",
    "after_dense_norm": "post_feedforward_layernorm_1",
    "experts_norm": "pre_feedforward_layernorm_2",
    "after_experts_norm": "post_feedforward_layernorm_2",
}


def _gemma3_row(name: str, defaults: Mapping[str, Any], **more: Any) -> Family:
    return Family(
        name, (name,), defaults, only=PLAIN, norm_plus=1.0, placement="around",
        qkv_bias=False, out_bias=False, mlp_bias=False, head_norm=True, activation="gelu_approx",
        activation_key="hidden_activation", activation_names=GELU, mixers=_bounded,
        sliding_rope_key="rope_local_base_freq", sliding_rope_plain=True, head_by_weights=True,
        scale=lambda config: config.positive("query_pre_attn_scalar") ** -0.5,
        kinds=lambda config, count: every(count, config, "sliding_window_pattern", 6),
        decoder=_gemma3, **more,
    )  # fmt: skip


def _gemma4_row(
    name: str, types: tuple[str, ...], defaults: Mapping[str, Any] = GEMMA4_TEXT, **more: Any
) -> Family:
    return Family(
        name, types, defaults, only={**PLAIN, "use_bidirectional_attention": (False, "vision")},
        names=GEMMA4_NAMES, placement="around", activation="gelu_approx", activation_key="hidden_activation",
        activation_names=GELU, mixers=_gemma4_mixers, feed_forwards=_gemma4_feed_forwards,
        kinds=lambda config, count: every(count, config, "sliding_window_pattern", 6),
        decoder=_gemma4, **more,
    )  # fmt: skip


GEMMA: tuple[Family, ...] = (
    Family("gemma", ("gemma",), {"rope_theta": 10000.0, **SIZES}, {"tie_word_embeddings": False}, PLAIN,
           norm_plus=1.0, qkv_bias=False, out_bias=False, mlp_bias=False, activation="gelu",
           activation_names=GELU, decoder=_scaled),
    Family("gemma2", ("gemma2",),
           {"rope_theta": 10000.0, **SIZES, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
           {"tie_word_embeddings": False}, PLAIN, norm_plus=1.0, placement="around", qkv_bias=False,
           out_bias=False, mlp_bias=False, activation="gelu_approx", activation_key="hidden_activation",
           activation_names=GELU, reads_layer_types=False,
           scale=lambda config: 1.0 / config.positive("query_pre_attn_scalar") ** 0.5,
           attention=lambda config: {"softcap": _cap(config, "attn_logit_softcapping")},
           decoder=_gemma2),
    _gemma3_row("gemma3_text", GEMMA3_TEXT),
    _gemma3_row("gemma3", {**GEMMA3_TEXT, "num_attention_heads": 8, "num_key_value_heads": 4,
                           "vocab_size": 262208}, prefix="language_model."),
    _gemma4_row("gemma4_text", ("gemma4_text",)),
    _gemma4_row("gemma4", ("gemma4",), prefix="language_model."),
    _gemma4_row("gemma4_unified", ("gemma4_unified",), UNIFIED, prefix="language_model."),
)  # fmt: skip
