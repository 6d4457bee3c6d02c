"""Gemma 1 to 4, bit for bit against mlx-lm."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx
from mlxone.models.loading import load_decoder
from tests.parity.harness import assert_parity
from tests.parity.test_families import BASE, CHUNKS, PACKINGS, THREE, VOCAB, cuts, marked

TEXT = {**BASE, "num_hidden_layers": 4, "head_dim": 32}
GEMMA3 = {
    **TEXT, "model_type": "gemma3_text", "sliding_window": 12, "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 32, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
}  # fmt: skip
GEMMA4 = {
    **TEXT, "model_type": "gemma4_text", "num_hidden_layers": 6, "global_head_dim": 64,
    "sliding_window": 12, "sliding_window_pattern": 3, "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCAB, "use_double_wide_mlp": False,
    "final_logit_softcapping": 30.0,
}  # fmt: skip
PER_LAYER = {
    "num_kv_shared_layers": 3, "hidden_size_per_layer_input": 32, "use_double_wide_mlp": True,
    "num_key_value_heads": 1,
}  # fmt: skip
SAME_KV = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
MIXTURE = {
    **SAME_KV, "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": {**TEXT, "model_type": "gemma"},
    "gemma-one-kv-head": {**TEXT, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 64},
    "gemma-every-head-kv": {**TEXT, "model_type": "gemma", "num_key_value_heads": 4, "rope_theta": 5e4},
    "gemma2": {**TEXT, "model_type": "gemma2", "query_pre_attn_scalar": 32},
    "gemma2-every-head-kv": {
        **TEXT, "model_type": "gemma2", "num_key_value_heads": 4, "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 144.0,
    },
    "gemma2-one-kv-head": {
        **TEXT, "model_type": "gemma2", "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
    },
    "gemma3": GEMMA3,
    "gemma3-linear-rope": {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "gemma3-multimodal": {
        "model_type": "gemma3", "vocab_size": VOCAB, "text_config": {**GEMMA3, "num_key_value_heads": 4},
    },
    "gemma4-dense": GEMMA4,
    "gemma4-per-layer": {**GEMMA4, **PER_LAYER},
    "gemma4-same-kv": {**GEMMA4, **SAME_KV},
    "gemma4-mixture": {**GEMMA4, **MIXTURE},
    "gemma4-no-cap": {**GEMMA4, "final_logit_softcapping": None, "tie_word_embeddings": False},
    "gemma4-multimodal": {
        "model_type": "gemma4", "vocab_size": VOCAB, "text_config": {**GEMMA4, **PER_LAYER},
    },
    "gemma4-unified": {
        "model_type": "gemma4_unified", "vocab_size": VOCAB,
        "text_config": {**GEMMA4, **SAME_KV, "final_logit_softcapping": None},
    },
}  # fmt: skip


CASES = list(product(CONFIGS, THREE))


@pytest.mark.parametrize(("name", "packing"), marked(CASES))
def test_logits_equal_mlx_lm(name: str, packing: str, tmp_path: Path) -> None:
    plain = packing == "bf16"
    dtype = mx.float32 if plain and "mixture" in name else mx.bfloat16  # experts, on the CPU
    save_random_model(tmp_path, CONFIGS[name], dtype=dtype, quantization=PACKINGS[packing])
    assert_parity(tmp_path, VOCAB, cuts(name, packing))


@pytest.mark.parametrize("dtype", [mx.float16, mx.float32])
def test_gemma3_in_other_dtypes(dtype: mx.Dtype, tmp_path: Path) -> None:
    """The embeddings' scale is rounded to bfloat16."""
    save_random_model(tmp_path, GEMMA3, dtype=dtype)
    assert_parity(tmp_path, VOCAB, CHUNKS[-1:])


def test_gemma3_keeps_sums_within_float16(tmp_path: Path) -> None:
    save_random_model(tmp_path, GEMMA3, dtype=mx.float16)
    tensors: Any = mx.load(str(tmp_path / "model.safetensors"))
    large = {name: 15000 * array for name, array in tensors.items() if "post_" in name}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors | large, {"format": "mlx"})
    decoder = load_decoder(tmp_path)
    state, ids = decoder.new_state(), mx.arange(37)[None]
    x = decoder.embed(ids)
    for block, memory in zip(decoder.blocks, state.layers, strict=True):
        x = block(x, memory, memory.mask(37))
    assert mx.abs(x).max().item() == mx.finfo(mx.float16).max  # else no sum needed to be kept
    assert_parity(tmp_path, VOCAB, CHUNKS[-1:])
