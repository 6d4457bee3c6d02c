"""Tiny models of the families that train, each with what sets it apart from the plain decoder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder

BASE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}  # fmt: skip
SLIDING = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
GEMMA3 = {
    "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 5, "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 24, "rope_local_base_freq": 1e4,
}  # fmt: skip
GEMMA4 = {
    "model_type": "gemma4_text", "num_hidden_layers": 4, "head_dim": 16, "global_head_dim": 32,
    "sliding_window": 5, "sliding_window_pattern": 2, "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 96, "use_double_wide_mlp": False, "final_logit_softcapping": 5.0,
    "attention_k_eq_v": True, "num_global_key_value_heads": 1,
}  # fmt: skip
GRANITE = {
    "logits_scaling": 3.0, "attention_multiplier": 0.2, "embedding_multiplier": 4.0,
    "residual_multiplier": 0.4, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
STRETCHED = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4, "llama_4_scaling_beta": 0.5,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": True}
LATENT = {
    "kv_lora_rank": 32, "q_lora_rank": 48, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "num_key_value_heads": 4,
}  # fmt: skip
DEEPSEEK = {
    **LATENT, "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 3,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1, "routed_scaling_factor": 1.5,
    "n_group": 4, "topk_group": 2, "norm_topk_prob": True, "rope_scaling": None,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": {"model_type": "gemma", "head_dim": 16},
    "gemma2": {
        "model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "phi3": {"model_type": "phi3"},
    "olmo2": {"model_type": "olmo2"},
    "granite": {"model_type": "granite", **GRANITE},
    "glm4": {"model_type": "glm4", "head_dim": 16, "attention_bias": True, "partial_rotary_factor": 0.5},
    "cohere2": {
        "model_type": "cohere2", "head_dim": 16, "sliding_window": 5, "sliding_window_pattern": 2,
        "layer_norm_eps": 1e-5, "logit_scale": 0.25, "layer_norm_bias": True, "attention_bias": True,
    },
    "hunyuan": {
        "model_type": "hunyuan_v1_dense", "head_dim": 16, "tie_word_embeddings": True,
        "rope_scaling": {"alpha": 50.0, "factor": 1.0, "type": "dynamic"},
    },
    "starcoder2": {"model_type": "starcoder2", "tie_word_embeddings": False},
    "stablelm": {
        "model_type": "stablelm", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25,
        "use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True,
    },
    "ministral3": {"model_type": "ministral3", "rope_parameters": STRETCHED, **SLIDING},
    "mistral3": {
        "model_type": "mistral3",
        "text_config": {**BASE, "model_type": "mistral", "tie_word_embeddings": False},
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "model_type": "qwen3_moe", "head_dim": 16, "decoder_sparse_step": 1, "mlp_only_layers": [2],
        "tie_word_embeddings": False, **EXPERTS,
    },
    "qwen2_moe": {
        "model_type": "qwen2_moe", "shared_expert_intermediate_size": 48, **EXPERTS, "norm_topk_prob": False,
    },
    "gpt_oss": {
        "model_type": "gpt_oss", "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16,
        "num_hidden_layers": 4, "sliding_window": 5, "swiglu_limit": 7.0, "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3", "scoring_func": "sigmoid", "topk_method": "noaux_tc", **DEEPSEEK,
    },
    "minicpm3": {
        "model_type": "minicpm3", "scale_emb": 4, "scale_depth": 1.4, "dim_model_base": 16, **LATENT,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.5] * 4,
                         "original_max_position_embeddings": 1024},
    },
}  # fmt: skip


# Which experts are chosen is a step in the loss, across which there is no difference to measure.
EVERY_EXPERT: dict[str, dict[str, Any]] = {
    "mixtral": {"num_experts_per_tok": 8},
    "qwen3_moe": {"num_experts_per_tok": 8},
    "qwen2_moe": {"num_experts_per_tok": 8},
    "gpt_oss": {"num_experts_per_tok": 8},
    "deepseek_v3": {"num_experts_per_tok": 8, "topk_group": 4},
}


@cache
def saved(name: str, every_expert: bool = False) -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="mlxone-families-", ignore_cleanup_errors=True)
    config = {**BASE, **CONFIGS[name], **(EVERY_EXPERT.get(name, {}) if every_expert else {})}
    save_random_model(Path(folder.name), config, dtype=mx.float32)
    return folder


def folder_of(name: str) -> Path:
    return Path(saved(name).name)


@cache
def decoder(name: str, *, every_expert: bool = False) -> Decoder:
    return load_decoder(Path(saved(name, every_expert).name))
