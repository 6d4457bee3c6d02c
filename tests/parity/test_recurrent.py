"""Families with recurrent layers equal mlx-lm bit for bit, chunk border for chunk border.

Where a chunk ends is part of the numbers: mamba-2 adds up a chunk in another order than its tokens one
by one. So both are given the same chunks. Afterwards, what a state was copied to must go on as it does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from bench.family_shapes import MODELS
from bench.random_models import save_random_model
from mlxone.backend.arrays import mx, on_stream
from mlxone.kv.prefixes import PrefixStore
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.parity.harness import assert_parity

VOCAB = 260
BASE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 4096,
}  # fmt: skip
DELTA: dict[str, Any] = {
    "head_dim": 32, "rms_norm_eps": 1e-6, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 32, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
}  # fmt: skip
QWEN_MIXTURE: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
}  # fmt: skip
QWEN3_NEXT: dict[str, Any] = {
    **BASE, **DELTA, "model_type": "qwen3_next", "num_experts": 0, "num_experts_per_tok": 0,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
}  # fmt: skip
ROPE_35 = {"type": "default", "mrope_section": [1, 2, 1], "rope_theta": 20000, "partial_rotary_factor": 0.25}
QWEN3_5: dict[str, Any] = {**BASE, **DELTA, "model_type": "qwen3_5", "rope_parameters": ROPE_35}
NEMOTRON: dict[str, Any] = {
    **BASE, "model_type": "nemotron_h", "hybrid_override_pattern": "M-M*M-", "num_hidden_layers": 6,
    "attention_bias": False, "mamba_num_heads": 8, "mamba_head_dim": 16, "mamba_proj_bias": False,
    "ssm_state_size": 32, "conv_kernel": 4, "n_groups": 2, "mlp_bias": False, "layer_norm_epsilon": 1e-5,
    "use_bias": False, "use_conv_bias": True, "head_dim": 32, "mlp_hidden_act": "relu2",
}  # fmt: skip
NEMOTRON_MIXTURE: dict[str, Any] = {
    "hybrid_override_pattern": "ME*E", "num_hidden_layers": 4, "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 64, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "num_experts_per_tok": 2, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
}  # fmt: skip
GRANITE: dict[str, Any] = {
    **BASE, "model_type": "granitemoehybrid", "attention_bias": False, "embedding_multiplier": 12.0,
    "attention_multiplier": 0.015625, "logits_scaling": 8.0, "residual_multiplier": 0.22,
    "layer_types": ["mamba", "attention", "mamba", "mamba"], "rms_norm_eps": 1e-5, "mamba_n_heads": 8,
    "mamba_d_head": 16, "mamba_proj_bias": False, "mamba_d_state": 32, "mamba_d_conv": 4,
    "mamba_n_groups": 1, "mamba_conv_bias": True, "position_embedding_type": "nope",
}  # fmt: skip
GRANITE_MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 64}
LFM2: dict[str, Any] = {
    **BASE, "model_type": "lfm2", "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 64,
    "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 192, "layer_types": ["conv", "full_attention", "conv", "conv"],
}  # fmt: skip
LFM2_MOE: dict[str, Any] = {
    **BASE, "model_type": "lfm2_moe", "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3,
    "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True,
    "use_expert_bias": True, "num_dense_layers": 1,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
}  # fmt: skip


def _two_layers(model: str, **changes: Any) -> dict[str, Any]:
    """Of a published model: a recurrent layer and one that attends; mlx-lm needs one of each."""
    config = copy.deepcopy(MODELS[model].config)
    text = config.get("text_config", config)
    text |= {"num_hidden_layers": 2, **changes}
    if "linear_num_key_heads" in text:
        text |= {"full_attention_interval": 2, "layer_types": ["linear_attention", "full_attention"]}
    return config


CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_next": QWEN3_NEXT,
    "qwen3_next-mixture": {**QWEN3_NEXT, **QWEN_MIXTURE, "norm_topk_prob": True},
    "qwen3_next-some-dense": {
        **QWEN3_NEXT, **QWEN_MIXTURE, "decoder_sparse_step": 2, "mlp_only_layers": [3],
        "linear_num_key_heads": 4, "full_attention_interval": 4, "attention_bias": True,
        "norm_topk_prob": False,
    },
    "qwen3_5": QWEN3_5,
    "qwen3_5-tied-square": {**QWEN3_5, "tie_word_embeddings": True, "linear_value_head_dim": 32},
    "qwen3_5-nested": {
        "model_type": "qwen3_5", "vision_config": {"depth": 2},
        "text_config": {**QWEN3_5, "model_type": "qwen3_5_text", "linear_num_value_heads": 2},
    },
    "qwen3_5_moe": {
        "model_type": "qwen3_5_moe",
        "text_config": {**QWEN3_5, **QWEN_MIXTURE, "model_type": "qwen3_5_moe_text"},
    },
    "nemotron_h": NEMOTRON,
    "nemotron_h-biases-limits": {
        **NEMOTRON, "attention_bias": True, "mamba_proj_bias": True, "mlp_bias": True, "use_conv_bias": False,
        "n_groups": 1, "time_step_limit": [0.01, 0.05],
    },
    "nemotron_h-mixture": {**NEMOTRON, **NEMOTRON_MIXTURE},
    "nemotron_h-latent-groups": {
        **NEMOTRON, **NEMOTRON_MIXTURE, "moe_latent_size": 32, "n_group": 4, "topk_group": 2,
        "hybrid_override_pattern": None, "layers_block_type": ["mamba", "moe", "attention", "mlp"],
    },
    "nemotron_h-layer-types": {
        **NEMOTRON, "hybrid_override_pattern": None, "num_hidden_layers": 3,
        "layer_types": ["full_attention", "linear_attention", "mlp"],
    },
    "granitemoehybrid": GRANITE,
    "granitemoehybrid-mixture": {**GRANITE, **GRANITE_MIXTURE},
    "granitemoehybrid-rope-untied": {
        **GRANITE, **GRANITE_MIXTURE, "position_embedding_type": "rope", "tie_word_embeddings": False,
        "mamba_n_groups": 2, "mamba_conv_bias": False, "rope_parameters": {"rope_theta": 50000.0},
    },
    "lfm2": LFM2,
    "lfm2-biases-plain-size": {
        **LFM2, "conv_bias": True, "block_auto_adjust_ff_dim": False, "layer_types": None,
        "full_attn_idxs": [0, 3], "conv_L_cache": 4,
    },
    "lfm2_moe": LFM2_MOE,
    "lfm2_moe-plain-choice": {
        **LFM2_MOE, "use_expert_bias": False, "norm_topk_prob": False, "num_dense_layers": 0,
        "routed_scaling_factor": 1.5, "rope_parameters": {"rope_theta": 5000.0},
    },
}  # fmt: skip
MIXTURES = tuple(name for name in CONFIGS if "moe" in str(CONFIGS[name]) or "mixture" in name)
PACKINGS: dict[str, dict[str, Any]] = {
    "4-bit": {"group_size": 32, "bits": 4},
    "mixed": {
        "group_size": 32, "bits": 4,
        "model.layers.0.linear_attn.in_proj_a": False,
        "language_model.model.layers.0.linear_attn.in_proj_a": False,
        "language_model.model.layers.0.linear_attn.in_proj_z": {"group_size": 64, "bits": 8},
        "model.layers.0.linear_attn.in_proj_qkvz": {"group_size": 64, "bits": 8},
        "backbone.layers.0.mixer.in_proj": {"group_size": 64, "bits": 8},
        "backbone.embeddings": False,
        "model.layers.0.mamba.out_proj": {"group_size": 64, "bits": 6},
        "model.layers.0.conv.in_proj": {"group_size": 64, "bits": 8},
        "model.layers.2.conv.out_proj": False,
    },
}  # fmt: skip
CHUNKS = [(37,), (16, 5), (1, 30, 6), (2, 2)]
# These meet every packing and every way to cut a prompt, the others a few of them.
FULL = ("qwen3_next", "qwen3_5_moe", "nemotron_h-mixture", "granitemoehybrid-mixture", "lfm2", "lfm2_moe")
CASES = [
    (name, packing)
    for name in CONFIGS
    for packing in ("plain", *PACKINGS)
    if name in FULL or packing == "plain" or (packing == "4-bit" and "-" not in name)
]


def saved(folder: Path, name: str, packing: str = "plain") -> Path:
    """Unpacked experts are float32: on the CPU MLX gathers from nothing else."""
    dtype = mx.float32 if packing == "plain" and name in MIXTURES else mx.bfloat16
    save_random_model(folder, CONFIGS[name], dtype=dtype, quantization=PACKINGS.get(packing))
    return folder


@pytest.mark.parametrize(("name", "packing"), CASES)
def test_logits_equal_mlx_lm(name: str, packing: str, tmp_path: Path) -> None:
    chunks = CHUNKS if name in FULL and packing == "plain" else [(1, 30, 6)]
    assert_parity(saved(tmp_path, name, packing), VOCAB, chunks)


@pytest.mark.parametrize("name", ["qwen3_next", "nemotron_h", "granitemoehybrid", "lfm2"])
def test_in_half_precision(name: str, tmp_path: Path) -> None:
    save_random_model(tmp_path, CONFIGS[name], dtype=mx.float16)
    assert_parity(tmp_path, VOCAB, [(1, 30, 6)])


@pytest.mark.parametrize("name", ["nemotron_h", "granitemoehybrid"])
def test_chunks_longer_than_mamba_takes_at_once(name: str, tmp_path: Path) -> None:
    assert_parity(saved(tmp_path, name), VOCAB, [(600,), (257, 255)], steps=4)


def test_a_checkpoint_that_also_sees_and_drafts(tmp_path: Path) -> None:
    """What a text does not need is skipped by both."""
    save_random_model(tmp_path, CONFIGS["qwen3_5-nested"])
    arrays = cast("dict[str, mx.array]", mx.load(str(tmp_path / "model.safetensors")))
    more = {"vision_tower.blocks.0.attn.qkv.weight": (8, 4), "language_model.mtp.fc.weight": (4, 8)}
    arrays |= {name: mx.zeros(shape) for name, shape in more.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays, {"format": "mlx"})
    assert_parity(tmp_path, VOCAB, [(9,)], steps=3)


# The true sizes, cut to two layers. Those of large models are the ones that `bench.families` computes with.
_QWEN3_NEXT_80B: dict[str, Any] = {
    "model_type": "qwen3_next", "hidden_size": 2048, "intermediate_size": 5120, "num_attention_heads": 16,
    "num_key_value_heads": 2, "head_dim": 256, "linear_num_value_heads": 32, "linear_num_key_heads": 16,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    "num_experts": 512, "num_experts_per_tok": 10, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "shared_expert_intermediate_size": 512, "moe_intermediate_size": 512, "norm_topk_prob": True,
    "rms_norm_eps": 1e-6, "vocab_size": 151936, "rope_theta": 10000000, "partial_rotary_factor": 0.25,
    "max_position_embeddings": 262144, "full_attention_interval": 2, "num_hidden_layers": 2,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "LFM2-350M": {
        "model_type": "lfm2", "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8,
        "vocab_size": 65536, "block_dim": 1024, "block_ff_dim": 6656, "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True, "conv_bias": False,
        "conv_L_cache": 3, "norm_eps": 1e-5, "rope_theta": 1000000.0, "max_position_embeddings": 128000,
        "layer_types": ["conv", "full_attention"], "num_hidden_layers": 2,
    },
    "Qwen3.5-0.8B": _two_layers(
        "Qwen3.5-4B", hidden_size=1024, intermediate_size=3584, num_attention_heads=8, num_key_value_heads=2,
        linear_num_value_heads=16,
    ),
    "Granite-4.0-H-350M": {
        "model_type": "granitemoehybrid", "hidden_size": 768, "intermediate_size": 2048,
        "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 100352, "attention_bias": False,
        "embedding_multiplier": 12, "attention_multiplier": 0.015625, "logits_scaling": 3,
        "residual_multiplier": 0.246, "rms_norm_eps": 1e-5, "max_position_embeddings": 32768,
        "position_embedding_type": "nope", "mamba_n_heads": 48, "mamba_d_head": 32, "mamba_d_state": 128,
        "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_conv_bias": True, "mamba_proj_bias": False,
        "layer_types": ["mamba", "attention"], "num_hidden_layers": 2, "num_local_experts": 0,
    },
}  # fmt: skip
LARGE: dict[str, tuple[dict[str, Any], str]] = {
    "Qwen3-Next-80B-A3B": (_QWEN3_NEXT_80B, "4-bit"),
    "Qwen3.5-4B": (_two_layers("Qwen3.5-4B"), "plain"),
    "Qwen3.5-35B-A3B": (_two_layers("Qwen3.5-35B-A3B"), "4-bit"),
    "Nemotron-H-4B": (_two_layers("Nemotron-H-4B", hybrid_override_pattern="M*"), "plain"),
    "Nemotron-3-Nano-30B-A3B": (
        _two_layers(
            "Nemotron-H-4B", hybrid_override_pattern="M*E", num_hidden_layers=3, hidden_size=2688,
            mamba_num_heads=64,
            intermediate_size=1856, moe_intermediate_size=1856, moe_shared_expert_intermediate_size=3712,
            n_routed_experts=128, n_shared_experts=1, num_experts_per_tok=6, n_group=1, topk_group=1,
            norm_topk_prob=True, routed_scaling_factor=2.5, num_key_value_heads=2,
        ),
        "4-bit",
    ),
    "Granite-4.0-H-Tiny": (
        {
            **PUBLISHED["Granite-4.0-H-350M"], "hidden_size": 1536, "intermediate_size": 512,
            "shared_intermediate_size": 1024, "num_local_experts": 64, "num_experts_per_tok": 6,
            "attention_multiplier": 0.0078125, "logits_scaling": 6, "residual_multiplier": 0.22,
            "mamba_d_head": 64, "max_position_embeddings": 131072,
        },
        "4-bit",
    ),
    "LFM2-2.6B": (_two_layers("LFM2-2.6B", layer_types=["conv", "full_attention"]), "plain"),
    "LFM2-8B-A1B": (
        {
            **PUBLISHED["LFM2-350M"], "model_type": "lfm2_moe", "hidden_size": 2048,
            "intermediate_size": 7168,
            "moe_intermediate_size": 1792, "num_experts": 32, "num_experts_per_tok": 4,
            "num_attention_heads": 32, "num_dense_layers": 1, "norm_topk_prob": True, "use_expert_bias": True,
        },
        "4-bit",
    ),
}  # fmt: skip


def test_true_sizes_cut_to_two_layers(tmp_path: Path) -> None:
    """But for the vocabulary: a head takes longer than both layers."""
    save_random_model(tmp_path, {**PUBLISHED["Granite-4.0-H-350M"], "vocab_size": VOCAB})
    assert_parity(tmp_path, VOCAB, [(16, 5)], steps=4)


@pytest.mark.long
@pytest.mark.parametrize("name", [*PUBLISHED, *LARGE])
def test_true_sizes_at_length(name: str, tmp_path: Path) -> None:
    config, packing = LARGE[name] if name in LARGE else (PUBLISHED[name], "plain")
    save_random_model(tmp_path, config, quantization=PACKINGS.get(packing))
    assert_parity(tmp_path, VOCAB, [(5, 3)], steps=3)


# What was kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5_moe", "nemotron_h", "granitemoehybrid", "lfm2"])
def test_what_a_state_was_copied_to_goes_on_as_it_does(name: str, tmp_path: Path) -> None:
    decoder = load_decoder(saved(tmp_path, name, "4-bit"))
    ids = [(7 * number + number // 9) % VOCAB for number in range(60)]
    state, store = decoder.new_state(), PrefixStore(10**9)
    logits_of(decoder, state, [ids[:20], ids[20:31]])
    with on_stream():
        assert store.put("a", ids[:31], state)
        snapshot = ModelState([layer.snapshot() for layer in state.layers])
        mx.eval(snapshot.arrays())
    copies = {
        "fork": state.fork(), "fork of a snapshot": snapshot.fork(), "snapshot": snapshot,
        "stored": store.take("a", ids, decoder.new_state),
        "stored, again": store.take("a", [*ids[:31], 5], decoder.new_state),
    }  # fmt: skip
    rest = [ids[31:40], *([id] for id in ids[40:])]
    expected = logits_of(decoder, state, rest)
    for kind, twin in copies.items():
        assert twin.offset == 31, kind
        for step, (a, b) in enumerate(zip(expected, logits_of(decoder, twin, rest), strict=True)):
            assert mx.array_equal(a, b), f"{kind}: step {step} differs"


def logits_of(decoder: Decoder, state: ModelState, chunks: Sequence[Sequence[int]]) -> list[mx.array]:
    results: list[mx.array] = []
    with on_stream():
        for chunk in chunks:
            results.append(decoder.logits(decoder.hidden(mx.array([chunk]), state)))
            mx.eval(results[-1], state.arrays())
    return results
