"""Families with latent attention, and what is scaled as MiniCPM3 is, equal mlx-lm bit for bit.

Unquantized experts are float32: on the CPU, MLX gathers from nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx

# isort: split
import mlx.nn as nn
from mlx_lm.utils import _get_classes

from tests.parity.harness import assert_parity, logits_of_mlx_lm, logits_of_ours

VOCAB = 260
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "q_lora_rank": 64,
    "kv_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 64,
    "tie_word_embeddings": False,
}
YARN = {
    "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 64,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "routed_scaling_factor": 2.5,
}
V2: dict[str, Any] = {
    **BASE, **EXPERTS, "model_type": "deepseek_v2", "rope_scaling": YARN, "scoring_func": "softmax",
    "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "norm_topk_prob": False,
}  # fmt: skip
V3: dict[str, Any] = {
    **BASE, **EXPERTS, "model_type": "deepseek_v3", "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, "n_group": 4, "topk_group": 2,
    "norm_topk_prob": True, "n_shared_experts": 1,
}  # fmt: skip
LONGROPE = {
    "type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1 + 0.5 * i for i in range(8)],
    "original_max_position_embeddings": 1024,
}  # fmt: skip
MINICPM3: dict[str, Any] = {
    **BASE, "model_type": "minicpm3", "v_head_dim": 16, "rms_norm_eps": 1e-5, "scale_emb": 12,
    "scale_depth": 1.4, "dim_model_base": 16, "rope_scaling": LONGROPE, "rope_theta": 10000.0,
}  # fmt: skip
MINICPM: dict[str, Any] = {
    "model_type": "minicpm", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "vocab_size": VOCAB,
    "max_position_embeddings": 4096, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16,
    "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "v2": V2,
    "v2-lite": {**V2, "q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
                "routed_scaling_factor": 1.0},
    "v2-dense-biases": {**V2, "n_routed_experts": None, "attention_bias": True},
    "v2-every-second-layer": {**V2, "moe_layer_freq": 2, "first_k_dense_replace": 0, "n_shared_experts": None,
                              "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
    "v2-all-groups": {**V2, "topk_group": 4},
    "v3": V3,
    "v3-plain-queries": {**V3, "q_lora_rank": None, "rope_scaling": None, "n_group": 1, "topk_group": 1},
    "v3-one-expert-biases": {**V3, "attention_bias": True, "num_experts_per_tok": 1, "n_shared_experts": None,
                             "norm_topk_prob": False, "first_k_dense_replace": 2},
    "kimi-k2": {**V3, "model_type": "kimi_k2", "n_group": 1, "topk_group": 1,
                "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
    "v3-sorted-experts": {**V3, "num_experts_per_tok": 4},
    "minicpm3": MINICPM3,
    "minicpm3-one-factor": {**MINICPM3, "rope_scaling": {"type": "longrope"}, "attention_bias": True},
    "minicpm3-no-growth": {**MINICPM3, "max_position_embeddings": 1024},
    "minicpm": MINICPM,
    "minicpm-few-kv-heads": {**MINICPM, "num_key_value_heads": 2, "scale_depth": 0.7, "dim_model_base": 24},
    "minicpm-longrope": {**MINICPM, "rope_scaling": {**LONGROPE, "original_max_position_embeddings": 32}},
}  # fmt: skip
PACKINGS: dict[str, dict[str, Any] | None] = {
    "float32": None,
    "4-bit": {"group_size": 32, "bits": 4},
    "mixed": {
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": {"group_size": 32, "bits": 8},
        "model.layers.0.self_attn.embed_q": {"group_size": 32, "bits": 8},
        "model.layers.1.self_attn.unembed_out": False,
        "model.layers.1.self_attn.kv_b_proj": {"group_size": 32, "bits": 6},
        "model.layers.1.self_attn.kv_a_proj_with_mqa": {"group_size": 64, "bits": 8},
        "model.layers.2.self_attn.o_proj": False,
    },
}
CHUNKS = [(37,), (16, 16, 5), (1, 30, 6)]
FULL = ("v2", "v3", "minicpm3", "minicpm")  # these meet every packing
CASES = [(name, packing) for name in CONFIGS for packing in PACKINGS if name in FULL or packing == "float32"]


@pytest.mark.parametrize(("name", "packing"), CASES)
def test_logits_equal_mlx_lm(name: str, packing: str, tmp_path: Path) -> None:
    dtype = mx.float32 if packing == "float32" else mx.bfloat16
    save_random_model(tmp_path, CONFIGS[name], dtype=dtype, quantization=PACKINGS[packing])
    assert_parity(tmp_path, VOCAB, CHUNKS if name in FULL and packing == "float32" else CHUNKS[-1:])


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("name", ["v2-dense-biases", "v3", "minicpm3", "minicpm"])
def test_narrow_dtypes(name: str, dtype: mx.Dtype, tmp_path: Path) -> None:
    config = {**CONFIGS[name], "n_routed_experts": None}
    save_random_model(tmp_path, config, dtype=dtype)
    assert_parity(tmp_path, VOCAB, CHUNKS[-1:])


@pytest.mark.parametrize("name", ["v3", pytest.param("minicpm3", marks=pytest.mark.long)])
def test_past_the_buffer_step(name: str, tmp_path: Path) -> None:
    save_random_model(tmp_path, CONFIGS[name], quantization=PACKINGS["4-bit"])
    assert_parity(tmp_path, VOCAB, [(250, 10)], steps=8)


@pytest.mark.parametrize("packing", ["float32", "4-bit"])
def test_a_checkpoint_that_keeps_both_ways_in_one_matrix(packing: str, tmp_path: Path) -> None:
    """As DeepSeek publishes it, and as older conversions for MLX have it packed."""
    dtype = mx.float32 if packing == "float32" else mx.bfloat16
    save_random_model(tmp_path, V3, dtype=dtype, quantization=PACKINGS[packing])
    tensors = tensors_of(tmp_path)
    for layer in range(V3["num_hidden_layers"]):
        path = f"model.layers.{layer}.self_attn"
        for name in [n for n in tensors if n.startswith((f"{path}.embed_q", f"{path}.unembed_out"))]:
            del tensors[name]
        weight = (mx.random.normal((4 * (32 + 64), 96)) * 96**-0.5).astype(dtype)
        parts = [weight] if packing == "float32" else mx.quantize(weight, 32, 4)
        for name, array in zip(("weight", "scales", "biases"), parts, strict=False):
            tensors[f"{path}.kv_b_proj.{name}"] = array
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    assert_parity(tmp_path, VOCAB, CHUNKS)


def test_the_layer_that_guesses_ahead_is_left_out(tmp_path: Path) -> None:
    save_random_model(tmp_path, V3, dtype=mx.float32)
    tensors = tensors_of(tmp_path)
    mine = {n.replace("layers.2.", "layers.61."): a for n, a in tensors.items() if "layers.2." in n}
    assert mine
    more = mine | {"model.layers.61.eh_proj.weight": mx.zeros((64, 128))}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors | more)
    assert_parity(tmp_path, VOCAB, [(9,)], steps=2)


def test_deepseek_v2_without_scaled_positions(tmp_path: Path) -> None:
    """mlx-lm cannot load it. It is yarn by a factor of one, but for the last bits of the frequencies."""
    save_random_model(tmp_path, {**V2, "rope_scaling": {"type": "yarn", "factor": 1.0}}, dtype=mx.float32)
    ids = list(range(40))
    theirs = mx.concatenate(logits_of_mlx_lm(tmp_path, ids, (30, 10)), axis=1)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_scaling": None}))
    ours = mx.concatenate(logits_of_ours(tmp_path, ids, (30, 10)), axis=1)
    assert mx.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packing", [None, PACKINGS["4-bit"]], ids=["unpacked", "4-bit"])
@pytest.mark.parametrize("base", [MINICPM3, MINICPM], ids=["minicpm3", "minicpm"])
def test_a_tied_head_reads_the_divided_hidden_state(base: Any, packing: Any, tmp_path: Path) -> None:
    """As the publisher has it; mlx-lm divides before a head of its own only, and loads no tied MiniCPM."""
    save_random_model(tmp_path, {**base, "tie_word_embeddings": True}, quantization=packing)
    [ours] = logits_of_ours(tmp_path, range(20), (20,))
    model_class, args_class = _get_classes(base)
    model: Any = model_class(args_class.from_dict({**base, "tie_word_embeddings": True}))
    if packing is not None:
        nn.quantize(model, **packing)
    model.load_weights(list(tensors_of(tmp_path).items()))
    divided = model.model(mx.array([list(range(20))])) / (64 / 16)
    assert mx.array_equal(ours, model.model.embed_tokens.as_linear(divided))


def test_minicpm_without_a_head(tmp_path: Path) -> None:
    """Its configs say nothing of tied embeddings; mlx-lm takes them for the head that it does not find."""
    config = {key: value for key, value in MINICPM.items() if key != "tie_word_embeddings"}
    save_random_model(tmp_path, config)
    tensors = tensors_of(tmp_path)
    del tensors["lm_head.weight"]
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    assert_parity(tmp_path, VOCAB, CHUNKS)


def tensors_of(folder: Path) -> dict[str, mx.array]:
    tensors = mx.load(str(folder / "model.safetensors"))
    assert isinstance(tensors, dict)
    mx.eval(tensors)
    return tensors


# Sizes as published, cut to two layers, of which the second has experts.
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "DeepSeek-V2-Lite": {
        **V2, "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944,
        "num_attention_heads": 16, "num_key_value_heads": 16, "moe_intermediate_size": 1408,
        "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "kv_lora_rank": 512,
        "q_lora_rank": None, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "topk_method": "greedy", "n_group": 1, "topk_group": 1,
        "routed_scaling_factor": 1.0, "max_position_embeddings": 163840,
        "rope_scaling": {**YARN, "original_max_position_embeddings": 4096},
    },
    "DeepSeek-V3": {
        **V3, "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
        "num_attention_heads": 128, "num_key_value_heads": 128, "moe_intermediate_size": 2048,
        "n_routed_experts": 256, "num_experts_per_tok": 8, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128, "n_group": 8, "topk_group": 4,
        "max_position_embeddings": 163840,
        "rope_scaling": {**V3["rope_scaling"], "original_max_position_embeddings": 4096},
    },
    "MiniCPM3-4B": {
        **MINICPM3, "vocab_size": 73448, "hidden_size": 2560, "intermediate_size": 6400,
        "num_attention_heads": 40, "num_key_value_heads": 40, "q_lora_rank": 768, "kv_lora_rank": 256,
        "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "dim_model_base": 256,
        "max_position_embeddings": 32768,
        "rope_scaling": {**LONGROPE, "long_factor": [1 + 0.5 * i for i in range(16)],
                         "original_max_position_embeddings": 32768},
    },
    "MiniCPM-2B": {
        **MINICPM, "vocab_size": 122753, "hidden_size": 2304, "num_attention_heads": 36,
        "num_key_value_heads": 36, "intermediate_size": 5760, "dim_model_base": 256,
        "max_position_embeddings": 4096,
    },
}  # fmt: skip
# What the short test leaves of DeepSeek-V3: the sizes of a head, few heads, experts and words, and a narrower
# model. The long one keeps all but its experts, of which a layer has 11 billion parameters. Scales are
# float32: the CPU is faster there.
FEWER: Mapping[str, Any] = {
    "n_routed_experts": 16, "vocab_size": VOCAB, "hidden_size": 1024, "num_attention_heads": 8,
    "num_key_value_heads": 8, "intermediate_size": 2048, "moe_intermediate_size": 256,
}  # fmt: skip


def test_true_sizes_cut_to_two_layers(tmp_path: Path) -> None:
    config = {**PUBLISHED["DeepSeek-V3"], **FEWER, "num_hidden_layers": 2}
    save_random_model(tmp_path, config, dtype=mx.float32, quantization=PACKINGS["4-bit"])
    assert_parity(tmp_path, VOCAB, [(4, 2)], steps=2)


@pytest.mark.long
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_true_sizes_at_length(name: str, tmp_path: Path) -> None:
    fewer = {"n_routed_experts": 16} if name == "DeepSeek-V3" else {}
    config = {**PUBLISHED[name], **fewer, "num_hidden_layers": 2}
    packing = {"group_size": 64, "bits": 4}
    save_random_model(tmp_path, config, dtype=mx.float32, quantization=packing)
    assert_parity(tmp_path, config["vocab_size"], [(16, 21)], steps=12)
