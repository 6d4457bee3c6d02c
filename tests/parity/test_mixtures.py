"""Families with mixtures of experts, bit for bit against mlx-lm.

MLX gathers from unpacked weights in float32 alone on the CPU: what is not quantized is float32 here.
Prompts of 37 tokens are sorted by expert, those in shorter chunks are not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import _get_classes

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx
from tests.parity.harness import assert_parity
from tests.parity.test_families import BASE as THREE_LAYERS
from tests.parity.test_families import VOCAB, YARN_ROPE, cuts

# isort: split
from mlx.utils import tree_flatten

BASE = {**THREE_LAYERS, "num_hidden_layers": 2}
MIXTRAL = {
    "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1e6,
}  # fmt: skip
QWEN2_MOE = {
    "model_type": "qwen2_moe", "num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 128,
}  # fmt: skip
QWEN3_MOE = {
    "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True, "head_dim": 32,
    "rope_theta": 1e6, "tie_word_embeddings": False,
}  # fmt: skip
OLMOE = {
    "model_type": "olmoe", "num_experts": 8, "num_experts_per_tok": 4, "tie_word_embeddings": False,
}  # fmt: skip
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss", "num_local_experts": 8, "num_experts_per_tok": 4, "head_dim": 32,
    "sliding_window": 12, "num_hidden_layers": 4, "rope_theta": 150000, "hidden_act": "silu",
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                     "original_max_position_embeddings": 64, "truncate": False},
    "swiglu_limit": 7.0, "attention_bias": True, "tie_word_embeddings": False,
}  # fmt: skip
GLM4_MOE = {
    "model_type": "glm4_moe", "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1,
    "moe_intermediate_size": 64, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
    "routed_scaling_factor": 1.5, "first_k_dense_replace": 1, "use_qk_norm": True, "attention_bias": True,
    "partial_rotary_factor": 0.5, "head_dim": 32, "rope_theta": 1e6, "rope_scaling": None,
    "tie_word_embeddings": False,
}  # fmt: skip
GRANITEMOE = {
    "model_type": "granitemoe", "num_local_experts": 8, "num_experts_per_tok": 3, "logits_scaling": 6.0,
    "attention_multiplier": 0.0625, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
    "attention_bias": False, "rope_theta": 10000.0,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": MIXTRAL,
    "mixtral-one-of-four": {**MIXTRAL, "num_local_experts": 4, "num_experts_per_tok": 1},
    "mixtral-tied": {**MIXTRAL, "tie_word_embeddings": True, "num_key_value_heads": 4},
    "qwen2_moe": QWEN2_MOE,
    "qwen2_moe-two": {**QWEN2_MOE, "num_experts_per_tok": 2, "rope_theta": 1e4},
    "qwen2_moe-one": {**QWEN2_MOE, "num_experts_per_tok": 1, "num_key_value_heads": 1},
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe-scores-as-they-are": {**QWEN3_MOE, "norm_topk_prob": False, "tie_word_embeddings": True},
    "qwen3_moe-some-dense": {
        **QWEN3_MOE, "num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": [3],
    },
    "olmoe": OLMOE,
    "olmoe-normalised": {**OLMOE, "norm_topk_prob": True, "tie_word_embeddings": True, "head_dim": 32},
    "olmoe-biases": {**OLMOE, "attention_bias": True, "mlp_bias": True, "rope_scaling": YARN_ROPE},
    "gpt_oss": GPT_OSS,
    "gpt_oss-plain-rope": {**GPT_OSS, "rope_scaling": None, "num_experts_per_tok": 2},
    "gpt_oss-stated": {
        **GPT_OSS, "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    },
    "glm4_moe": GLM4_MOE,
    "glm4_moe-groups": {**GLM4_MOE, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 0},
    "glm4_moe-plain": {
        **GLM4_MOE, "use_qk_norm": False, "attention_bias": False, "norm_topk_prob": False,
        "n_shared_experts": 2, "partial_rotary_factor": 1.0, "num_experts_per_tok": 1,
    },
    "granitemoe": GRANITEMOE,
    "granitemoe-untied": {**GRANITEMOE, "tie_word_embeddings": False, "attention_bias": True},
    "granitemoe-yarn": {**GRANITEMOE, "rope_scaling": YARN_ROPE, "num_experts_per_tok": 2},
}  # fmt: skip
PACKINGS: dict[str, dict[str, Any] | None] = {
    "float32": None,
    "4-bit": {"group_size": 32, "bits": 4},
    "mixed": {"group_size": 32, "bits": 4},  # and every second of the rest otherwise
    "as converted": {"group_size": 64, "bits": 4},  # and what mlx-lm keeps in more bits
    "mxfp4 experts": {"group_size": 64, "bits": 8},  # as GPT-OSS is published for MLX
}
EXPERTS = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "glm4_moe", "granitemoe")
CASES = [
    *((name, packing) for name in FAMILIES for packing in ("float32", "4-bit", "mixed")),
    *((name, "as converted") for name in ("gpt_oss", "qwen3_moe", "granitemoe")),
    *((name, "mxfp4 experts") for name in ("gpt_oss", "mixtral", "qwen3_moe")),
    *((name, "4-bit") for name in CONFIGS if name not in FAMILIES),
]


def quantization_of(config: dict[str, Any], packing: str) -> dict[str, Any] | None:
    """The settings that mlx-lm's conversion writes beside those of the whole file."""
    setting = PACKINGS[packing]
    if setting is None or packing == "4-bit":
        return setting
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(dict(config)))
    modules: Any = tree_flatten(model.leaf_modules(), is_leaf=lambda m: hasattr(m, "parameters"))
    paths = [path for path, module in modules if hasattr(module, "to_quantized")]
    if packing == "mixed":
        others: list[Any] = [{"group_size": 64, "bits": 8}, {"group_size": 32, "bits": 5}]
        return setting | {path: others[i % 2] for i, path in enumerate(paths[1::2])}
    if packing == "mxfp4 experts":
        stacks = ("experts.", "switch_mlp.")
        return setting | {path: EXPERTS for path in paths if any(name in path for name in stacks)}
    predicate = getattr(model, "quant_predicate", lambda path, _: True)
    own = {path: predicate(path, None) for path in paths}
    return setting | {path: said for path, said in own.items() if isinstance(said, dict)}


def config_of(name: str) -> dict[str, Any]:
    return {**BASE, **CONFIGS[name]}


def save(folder: Path, config: dict[str, Any], packing: str) -> None:
    dtype = mx.float32 if PACKINGS[packing] is None else mx.bfloat16
    save_random_model(folder, config, dtype=dtype, quantization=quantization_of(config, packing))


@pytest.mark.parametrize(("name", "packing"), CASES)
def test_logits_equal_mlx_lm(name: str, packing: str, tmp_path: Path) -> None:
    save(tmp_path, config_of(name), packing)
    assert_parity(tmp_path, VOCAB, cuts(name, packing))


def test_gpt_oss_beyond_the_limit_of_its_activation(tmp_path: Path) -> None:
    """Random weights stay below it."""
    save(tmp_path, config_of("gpt_oss"), "float32")
    tensors: Any = mx.load(str(tmp_path / "model.safetensors"))
    large = {
        n: 16 * a for n, a in tensors.items() if n.endswith(("experts.gate_proj.weight", "up_proj.weight"))
    }
    assert len(large) == 2 * GPT_OSS["num_hidden_layers"]
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors | large, {"format": "mlx"})
    assert_parity(tmp_path, VOCAB, [(37,)])


def test_mlx_lms_conversion_keeps_routers_in_more_bits() -> None:
    """Else "as converted" would be another word for "4-bit"."""
    for name, router in {"gpt_oss": "mlp.router", "qwen3_moe": "mlp.gate"}.items():
        said = quantization_of({**BASE, **CONFIGS[name]}, "as converted")
        assert said is not None and said[f"model.layers.0.{router}"] == {"group_size": 64, "bits": 8}


# The true sizes, cut to two layers.
PUBLISHED: dict[str, dict[str, Any]] = {
    "granite-3.0-1b-a400m": {
        **GRANITEMOE, "hidden_size": 1024, "intermediate_size": 512, "num_local_experts": 32,
        "num_experts_per_tok": 8, "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 49155,
        "rms_norm_eps": 1e-6, "attention_multiplier": 0.015625, "max_position_embeddings": 4096,
    },
    "Qwen1.5-MoE-A2.7B": {
        **QWEN2_MOE, "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632, "num_experts": 60, "num_experts_per_tok": 4,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 151936, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 8192,
    },
    "Qwen3-30B-A3B": {
        **QWEN3_MOE, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "vocab_size": 151936, "rms_norm_eps": 1e-6, "max_position_embeddings": 40960,
    },
    "OLMoE-1B-7B": {
        **OLMOE, "hidden_size": 2048, "intermediate_size": 1024, "num_experts": 64, "num_experts_per_tok": 8,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 50304, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
    },
    "gpt-oss-20b": {
        **GPT_OSS, "hidden_size": 2880, "intermediate_size": 2880, "num_local_experts": 32, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 201088, "sliding_window": 128,
        "max_position_embeddings": 131072,
        "rope_scaling": {**GPT_OSS["rope_scaling"], "original_max_position_embeddings": 4096},
    },
    "GLM-4.5-Air": {
        **GLM4_MOE, "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408,
        "n_routed_experts": 128, "num_experts_per_tok": 8, "num_attention_heads": 96,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151552, "routed_scaling_factor": 1.0,
        "use_qk_norm": False, "max_position_embeddings": 131072,
    },
    "Mixtral-8x7B": {
        **MIXTRAL, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
    },
}  # fmt: skip


def assert_parity_of_published(name: str, folder: Path, packing: str) -> None:
    # No family does anything of its own with its vocabulary, and two layers' experts are large enough.
    config = {**BASE, **PUBLISHED[name], "num_hidden_layers": 2, "vocab_size": VOCAB}
    save(folder, config, packing)
    assert_parity(folder, config["vocab_size"], [(8, 3)], steps=2)


@pytest.mark.long
def test_true_sizes_cut_to_two_layers(tmp_path: Path) -> None:
    assert_parity_of_published("granite-3.0-1b-a400m", tmp_path, "float32")


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_true_sizes_quantized(name: str, tmp_path: Path) -> None:
    packing = "mxfp4 experts" if name == "gpt-oss-20b" else "as converted"
    assert_parity_of_published(name, tmp_path, packing)
