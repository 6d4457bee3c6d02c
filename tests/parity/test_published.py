"""Published sizes of the dense families and Gemma's, cut to two layers: real rope, heads and widths.

In float32 and with a vocabulary of 8,192: else a CPU takes minutes for each, most of them to make the
embedding up. A GPU compares some as they are (`python -m bench.families`).
"""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.family_shapes import MODELS
from bench.random_models import save_random_model
from mlxone.backend.arrays import mx
from tests.parity.harness import assert_parity
from tests.parity.test_families import PACKINGS

SLIDING = ["sliding_attention", "full_attention"]
GEMMA4 = {
    "model_type": "gemma4_text", "vocab_size": 262144, "vocab_size_per_layer_input": 262144, "head_dim": 256,
    "global_head_dim": 512, "rms_norm_eps": 1e-6, "final_logit_softcapping": 30.0, "layer_types": SLIDING,
    "max_position_embeddings": 131072, "use_double_wide_mlp": False, "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0, "attention_k_eq_v": False,
}  # fmt: skip

PUBLISHED: dict[str, dict[str, Any]] = {
    "Ministral-3-3B": {
        "model_type": "ministral3", "hidden_size": 3072, "intermediate_size": 9216, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 262144, "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "Phi-3.5-mini": {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32064, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0 + 0.02 * i for i in range(48)],
                         "long_factor": [1.1 + 1.3 * i for i in range(48)]},
    },
    "Phi-4-mini": {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24,
        "num_key_value_heads": 8, "vocab_size": 200064, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75, "tie_word_embeddings": True, "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48,
                         "long_factor": [1.0 + 0.9 * i for i in range(48)]},
    },
    "OLMo-2-1B": {
        "model_type": "olmo2", "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16,
        "num_key_value_heads": 16, "vocab_size": 100352, "rms_norm_eps": 1e-6, "rope_theta": 500000.0,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
    "OLMo-3-7B": {
        "model_type": "olmo3", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 100278, "rms_norm_eps": 1e-6, "rope_theta": 500000.0,
        "max_position_embeddings": 65536, "sliding_window": 4096, "layer_types": SLIDING,
        "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32, "beta_slow": 1,
                         "original_max_position_embeddings": 8192, "attention_factor": 1.2079441541679836},
    },
    "Granite-3.3-2B": {
        "model_type": "granite", "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 49159, "rms_norm_eps": 1e-5, "rope_theta": 1e7,
        "max_position_embeddings": 131072, "attention_multiplier": 0.015625, "embedding_multiplier": 12.0,
        "logits_scaling": 8.0, "residual_multiplier": 0.22, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": True,
    },
    "GLM-4-9B-0414": {
        "model_type": "glm4", "hidden_size": 4096, "intermediate_size": 13696, "num_attention_heads": 32,
        "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 151552, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "attention_bias": True,
        "max_position_embeddings": 32768, "tie_word_embeddings": False,
    },
    "Command-R7B": {
        "model_type": "cohere2", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 256000, "layer_norm_eps": 1e-5,
        "rope_theta": 50000.0, "sliding_window": 4096, "sliding_window_pattern": 2, "logit_scale": 0.25,
        "max_position_embeddings": 8192,
    },
    "EXAONE-4.0-1.2B": {
        "model_type": "exaone4", "hidden_size": 2048, "intermediate_size": 4096, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 102400, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "max_position_embeddings": 65536, "tie_word_embeddings": True,
        "sliding_window": None, "sliding_window_pattern": None,
        "rope_scaling": {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    },
    "Seed-OSS-36B": {
        "model_type": "seed_oss", "hidden_size": 5120, "intermediate_size": 27648, "num_attention_heads": 80,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 155136, "rms_norm_eps": 1e-6,
        "rope_theta": 1e7, "max_position_embeddings": 524288, "attention_bias": True,
        "attention_out_bias": False, "tie_word_embeddings": False,
    },
    "ERNIE-4.5-0.3B": {
        "model_type": "ernie4_5", "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 103424, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "use_bias": False,
        "tie_word_embeddings": True,
    },
    "Hunyuan-0.5B": {
        "model_type": "hunyuan_v1_dense", "hidden_size": 1024, "intermediate_size": 3584,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 120818,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 262144,
        "tie_word_embeddings": True, "use_qk_norm": True,
        "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    },
    "StarCoder2-3B": {
        "model_type": "starcoder2", "hidden_size": 3072, "intermediate_size": 12288,
        "num_attention_heads": 24, "num_key_value_heads": 2, "vocab_size": 49152, "norm_epsilon": 1e-5,
        "rope_theta": 999999.4420358813, "max_position_embeddings": 16384,
    },
    "StableLM-2-1.6B": {
        "model_type": "stablelm", "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 100352, "layer_norm_eps": 1e-5, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25, "use_qkv_bias": True, "max_position_embeddings": 4096,
    },
    "Gemma-2B": {
        "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_attention_heads": 8,
        "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 256000, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 8192,
    },
    "Gemma-2-2B": {
        "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000, "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256, "max_position_embeddings": 8192,
    },
    "Gemma-3-1B": {
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144, "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256, "sliding_window": 512, "sliding_window_pattern": 2,
        "max_position_embeddings": 32768,
    },
    "Gemma-4-e4b": MODELS["Gemma-4-e4b"].config["text_config"],
    "Gemma-4-31B": {
        **GEMMA4, "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32,
        "num_key_value_heads": 16, "num_global_key_value_heads": 4, "attention_k_eq_v": True,
        "sliding_window": 1024,
    },
}  # fmt: skip
# The same text models within larger ones: of the families that are such frames.
FRAMED: dict[str, dict[str, Any]] = {
    **{name: MODELS[name].config for name in ("Gemma-4-12B", "Gemma-4-26B-A4B")},
    "Gemma-3-4B": {
        "model_type": "gemma3", "vocab_size": 262208,
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
            "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 1024,
            "sliding_window_pattern": 2, "max_position_embeddings": 131072,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
    },
    "Mistral-Small-3.1-24B": {
        "model_type": "mistral3",
        "text_config": {
            "model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 1e9, "max_position_embeddings": 131072,
            "tie_word_embeddings": False,
        },
    },
}  # fmt: skip
TOO_LARGE = "Gemma-4-26B-A4B"  # in float32


def cut(name: str) -> dict[str, Any]:
    """A sliding layer and a full one, where there are both; so none can share what another keeps."""
    config = copy.deepcopy((PUBLISHED | FRAMED)[name])
    for part in (config, config.get("text_config", config)):
        part |= {"num_hidden_layers": 2, "vocab_size": 8192, "vocab_size_per_layer_input": 8192}
        part |= {"layer_types": SLIDING} if "layer_types" in part else {}
        part |= {"num_kv_shared_layers": 0} if "num_kv_shared_layers" in part else {}
    return config


def test_true_sizes_cut_to_two_layers(tmp_path: Path) -> None:
    save_random_model(tmp_path, cut("ERNIE-4.5-0.3B"), dtype=mx.float32)
    assert_parity(tmp_path, 8192, [(16, 5)], steps=4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "packing"),
    [case for case in product(PUBLISHED | FRAMED, ("4-bit", "plain")) if case != (TOO_LARGE, "plain")],
)
def test_true_sizes_at_length(name: str, packing: str, tmp_path: Path) -> None:
    save_random_model(tmp_path, cut(name), dtype=mx.float32, quantization=PACKINGS.get(packing))
    assert_parity(tmp_path, 8192, [(16, 5)], steps=4)
