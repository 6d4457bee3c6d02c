"""Published sizes of the models that `bench.families` compares, keyed as in their config.json.

Only what the text tower computes with, and put together from what others wrote about the checkpoints: the
files themselves were not at hand. So the number of parameters is compared with the published one, beside
each model, and what that cannot confirm is said. `cut` keeps the sizes and a few layers of each kind, for a
quick look on a GPU; `tiny` makes the layers small as well, for a rehearsal on a CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PROMPT = 2048
# Without Metal both systems build a gated delta layer's graph token by token in Python.
PROMPT_TOKEN_BY_TOKEN = 256


@dataclass(frozen=True, slots=True)
class Model:
    config: dict[str, Any]
    few_layers: dict[str, Any]
    small: dict[str, Any]
    packings: tuple[str, ...] = ("4-bit", "bf16")
    prompt: int = PROMPT

    def sized(self, size: str) -> dict[str, Any]:
        """full, cut or tiny."""
        changes = {"full": {}, "cut": self.few_layers, "tiny": self.small}[size]
        config = copy.deepcopy(self.config)
        text = config.get("text_config", config)
        text.update(copy.deepcopy(changes))
        config["vocab_size"] = text["vocab_size"]
        return config


def _every(period: int, count: int, others: str) -> list[str]:
    """Full attention in every `period`th of `count` layers."""
    return [others if (index + 1) % period else "full_attention" for index in range(count)]


def _at(places: Sequence[int], count: int, others: str) -> list[str]:
    return ["full_attention" if index in places else others for index in range(count)]


_GEMMA4_TEXT: dict[str, Any] = {
    "vocab_size": 262144, "vocab_size_per_layer_input": 262144, "head_dim": 256, "global_head_dim": 512,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "attention_bias": False,
    "final_logit_softcapping": 30.0, "tie_word_embeddings": True, "use_double_wide_mlp": False,
    "rope_parameters": {
        "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0,
                           "rope_type": "proportional"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
}  # fmt: skip

_GEMMA4_SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 6, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64, "vocab_size": 320,
    "vocab_size_per_layer_input": 320, "sliding_window": 24, "layer_types": _every(3, 6, "sliding_attention"),
}  # fmt: skip


def _gemma4(model_type: str, **sizes: Any) -> dict[str, Any]:
    text = {"model_type": f"{model_type}_text", **copy.deepcopy(_GEMMA4_TEXT), **sizes}
    layers = text["num_hidden_layers"]
    text["layer_types"] = _every(6, layers, "sliding_attention")
    return {"model_type": model_type, "tie_word_embeddings": True, "text_config": text}


_QWEN35_TEXT: dict[str, Any] = {
    "head_dim": 256, "vocab_size": 248320, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "attention_bias": False, "attn_output_gate": True, "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25,
                        "mrope_section": [11, 11, 10], "mrope_interleaved": True},
}  # fmt: skip

_QWEN35_SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "vocab_size": 320, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "layer_types": _every(4, 4, "linear_attention"),
}  # fmt: skip


def _qwen35(model_type: str, **sizes: Any) -> dict[str, Any]:
    text = {"model_type": f"{model_type}_text", **copy.deepcopy(_QWEN35_TEXT), **sizes}
    text["layer_types"] = _every(4, text["num_hidden_layers"], "linear_attention")
    tied = text["tie_word_embeddings"]
    return {"model_type": model_type, "tie_word_embeddings": tied, "text_config": text}


NEMOTRON_H_PATTERN = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"

MODELS: dict[str, Model] = {
    # 7,463 million parameters; published 8.0 billion, about 0.45 of them for images and sound.
    "Gemma-4-e4b": Model(
        _gemma4(
            "gemma4", hidden_size=2560, num_hidden_layers=42, intermediate_size=10240, num_attention_heads=8,
            num_key_value_heads=2, num_global_key_value_heads=None, num_kv_shared_layers=18,
            hidden_size_per_layer_input=256, sliding_window=512, max_position_embeddings=131072,
            attention_k_eq_v=False, enable_moe_block=False,
        ),
        {"num_hidden_layers": 12, "num_kv_shared_layers": 6,
         "layer_types": _every(6, 12, "sliding_attention")},
        _GEMMA4_SMALL | {"num_kv_shared_layers": 3, "hidden_size_per_layer_input": 32},
    ),
    # 11,907 million; published 11.95 billion, with 0.05 for images and sound.
    "Gemma-4-12B": Model(
        _gemma4(
            "gemma4_unified", hidden_size=3840, num_hidden_layers=48, intermediate_size=15360,
            num_attention_heads=16, num_key_value_heads=8, num_global_key_value_heads=1,
            num_kv_shared_layers=0, hidden_size_per_layer_input=0, sliding_window=1024,
            max_position_embeddings=262144, attention_k_eq_v=True, enable_moe_block=False,
        ),
        {"num_hidden_layers": 6, "layer_types": _every(6, 6, "sliding_attention")},
        _GEMMA4_SMALL | {"num_global_key_value_heads": 1},
    ),
    # 25,233 million; published 25.2 billion.
    "Gemma-4-26B-A4B": Model(
        _gemma4(
            "gemma4", hidden_size=2816, num_hidden_layers=30, intermediate_size=2112, num_attention_heads=16,
            num_key_value_heads=8, num_global_key_value_heads=2, num_kv_shared_layers=0,
            hidden_size_per_layer_input=0, sliding_window=1024, max_position_embeddings=262144,
            attention_k_eq_v=True, enable_moe_block=True, num_experts=128, top_k_experts=8,
            moe_intermediate_size=704,
        ),
        {"num_hidden_layers": 6, "layer_types": _every(6, 6, "sliding_attention")},
        _GEMMA4_SMALL
        | {"num_global_key_value_heads": 1, "num_experts": 8, "top_k_experts": 2,
           "moe_intermediate_size": 64},
    ),
    # 4,206 million; published 4 billion. The number of linear heads is transformers' default (the 9B's).
    "Qwen3.5-4B": Model(
        _qwen35(
            "qwen3_5", hidden_size=2560, num_hidden_layers=32, intermediate_size=9216,
            num_attention_heads=16, num_key_value_heads=4, tie_word_embeddings=True,
        ),
        {"num_hidden_layers": 4, "layer_types": _every(4, 4, "linear_attention")},
        _QWEN35_SMALL | {"intermediate_size": 128},
        prompt=PROMPT_TOKEN_BY_TOKEN,
    ),
    # 34,661 million; published 35 billion.
    "Qwen3.5-35B-A3B": Model(
        _qwen35(
            "qwen3_5_moe", hidden_size=2048, num_hidden_layers=40, num_attention_heads=16,
            num_key_value_heads=2, num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512,
            shared_expert_intermediate_size=512, tie_word_embeddings=False,
        ),
        {"num_hidden_layers": 4, "layer_types": _every(4, 4, "linear_attention")},
        _QWEN35_SMALL
        | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
           "shared_expert_intermediate_size": 64},
        packings=("4-bit",), prompt=PROMPT_TOKEN_BY_TOKEN,
    ),
    # 20,915 million; published 20.9 billion.
    "GPT-OSS-20B": Model(
        {
            "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24, "intermediate_size": 2880,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32,
            "num_experts_per_tok": 4, "experts_per_token": 4, "vocab_size": 201088, "sliding_window": 128,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "swiglu_limit": 7.0, "attention_bias": True,
            "max_position_embeddings": 131072, "initial_context_length": 4096, "rope_theta": 150000,
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                             "truncate": False, "original_max_position_embeddings": 4096},
            "tie_word_embeddings": False, "layer_types": _every(2, 24, "sliding_attention"),
        },
        {"num_hidden_layers": 2, "layer_types": _every(2, 2, "sliding_attention")},
        {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 64, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 32, "num_local_experts": 8, "num_experts_per_tok": 2,
         "experts_per_token": 2, "vocab_size": 320, "sliding_window": 24,
         "layer_types": _every(2, 4, "sliding_attention")},
    ),
    # 2,569,272,320, as published; which eight of the thirty layers attend is not confirmed, only how many.
    "LFM2-2.6B": Model(
        {
            "model_type": "lfm2", "hidden_size": 2048, "num_hidden_layers": 30, "num_attention_heads": 32,
            "num_key_value_heads": 8, "block_dim": 2048, "block_ff_dim": 10752, "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False, "conv_bias": False,
            "conv_L_cache": 3, "norm_eps": 1e-5, "rope_theta": 1000000.0, "vocab_size": 65536,
            "max_position_embeddings": 128000, "tie_embedding": True,
            "layer_types": _at((2, 5, 9, 13, 17, 21, 24, 27), 30, "conv"),
        },
        {"num_hidden_layers": 3, "layer_types": _at((2,), 3, "conv")},
        {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
         "block_dim": 64, "block_ff_dim": 128, "vocab_size": 320, "layer_types": _at((2,), 4, "conv")},
    ),
    # 4,489 million; published "4B". A `chunk_size` is a choice of the reference kernels, not a size.
    "Nemotron-H-4B": Model(
        {
            "model_type": "nemotron_h", "hidden_size": 3072, "num_hidden_layers": 52,
            "intermediate_size": 12288, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "hybrid_override_pattern": NEMOTRON_H_PATTERN, "mamba_num_heads": 112, "mamba_head_dim": 64,
            "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4, "chunk_size": 128,
            "use_conv_bias": True, "mamba_proj_bias": False, "use_bias": False, "attention_bias": False,
            "mlp_bias": False, "mlp_hidden_act": "relu2", "mamba_hidden_act": "silu",
            "layer_norm_epsilon": 1e-5, "time_step_min": 0.001, "time_step_max": 0.1, "vocab_size": 131072,
            "max_position_embeddings": 8192, "tie_word_embeddings": False,
        },
        {"num_hidden_layers": 4, "hybrid_override_pattern": "M-*-"},
        {"hidden_size": 64, "num_hidden_layers": 6, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 32, "hybrid_override_pattern": "M-M*-M",
         "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 32, "n_groups": 2,
         "vocab_size": 320},
    ),
}  # fmt: skip

# What "4-bit" means where it is not affine in groups of 64.
OWN_PACKING = {"GPT-OSS-20B": "mxfp4 experts"}

# By importance; GPU time is short.
ORDER = (
    "Gemma-4-e4b", "Qwen3.5-4B", "LFM2-2.6B", "Nemotron-H-4B", "GPT-OSS-20B", "Gemma-4-26B-A4B",
    "Qwen3.5-35B-A3B", "Gemma-4-12B",
)  # fmt: skip
