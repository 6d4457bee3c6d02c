"""Families with latent attention.

DeepSeek-V3 is computed as mlx-lm does, over the short vectors themselves; DeepSeek-V2 and MiniCPM3 over
keys and values of every head. Two things are as transformers has them and not as mlx-lm: DeepSeek-V2
without rope_scaling has plain rotary positions (mlx-lm cannot load it), and a tied head of MiniCPM reads
the divided hidden state, as its own head does (mlx-lm leaves the division out there).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxone.formats.config import Config
from mlxone.models.families.family import Family
from mlxone.models.families.mixture import CORRECTED, corrected_router, expert_counts, grouped_counts
from mlxone.models.families.reading import dense_spec, layer_count, rope_spec, whole
from mlxone.models.spec import (
    DenseSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LatentSpec,
    LogitsSpec,
    MixerSpec,
    RopeSpec,
    RouterSpec,
    yarn_magnitude,
)

DEEPSEEK = {
    "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "moe_layer_freq": 1,
}  # fmt: skip


# Attention ------------------------------------------------------------------------------------


def _deepseek_v2(family: Family, config: Config) -> list[MixerSpec | None]:
    return _layers(family, config, norm_eps=1e-6, absorbed=False)


def _deepseek_v3(family: Family, config: Config) -> list[MixerSpec | None]:
    return _layers(family, config, norm_eps=1e-6, absorbed=True)


def _minicpm3(family: Family, config: Config) -> list[MixerSpec | None]:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    if hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden})")
    config = config.with_defaults({"v_head_dim": hidden // heads})
    return _layers(family, config, norm_eps=1e-5, absorbed=False)


def _layers(family: Family, config: Config, *, norm_eps: float, absorbed: bool) -> list[MixerSpec | None]:
    """Norms inside of the attention have an eps of their own, whatever rms_norm_eps says."""
    plain_dim, rope_dim = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
    rope = rope_spec(family, config, rope_dim)
    spec = LatentSpec(
        heads=config.count("num_attention_heads"),
        query_rank=config.count("q_lora_rank") if "q_lora_rank" in config else None,
        kv_rank=config.count("kv_lora_rank"),
        plain_dim=plain_dim,
        rope_dim=rope_dim,
        value_dim=config.count("v_head_dim"),
        scale=_scale(config, rope, plain_dim + rope_dim),
        rope=rope,
        bias=config.flag("attention_bias", False),
        norm_eps=norm_eps,
        absorbed=absorbed,
    )
    return [spec] * layer_count(config)


def _scale(config: Config, rope: RopeSpec, dims: int) -> float:
    """Yarn's part that is not the rope's: scores grow with the context, too."""
    scaling = Config(rope.scaling, source=f"{config.source}: rope_scaling")
    weight = scaling.number("mscale_all_dim", 0.0)
    if not weight:
        return float(dims**-0.5)
    magnitude = yarn_magnitude(scaling.positive("factor"), weight)
    return float(dims**-0.5 * magnitude * magnitude)


def _longrope(config: Config, scaling: Mapping[str, Any]) -> Mapping[str, Any]:
    """What MiniCPM3's config may leave out."""
    if not scaling or (scaling.get("type") or scaling.get("rope_type")) not in ("longrope", "su", None):
        return scaling
    return {"type": "longrope", "original_max_position_embeddings": 4096, "long_factor": 1.0, **scaling}


# Feed-forward parts -----------------------------------------------------------------------------


def _deepseek_feed_forwards(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    """Experts from a certain layer on, and of those one in so many."""
    count, dense = layer_count(config), dense_spec(family, config)
    if "n_routed_experts" not in config:
        return [dense] * count
    first, every = whole(config, "first_k_dense_replace"), config.count("moe_layer_freq")
    experts = _experts(family, config)
    return [experts if i >= first and i % every == 0 else dense for i in range(count)]


def _experts(family: Family, config: Config) -> ExpertsSpec:
    size, third = config.count("moe_intermediate_size"), family.name == "deepseek_v3"
    shared = DenseSpec(size * config.count("n_shared_experts")) if "n_shared_experts" in config else None
    router = corrected_router(config) if third else _softmax_router(config)
    return ExpertsSpec(router, size, shared=shared, as_input=third)


def _softmax_router(config: Config) -> RouterSpec:
    limited = config.get("topk_method", "greedy") != "greedy"
    counts = grouped_counts(config) if limited else expert_counts(config, "n_routed_experts")
    factor = config.number("routed_scaling_factor")
    return RouterSpec(**counts, scoring="softmax", factor=factor, lowest_first=True)


# The table ----------------------------------------------------------------------------------------


def minicpm_scales(config: Config) -> dict[str, Any]:
    """Sizes chosen for a narrower model carry over to a wider and deeper one by these."""
    return {
        "embedding_scale": config.number("scale_emb"),
        "residual_scale": config.number("scale_depth") / layer_count(config) ** 0.5,
        "logits": LogitsSpec(divide_hidden=config.count("hidden_size") / config.count("dim_model_base")),
    }


LATENT: tuple[Family, ...] = (
    Family("deepseek_v2", ("deepseek_v2",),
           {**DEEPSEEK, "first_k_dense_replace": 0, "routed_scaling_factor": 1.0},
           {"norm_topk_prob": True, "mlp_bias": True},
           {"scoring_func": ("softmax",), "topk_method": ("greedy", "group_limited_greedy")},
           names={"shared": "shared_experts"}, mlp_bias=False, rope_traditional=True, mixers=_deepseek_v2,
           feed_forwards=_deepseek_feed_forwards),
    # Where its publisher's defaults and mlx-lm's differ, the config has to say it.
    Family("deepseek_v3", ("deepseek_v3", "kimi_k2"), DEEPSEEK,
           {"rope_interleave": False, "mlp_bias": True}, CORRECTED, names={"shared": "shared_experts"},
           mlp_bias=False, rope_traditional=True, mixers=_deepseek_v3,
           feed_forwards=_deepseek_feed_forwards,
           unneeded=("model.layers.61.",)),  # guesses the token after next
    Family("minicpm3", ("minicpm3",),
           {"rope_theta": 10000.0, "max_position_embeddings": 32768, "tie_word_embeddings": True},
           {"rope_traditional": True, "mlp_bias": True}, mlp_bias=False, rope=_longrope, mixers=_minicpm3,
           decoder=minicpm_scales),
    Family("minicpm", ("minicpm",), {"rope_theta": 10000.0, "tie_word_embeddings": True},
           {"rope_traditional": True}, {"num_experts": (0,), "sparse_config": ()}, ignores_windows=True,
           head_dim_from_config=False, mlp_bias=False, decoder=minicpm_scales),
)  # fmt: skip
