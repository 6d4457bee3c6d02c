"""The families that are the plain decoder with other settings, bit for bit against mlx-lm."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.random_models import save_random_model
from tests.parity.harness import assert_parity
from tests.parity.test_families import BASE, LLAMA3_ROPE, PACKINGS, THREE, VOCAB, YARN_ROPE, cuts, marked

SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.0 + 0.5 * i for i in range(8)],
}
MINISTRAL_ROPE = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
GRANITE = {
    "model_type": "granite", "logits_scaling": 8.0, "attention_multiplier": 0.0625,
    "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_bias": False, "mlp_bias": False,
    "rope_theta": 10000.0, "tie_word_embeddings": True,
}  # fmt: skip
COHERE2 = {
    "model_type": "cohere2", "head_dim": 16, "sliding_window": 12, "sliding_window_pattern": 2,
    "layer_norm_eps": 1e-5, "logit_scale": 0.25,
}  # fmt: skip
EXAONE4 = {
    "model_type": "exaone4", "head_dim": 16, "rope_theta": 1e6, "tie_word_embeddings": False,
    "sliding_window": 12, "sliding_window_pattern": "LLG", "rope_scaling": LLAMA3_ROPE,
}  # fmt: skip
STABLELM = {
    "model_type": "stablelm", "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
    "use_qkv_bias": True, "head_dim": None,
}  # fmt: skip
GLM4 = {
    "model_type": "glm4", "head_dim": 16, "attention_bias": True, "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip
HUNYUAN = {"model_type": "hunyuan_v1_dense", "head_dim": 16, "tie_word_embeddings": True}
SEED = {"model_type": "seed_oss", "head_dim": 32, "tie_word_embeddings": False}
ERNIE = {
    "model_type": "ernie4_5",
    "head_dim": 16,
    "rope_theta": 5e5,
    "use_bias": False,
    "tie_word_embeddings": True,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "phi3": {"model_type": "phi3"},
    "phi3-longrope": {"model_type": "phi3", "rope_scaling": LONGROPE, "original_max_position_embeddings": 32},
    "phi4-mini": {
        "model_type": "phi3", "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
        "rope_scaling": {**LONGROPE, "short_factor": [1.0] * 6, "long_factor": [2.0] * 6},
    },
    "phi3-linear": {
        "model_type": "phi3",
        "rope_scaling": {"type": "linear", "factor": 4.0, "long_factor": [], "short_factor": []},
    },
    "olmo2": {"model_type": "olmo2", "tie_word_embeddings": False},
    "olmo2-biases": {"model_type": "olmo2", "attention_bias": True, "mlp_bias": True, "head_dim": 32},
    "olmo2-llama3-rope": {"model_type": "olmo2", "rope_scaling": LLAMA3_ROPE},
    "olmo3": {"model_type": "olmo3", "num_hidden_layers": 4, "sliding_window": 12, "rope_theta": 5e5},
    "olmo3-yarn": {
        "model_type": "olmo3", "sliding_window": 12, "rope_theta": 5e5, "layer_types": SLIDING,
        "rope_scaling": YARN_ROPE, "tie_word_embeddings": True,
    },
    "granite": GRANITE,
    "granite-untied": {**GRANITE, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "granite-yarn": {**GRANITE, "rope_scaling": YARN_ROPE},
    "glm4": GLM4,
    "glm4-no-bias": {**GLM4, "attention_bias": False, "head_dim": 32},
    "cohere2": {**COHERE2, "num_hidden_layers": 4},
    "cohere2-biases": {**COHERE2, "attention_bias": True, "layer_norm_bias": True},
    "exaone4": EXAONE4,
    "exaone4-full": {**EXAONE4, "sliding_window_pattern": None, "tie_word_embeddings": True},
    "seed_oss": SEED,
    "seed_oss-biases": {**SEED, "attention_bias": True, "attention_out_bias": True, "mlp_bias": True},
    "ernie4_5": ERNIE,
    "ernie4_5-biases": {**ERNIE, "use_bias": True, "tie_word_embeddings": False},
    "hunyuan": HUNYUAN,
    "hunyuan-alpha": {
        **HUNYUAN, "tie_word_embeddings": False, "attention_bias": True,
        "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    },
    "hunyuan-no-norm": {**HUNYUAN, "use_qk_norm": False},
    "starcoder2": {"model_type": "starcoder2"},
    "starcoder2-untied": {"model_type": "starcoder2", "tie_word_embeddings": False, "norm_epsilon": 1e-6},
    "stablelm": STABLELM,
    "stablelm-parallel": {**STABLELM, "use_parallel_residual": True, "use_qkv_bias": False},
    "stablelm-head-norms": {**STABLELM, "qk_layernorm": True},
    "ministral3": {
        "model_type": "ministral3", "head_dim": 32, "rope_parameters": MINISTRAL_ROPE,
        "tie_word_embeddings": False,
    },
    "ministral3-sliding": {
        "model_type": "ministral3", "rope_parameters": MINISTRAL_ROPE, "sliding_window": 12,
        "layer_types": SLIDING,
    },
    "mistral3": {
        "model_type": "mistral3",
        "text_config": {**BASE, "model_type": "mistral", "head_dim": 32, "rope_theta": 1e6},
    },
    "mistral3-of-ministral3": {
        "model_type": "mistral3",
        "text_config": {**BASE, "model_type": "ministral3", "rope_parameters": MINISTRAL_ROPE},
    },
}  # fmt: skip


CASES = list(product(CONFIGS, THREE))


def config_of(name: str) -> dict[str, Any]:
    config = {k: v for k, v in {**BASE, **CONFIGS[name]}.items() if v is not None}
    return config | ({"sliding_window_pattern": None} if name == "exaone4-full" else {})


@pytest.mark.parametrize(("name", "packing"), marked(CASES))
def test_logits_equal_mlx_lm(name: str, packing: str, tmp_path: Path) -> None:
    save_random_model(tmp_path, config_of(name), quantization=PACKINGS[packing])
    assert_parity(tmp_path, VOCAB, cuts(name, packing))
