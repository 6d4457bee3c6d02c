"""Gemma 3 and 4: alternating windows, keys and values shared between layers, inputs for each layer."""

from __future__ import annotations

from typing import Any

from tests.oracle.case import VOCAB, WINDOW, Case, beside_vision, tiny, vision

FIVE_TO_ONE = ["sliding_attention"] * 5 + ["full_attention"]
GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "num_hidden_layers": 6,
    "sliding_window": WINDOW,
}
GEMMA3 = GEMMA | {
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window_pattern": 6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
}
LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
GEMMA4 = GEMMA | {
    "head_dim": 16,
    "global_head_dim": 32,
    "layer_types": FIVE_TO_ONE,
    "final_logit_softcapping": 3.0,
    "rope_theta": None,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": VOCAB,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
}
E4B = GEMMA4 | {
    "num_hidden_layers": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 4,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 4,
    "num_key_value_heads": 1,
}
E2B = E4B | {"use_double_wide_mlp": True}
BIG = GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
MOE = BIG | {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 48}

SIGLIP = vision("siglip_vision_model")
EYES = vision("gemma4_vision", num_key_value_heads=2, head_dim=16)
UNIFIED_EYES = {"model_type": "gemma4_unified_vision", "mm_embed_dim": 32, "output_proj_dims": 32}


def whole(model_type: str, text: dict[str, Any], eyes: dict[str, Any]) -> dict[str, Any]:
    return beside_vision(model_type, text, eyes, vocab_size=VOCAB, tie_word_embeddings=True)


CASES = (
    Case("gemma3_text", tiny("gemma3_text", **GEMMA3)),
    Case("gemma3_text-linear", tiny("gemma3_text", **GEMMA3, **LINEAR)),
    Case("gemma3", whole("gemma3", tiny("gemma3_text", **GEMMA3, **LINEAR), SIGLIP)),
    Case("gemma4_text", tiny("gemma4_text", **GEMMA4)),
    Case("gemma4-e2b", whole("gemma4", tiny("gemma4_text", **E2B), EYES)),
    Case("gemma4-e4b", whole("gemma4", tiny("gemma4_text", **E4B), EYES)),
    Case("gemma4-31b", whole("gemma4", tiny("gemma4_text", **BIG), EYES)),
    Case("gemma4-12b", whole("gemma4_unified", tiny("gemma4_unified_text", **BIG), UNIFIED_EYES)),
    Case("gemma4-26b-a4b", whole("gemma4", tiny("gemma4_text", **MOE), EYES)),
)
