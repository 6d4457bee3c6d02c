"""Every family equals mlx-lm bit for bit, on tiny random models over many shapes.

MLX's own BLAS, dtypes and packed weights: the mode parity is defined in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx
from tests.parity.harness import assert_parity

VOCAB = 260
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

# One line a configuration: what it changes of BASE.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "llama-tied-one-kv-head": {"model_type": "llama", "num_key_value_heads": 1},
    "llama-every-head-kv": {"model_type": "llama", "num_key_value_heads": 4, "head_dim": 32},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-interleaved-rope": {"model_type": "llama", "rope_traditional": True},
    "llama-linear-rope": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama-dynamic-rope": {
        "model_type": "llama",
        "max_position_embeddings": 32,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
    },
    "llama3-rope": {"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
    "llama-sliding": {
        "model_type": "llama",
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "mistral": {"model_type": "mistral", "head_dim": 48, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-untied": {"model_type": "qwen2", "tie_word_embeddings": False, "num_key_value_heads": 4},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen3-yarn-untied": {
        "model_type": "qwen3",
        "head_dim": 32,
        "tie_word_embeddings": False,
        "rope_theta": 1e6,
        "rope_scaling": YARN_ROPE,
    },
    "qwen3-yarn-mscale": {
        "model_type": "qwen3",
        "head_dim": 32,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
        "rope_scaling": {**YARN_ROPE, "mscale": 0.8, "mscale_all_dim": 0.5, "beta_fast": 16},
    },
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 5},
    "smollm3-stated": {"model_type": "smollm3", "no_rope_layers": [0, 1, 1], "tie_word_embeddings": False},
}
PACKINGS: dict[str, dict[str, Any] | None] = {
    "bf16": None,
    "4-bit": {"group_size": 32, "bits": 4},
    "8-bit": {"group_size": 64, "bits": 8},
    "mixed": {
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": {"group_size": 32, "bits": 8},
        "model.layers.1.mlp.down_proj": {"group_size": 64, "bits": 6},
        "model.layers.0.self_attn.v_proj": False,
        "language_model.model.embed_tokens": {"group_size": 32, "bits": 8},
        "language_model.model.layers.1.mlp.down_proj": {"group_size": 64, "bits": 6},
        "language_model.model.layers.0.self_attn.v_proj": False,
    },
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "nvfp4": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
}
CHUNKS = [(37,), (16, 16, 5), (1, 30, 6)]
THREE = ("bf16", "4-bit", "mixed")
UNPACKED = ("bf16", "float32", "plain")
FULL = ("llama", "qwen3", "llama-sliding")  # these meet every packing, the others bf16, 4-bit and mixed
CASES = [(name, packing) for name in CONFIGS for packing in PACKINGS if name in FULL or packing in THREE]


def cuts(name: str, packing: str) -> Sequence[Sequence[int]]:
    """Every way to cut a prompt for one configuration of a family and what slides, the hardest for all."""
    every = packing in UNPACKED and (
        "-" not in name or any(word in name for word in ("sliding", "gemma4-dense", "per-layer"))
    )
    return CHUNKS if every else CHUNKS[-1:]


def marked(cases: Iterable[tuple[str, str]]) -> list[Any]:
    """A family's further configurations are packed in the long run (`make parity`) alone."""
    long = pytest.mark.long
    return [pytest.param(*c, marks=long if "-" in c[0] and c[1] not in UNPACKED else ()) for c in cases]


def config_of(name: str) -> dict[str, Any]:
    return {**BASE, **CONFIGS[name]}


@pytest.mark.parametrize(("name", "packing"), marked(CASES))
def test_logits_equal_mlx_lm(name: str, packing: str, tmp_path: Path) -> None:
    save_random_model(tmp_path, config_of(name), quantization=PACKINGS[packing])
    assert_parity(tmp_path, VOCAB, cuts(name, packing))


# The true sizes, cut to two layers: real rope, heads and vocabulary.
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 100000,
        "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "Mistral-7B-v0.3": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
        "max_position_embeddings": 32768, "tie_word_embeddings": False,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "max_position_embeddings": 32768, "tie_word_embeddings": True,
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000, "max_position_embeddings": 40960, "tie_word_embeddings": True,
    },
    "SmolLM3-3B": {
        "model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16,
        "num_key_value_heads": 4, "vocab_size": 128256, "rms_norm_eps": 1e-6, "rope_theta": 5000000.0,
        "max_position_embeddings": 65536, "tie_word_embeddings": True, "no_rope_layers": [1, 0],
    },
    "Llama-3.2-1B": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": True,
        "rope_scaling": {**LLAMA3_ROPE, "factor": 32.0, "original_max_position_embeddings": 8192},
    },
}  # fmt: skip


def test_true_sizes_cut_to_two_layers(tmp_path: Path) -> None:
    config = PUBLISHED["SmolLM2-135M"]
    save_random_model(tmp_path, {**config, "num_hidden_layers": 2})
    assert_parity(tmp_path, config["vocab_size"], [(16, 5)], steps=8)


@pytest.mark.long
@pytest.mark.parametrize("packing", ["bf16", "4-bit"])
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_true_sizes_at_length(name: str, packing: str, tmp_path: Path) -> None:
    save_random_model(tmp_path, {**PUBLISHED[name], "num_hidden_layers": 2}, quantization=PACKINGS[packing])
    assert_parity(tmp_path, PUBLISHED[name]["vocab_size"], [(37,), (16, 21)])


@pytest.mark.parametrize("dtype", [mx.float16, mx.float32])
def test_other_dtypes(dtype: mx.Dtype, tmp_path: Path) -> None:
    save_random_model(tmp_path, {**BASE, **CONFIGS["llama"]}, dtype=dtype)
    assert_parity(tmp_path, VOCAB, CHUNKS)


def test_past_the_buffer_step_and_the_window(tmp_path: Path) -> None:
    """Buffers grow every 256 tokens, the window turns over several times."""
    config = {**BASE, **CONFIGS["llama-sliding"], "sliding_window": 300}
    save_random_model(tmp_path, config, dtype=mx.float32)
    assert_parity(tmp_path, VOCAB, [(250, 10), (320, 200, 100)], steps=60)
