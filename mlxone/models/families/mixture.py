"""Families whose layers, or most of them, are mixtures of experts, and what they share with other such.

Where mlx-lm leaves a rope's scaling out (Mixtral, Qwen 2 and 3 MoE, GLM-4 MoE) it is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlxone.core.errors import DamagedModel
from mlxone.formats.config import Config
from mlxone.models.families.dense import GRANITE
from mlxone.models.families.family import Family
from mlxone.models.families.reading import Kind, dense_spec, layer_count, whole, whole_numbers
from mlxone.models.spec import DenseSpec, ExpertsSpec, FeedForwardSpec, RouterSpec


def expert_counts(config: Config, key: str) -> dict[str, Any]:
    """How many there are, and how many of them a token is sent to."""
    experts = config.count(key)
    return {"experts": experts, "chosen": config.count("num_experts_per_tok", most=experts)}


def experts_key(config: Config) -> str:
    """Qwen's name for their number, or the one that transformers 5 gives it."""
    return "num_local_experts" if "num_local_experts" in config else "num_experts"


def sparse_steps(family: Family, config: Config, experts: ExpertsSpec) -> list[FeedForwardSpec | None]:
    """Experts in every so many layers, and in none that `mlp_only_layers` names."""
    count, step = layer_count(config), config.count("decoder_sparse_step", 1)
    stated = whole_numbers(config, "mlp_only_layers")
    is_sparse = [(i + 1) % step == 0 and i not in stated for i in range(count)]
    dense = None if all(is_sparse) else dense_spec(family, config)
    return [experts if sparse else dense for sparse in is_sparse]


def softmax_experts(config: Config, *, shared: bool = False, **router: Any) -> ExpertsSpec:
    """Qwen's, with or without an expert for all tokens."""
    counts = expert_counts(config, experts_key(config))
    return ExpertsSpec(
        RouterSpec(**counts, scoring="softmax", normalised=config.flag("norm_topk_prob", False), **router),
        config.count("moe_intermediate_size"),
        shared=DenseSpec(config.count("shared_expert_intermediate_size")) if shared else None,
        shared_gate=shared,
        as_input=not shared,
    )


def grouped_counts(config: Config) -> dict[str, Any]:
    """DeepSeek's experts come in groups, and each token is sent to experts of a few groups."""
    counts, groups = expert_counts(config, "n_routed_experts"), config.count("n_group")
    if counts["experts"] % groups:
        raise config.wrong("n_group", f"a divisor of n_routed_experts ({counts['experts']})")
    chosen = config.count("topk_group", most=groups)
    if chosen * (counts["experts"] // groups) < counts["chosen"]:
        raise DamagedModel(f"{config.source}: {chosen} groups hold fewer experts than num_experts_per_tok")
    return {**counts, "groups": groups, "chosen_groups": chosen}


# What `corrected_router` computes; a row that uses it says so.
CORRECTED: Mapping[str, tuple[Any, ...]] = {"scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)}


def corrected_router(config: Config, **more: Any) -> RouterSpec:
    """DeepSeek's third: sigmoids, chosen by their sum with a correction, out of the best groups."""
    counts = grouped_counts(config)
    if counts["groups"] > 1 and counts["experts"] // counts["groups"] < 2:
        raise config.wrong("n_group", "so small that each group has two experts")
    return RouterSpec(
        **counts,
        scoring="sigmoid",
        correction="gate.e_score_correction_bias",
        normalised=config.flag("norm_topk_prob", True) and counts["chosen"] > 1,
        factor=config.number("routed_scaling_factor"),
        lowest_first=True,
        **more,
    )


def _mixtral(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    counts = expert_counts(config, "num_local_experts")
    router = RouterSpec(**counts, scoring="chosen_softmax", lowest_first=True)
    return [ExpertsSpec(router, config.count("intermediate_size"))] * layer_count(config)


def _qwen2_moe(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    return sparse_steps(family, config, softmax_experts(config, shared=True, lowest_first=True))


def _qwen3_moe(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    return sparse_steps(family, config, softmax_experts(config))


def _olmoe(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    router = RouterSpec(
        **expert_counts(config, "num_experts"),
        scoring="softmax",
        normalised=config.flag("norm_topk_prob", False),
        lowest_first=True,
    )
    bias = config.flag("mlp_bias", False)
    return [ExpertsSpec(router, config.count("intermediate_size"), bias=bias)] * layer_count(config)


def _gpt_oss(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    counts = expert_counts(config, "num_local_experts")
    router = RouterSpec(**counts, scoring="chosen_softmax", bias=True)
    spec = ExpertsSpec(router, config.count("intermediate_size"), "clipped_silu", bias=True)
    return [spec] * layer_count(config)


def _alternating(config: Config, count: int) -> list[Kind]:
    return ["full" if i % 2 else "sliding" for i in range(count)]


def _granitemoe(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    counts = expert_counts(config, "num_local_experts")
    router = RouterSpec(**counts, scoring="chosen_softmax", wide=True)
    return [ExpertsSpec(router, config.count("intermediate_size"), as_input=True)] * layer_count(config)


def _glm4_moe(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    count, size = layer_count(config), config.count("moe_intermediate_size")
    shared = DenseSpec(size * config.count("n_shared_experts")) if config.get("n_shared_experts") else None
    experts = ExpertsSpec(corrected_router(config), size, shared=shared, as_input=True)
    first = whole(config, "first_k_dense_replace")
    dense = dense_spec(family, config) if first else None
    return [dense if i < first else experts for i in range(count)]


BLOCK_SPARSE: Mapping[str, str] = {"experts": "block_sparse_moe"}

MIXTURES: tuple[Family, ...] = (
    Family("mixtral", ("mixtral",),
           {"rope_theta": 1_000_000.0, "rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2,
            "tie_word_embeddings": False, "vocab_size": 32000},
           names=BLOCK_SPARSE, feed_forwards=_mixtral),
    Family("qwen2_moe", ("qwen2_moe",),
           {"rope_theta": 1_000_000.0, "tie_word_embeddings": False, "qkv_bias": True},
           {"use_sliding_window": True}, qkv_bias="qkv_bias", out_bias=False, mlp_bias=False,
           head_dim_from_config=False, ignores_windows=True, feed_forwards=_qwen2_moe),
    Family("qwen3_moe", ("qwen3_moe",), refuses={"use_sliding_window": True, "rope_traditional": True},
           head_norm=True, mlp_bias=False, ignores_windows=True, feed_forwards=_qwen3_moe),
    Family("olmoe", ("olmoe",), {"rope_theta": 10000.0, "tie_word_embeddings": True},
           only={"clip_qkv": ()}, head_norm=True, head_norm_reach="projection", feed_forwards=_olmoe),
    Family("gpt_oss", ("gpt_oss",),
           {"rope_theta": 150000.0, "rms_norm_eps": 1e-5, "num_local_experts": 128, "num_experts_per_tok": 4,
            "head_dim": 64, "sliding_window": 128, "tie_word_embeddings": False, "vocab_size": 201088},
           {"attention_bias": False}, {"swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)},
           names={"router": "router", "stacked": "experts"}, qkv_bias=True, out_bias=True,
           kinds=_alternating, scale=lambda config: 1 / math.sqrt(config.count("head_dim")),
           attention=lambda config: {"sinks": True}, feed_forwards=_gpt_oss),
    Family("glm4_moe", ("glm4_moe",),
           {"partial_rotary_factor": 0.5, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0},
           only=CORRECTED, names={"shared": "shared_experts"}, out_bias=False, mlp_bias=False,
           head_norm="use_qk_norm", partial=True, feed_forwards=_glm4_moe),
    Family("granitemoe", ("granitemoe",), {"tie_word_embeddings": True},
           names={**BLOCK_SPARSE, "router": "router.layer"}, feed_forwards=_granitemoe, **GRANITE),
)  # fmt: skip
