"""Families that are the plain decoder with other settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlxone.formats.config import Config
from mlxone.models.families.family import Family
from mlxone.models.families.reading import Kind, every
from mlxone.models.names import Placement
from mlxone.models.spec import LogitsSpec, Stretch

LLAMA = {"rope_theta": 10000.0, "tie_word_embeddings": True}
APPROXIMATE_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu")


def _every_fourth_layer_without(config: Config, kinds: list[Kind]) -> list[bool]:
    """SmolLM3: `no_rope_layers` has a 1 where a layer does use rotary positions."""
    stated = config.get("no_rope_layers")
    if stated is None:
        interval = config.count("no_rope_layer_interval", 4)
        return [(i + 1) % interval != 0 for i in range(len(kinds))]
    if not isinstance(stated, list) or len(stated) != len(kinds):
        raise config.wrong("no_rope_layers", f"a list of {len(kinds)} values")
    return [bool(v) for v in stated]


def _sliding_only(config: Config, kinds: list[Kind]) -> list[bool]:
    return [kind == "sliding" for kind in kinds]


def _exaone_rotated(config: Config, kinds: list[Kind]) -> list[bool]:
    """Where some layers slide, or could, the full ones see no positions."""
    some = "sliding" in kinds or ("layer_types" in config and "sliding_window" in config)
    return [kind == "sliding" or not some for kind in kinds]


def _exaone_kinds(config: Config, count: int) -> list[Kind]:
    """A word of L (local) and G (global), repeated; a number: one layer in so many is global."""
    pattern = config.get("sliding_window_pattern")
    if pattern is None and (config.is_null("sliding_window_pattern") or "sliding_window" not in config):
        return ["full"] * count
    if type(pattern) is int:
        return every(count, config, "sliding_window_pattern", 4)
    if not isinstance(pattern, str) or not pattern or set(pattern) - {"L", "G"}:
        raise config.wrong("sliding_window_pattern", "a word of L and G, a number or null")
    return ["sliding" if pattern[i % len(pattern)] == "L" else "full" for i in range(count)]


def _granite_scales(config: Config) -> dict[str, Any]:
    return {
        "embedding_scale": config.number("embedding_multiplier"),
        "residual_scale": config.number("residual_multiplier"),
        "logits": LogitsSpec(divide=config.positive("logits_scaling")),
    }


# What its dense models, its mixtures and its hybrids have in common.
GRANITE: dict[str, Any] = {
    "head_dim_from_config": False, "scale": lambda config: config.number("attention_multiplier"),
    "decoder": _granite_scales,
}  # fmt: skip


def _stretched(config: Config) -> dict[str, Any]:
    nested = Config(config.section("rope_parameters"), source=f"{config.source}: rope_parameters")
    trained = nested.count("original_max_position_embeddings")
    return {"stretch": Stretch(nested.number("llama_4_scaling_beta"), trained)}


def _phi3_rope(config: Config, scaling: Mapping[str, Any]) -> Mapping[str, Any]:
    """The context it was trained on stands beside the scaling, not in it."""
    if not scaling:
        return scaling
    return {"original_max_position_embeddings": config.get("original_max_position_embeddings"), **scaling}


def _hunyuan_rope(config: Config, scaling: Mapping[str, Any]) -> Mapping[str, Any]:
    """Frequencies are always worked out one by one: the bits of a plain rope differ a little."""
    kind = scaling.get("type") or scaling.get("rope_type") or "default"
    return {"type": "dynamic", "alpha": 1.0} if kind == "default" else scaling


def _residual_kind(config: Config) -> Placement:
    return "parallel" if config.flag("use_parallel_residual", False) else "before"


def _root_of_head(config: Config) -> float:
    return math.sqrt(1 / (config.count("hidden_size") // config.count("num_attention_heads")))


DENSE: tuple[Family, ...] = (
    Family("llama", ("llama",), LLAMA),
    Family("mistral", ("mistral",), LLAMA),
    Family("mistral3", ("mistral3",), {**LLAMA, "tie_word_embeddings": False}, prefix="language_model.",
           inner_types=("mistral", "llama")),
    Family("ministral3", ("ministral3",), LLAMA, prefix="language_model.",
           qkv_bias=False, out_bias=False, mlp_bias=False, attention=_stretched),
    Family("qwen2", ("qwen2",),
           {"rope_theta": 1_000_000.0, "tie_word_embeddings": True, "max_position_embeddings": 32768},
           {"use_sliding_window": True}, qkv_bias=True, out_bias=False, head_dim_from_config=False,
           ignores_windows=True),
    Family("qwen3", ("qwen3",), head_norm=True, ignores_windows=True,
           refuses={"use_sliding_window": True, "rope_traditional": True}),
    Family("smollm3", ("smollm3",), LLAMA, rotated=_every_fourth_layer_without,
           refuses={"use_sliding_window": True}),
    Family("phi3", ("phi3",), {"rope_theta": 10000.0, "tie_word_embeddings": False,
                               "original_max_position_embeddings": 4096},
           head_dim_from_config=False, qkv_bias=False, out_bias=False, mlp_bias=False, fused_qkv=True,
           fused_gate_up=True, partial=True, rope=_phi3_rope, reads_layer_types=False),
    Family("olmo2", ("olmo2",), LLAMA, placement="after", head_norm=True, head_norm_reach="projection"),
    Family("olmo3", ("olmo3",), {"rope_theta": 10000.0, "tie_word_embeddings": False}, placement="after",
           head_norm=True, head_norm_reach="projection", mlp_bias=False, sliding_rope_plain=True,
           kinds=lambda config, count: every(count, config, "sliding_window_pattern", 4)),
    Family("granite", ("granite",), {"tie_word_embeddings": True}, **GRANITE),
    Family("glm4", ("glm4",), {"partial_rotary_factor": 0.5},
           names={"after_mixer_norm": "post_self_attn_layernorm",
                  "feed_forward_norm": "post_attention_layernorm",
                  "after_feed_forward_norm": "post_mlp_layernorm"},
           placement="around", out_bias=False, mlp_bias=False, fused_gate_up=True, partial=True,
           rope_traditional=True),
    Family("cohere2", ("cohere2",), {"rope_theta": 50000.0, "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
                                     "tie_word_embeddings": True, "head_dim": 128, "sliding_window": 4096},
           placement="parallel_parts_first", norm="layer", norm_key="layer_norm_eps",
           norm_bias="layer_norm_bias", mlp_bias=False, rope_traditional=True, rotated=_sliding_only,
           kinds=lambda config, count: every(count, config, "sliding_window_pattern", 4),
           attention=lambda config: {"wide": "half"},
           decoder=lambda config: {"logits": LogitsSpec(multiply=config.number("logit_scale"))}),
    Family("exaone4", ("exaone4",), {"rope_theta": 1_000_000.0}, placement="after", head_norm=True,
           qkv_bias=False, out_bias=False, mlp_bias=False, kinds=_exaone_kinds, rotated=_exaone_rotated),
    Family("seed_oss", ("seed_oss",), LLAMA, out_bias="attention_out_bias"),
    Family("ernie4_5", ("ernie4_5",), {"tie_word_embeddings": True}, qkv_bias="use_bias",
           out_bias="use_bias", mlp_bias="use_bias", rope_traditional=True),
    Family("hunyuan", ("hunyuan_v1_dense",), {"rope_theta": 10000.0, "use_qk_norm": True},
           names={"q_norm": "query_layernorm", "k_norm": "key_layernorm"}, mlp_bias=False,
           head_norm="use_qk_norm", head_norm_after_rope=True, rope=_hunyuan_rope),
    Family("starcoder2", ("starcoder2",), {"rope_theta": 100000.0, "norm_epsilon": 1e-5,
                                           "tie_word_embeddings": True, "vocab_size": 49152,
                                           "use_bias": True},
           names={"up_proj": "c_fc", "down_proj": "c_proj"}, norm="layer", norm_key="norm_epsilon",
           norm_bias=True, qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", gated=False,
           activation="gelu", activation_names=APPROXIMATE_GELU, head_dim_from_config=False,
           reads_layer_types=False),
    Family("stablelm", ("stablelm",), {"tie_word_embeddings": False}, placement=_residual_kind,
           names={"q_norm": "q_layernorm", "k_norm": "k_layernorm"}, norm="layer",
           norm_key="layer_norm_eps", norm_bias=True, qkv_bias="use_qkv_bias", out_bias=False,
           mlp_bias=False, head_dim_from_config=False, head_norm="qk_layernorm", head_norm_reach="own",
           partial=True, partial_rope=0.25, scale=_root_of_head,
           attention=lambda config: {"wide": "always"}),
)  # fmt: skip
