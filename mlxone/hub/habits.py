"""What a model type means by what its configs leave out, and which of their keys say nothing.

Only what decides memory. `models/families` reads the same configs for what is computed; a test holds
the two equal for every family (tests/hub/test_facts_of_families.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GEMMA3 = {
    "hidden_size": 1152, "num_hidden_layers": 26, "intermediate_size": 6912, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144, "sliding_window_pattern": 6,
    "max_position_embeddings": 131_072,
}  # fmt: skip
_GEMMA4 = {
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512,
    "vocab_size": 262_144, "sliding_window": 512, "sliding_window_pattern": 6,
    "max_position_embeddings": 131_072, "enable_moe_block": False,
}  # fmt: skip
_DEEPSEEK = {"max_position_embeddings": 2048}
# By the name of the whole model, else of the text model inside it.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": {"head_dim": 256},
    "gemma2": {"head_dim": 256},
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3 | {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208},
    "gemma4_text": _GEMMA4,
    "gemma4": _GEMMA4,
    "gemma4_unified": _GEMMA4 | {"sliding_window": 1024, "max_position_embeddings": 262_144},
    "cohere2": {"head_dim": 128, "sliding_window": 4096, "sliding_window_pattern": 4},
    "olmo3": {"sliding_window_pattern": 4},
    "gpt_oss": {
        "head_dim": 64, "sliding_window": 128, "sliding_window_pattern": 2, "vocab_size": 201_088,
        "num_local_experts": 128, "num_experts_per_tok": 4,
    },
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32_000},
    "qwen2": {"max_position_embeddings": 32_768},
    "starcoder2": {"vocab_size": 49_152},
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "minicpm3": {"max_position_embeddings": 32_768},
}  # fmt: skip

# Heads have hidden_size / num_attention_heads dimensions, whatever `head_dim` says.
PLAIN_HEADS = frozenset({
    "qwen2", "qwen2_moe", "phi3", "granite", "granitemoe", "granitemoehybrid", "starcoder2", "stablelm",
    "lfm2", "lfm2_moe", "minicpm",
})  # fmt: skip
# Every layer sees everything: `layer_types` and a window change nothing, in mlx-lm as here.
ALL_FULL = frozenset({"gemma2", "phi3", "starcoder2"})
# A bare `sliding_window_pattern` says which layers slide; everywhere else only `layer_types` does.
# exaone4's may also be a word of L (local) and G (global), repeated.
BY_PATTERN = frozenset({
    "gemma3", "gemma3_text", "gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text", "cohere2",
    "olmo3", "gpt_oss", "exaone4",
})  # fmt: skip
# Latent attention that keeps keys and values of all heads; others keep the short vector they come from.
EXPANDED = frozenset({"deepseek_v2", "minicpm3"})
# Attention that adds a learned score to each row: without a fused form that copies the table twice.
SINKS = frozenset({"gpt_oss"})


def defaults(outer: object, inner: object) -> Mapping[str, Any]:
    return DEFAULTS.get(str(outer)) or DEFAULTS.get(str(inner)) or {}
