"""Families whose layers are attention and one feed-forward part, as their published configs spell them."""

from __future__ import annotations

import math
from typing import Any

from tests.oracle.case import WINDOW, Case, beside_vision, tiny, vision

# What mlx-lm does not read.
NO_WINDOW = {"sliding_window": None}
EXACT_GELU = {"hidden_act": "gelu_python"}  # transformers' name for the one without the tanh

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
# So that the ramp lies within the 8 rotations of a head, and the fast of them turn within the prompt.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
THREE_TO_ONE = ["sliding_attention"] * 3 + ["full_attention"]


def gemma(model_type: str, **settings: Any) -> dict[str, Any]:
    return tiny(
        model_type,
        head_dim=32,
        hidden_activation="gelu_pytorch_tanh",
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        **settings,
    )


def ministral3(**rope: Any) -> dict[str, Any]:
    parameters = {
        "type": "yarn",
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    return tiny("ministral3", head_dim=32, rope_theta=None, rope_parameters=parameters | rope)


GRANITE = {
    "attention_multiplier": 0.05,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}
PHI3 = {"sliding_window": None, "original_max_position_embeddings": 32, "pad_token_id": 0}
LONGROPE = {"long_factor": [1.0, 2.0, 4.0, 8.0, 9.0, 10.0], "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]}
STARCODER2 = {
    "norm_epsilon": 1e-5,
    "use_bias": True,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "rms_norm_eps": None,
}
STABLELM = {
    "layer_norm_eps": 1e-5,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": None,
    "num_key_value_heads": 4,
}
COHERE2 = {
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.25,
    "sliding_window": WINDOW,
    "sliding_window_pattern": 4,
    "num_hidden_layers": 4,
    "rms_norm_eps": None,
    "tie_word_embeddings": True,
    "head_dim": 16,
}
# transformers rotates sliding layers by 500000 whatever rope_theta says, and published models say the same.
OLMO3 = {"rope_theta": 500000.0}
EXAONE4 = {"num_hidden_layers": 4, "head_dim": 16, "rope_scaling": LLAMA3}

CASES = (
    Case("llama", tiny("llama", rope_scaling=LLAMA3)),
    Case("llama-biases", tiny("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    Case("llama-linear", tiny("llama", rope_scaling={"type": "linear", "factor": 2.0})),
    Case("llama-yarn", tiny("llama", rope_scaling=YARN)),
    Case(
        "llama-yarn-mscale-alone",  # which transformers reads only beside mscale_all_dim
        tiny("llama", rope_scaling=YARN | {"mscale": 0.7}),
        read_as={"rope_scaling": YARN | {"attention_factor": 1 + 0.07 * math.log(4)}},
    ),
    Case(
        "llama-dynamic",  # rotates by how much it has seen so far
        tiny("llama", rope_scaling={"type": "dynamic", "factor": 2.0}, max_position_embeddings=32),
        by_steps=False,
    ),
    Case("mistral", tiny("mistral", head_dim=32, sliding_window=None)),
    Case("mistral-window", tiny("mistral", head_dim=32, sliding_window=WINDOW), read_as=NO_WINDOW),
    Case("ministral3", ministral3()),
    Case("ministral3-window", ministral3() | {"sliding_window": WINDOW}, read_as=NO_WINDOW),
    Case("mistral3", beside_vision("mistral3", ministral3(), vision("pixtral"))),
    Case("qwen2", tiny("qwen2", tie_word_embeddings=True, use_sliding_window=False)),
    Case("qwen2-yarn", tiny("qwen2", rope_scaling=YARN, use_sliding_window=False)),
    Case("qwen3", tiny("qwen3", head_dim=32)),
    Case("qwen3-yarn", tiny("qwen3", head_dim=32, rope_scaling=YARN, tie_word_embeddings=True)),
    Case(
        "smollm3", tiny("smollm3", num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0], use_sliding_window=False)
    ),
    Case("gemma", gemma("gemma", hidden_act="gelu_pytorch_tanh"), read_as=EXACT_GELU),
    Case("gemma-legacy", gemma("gemma", hidden_act="gelu"), read_as=EXACT_GELU),
    Case(
        "gemma2",
        gemma(
            "gemma2",
            num_hidden_layers=4,
            sliding_window=4096,
            query_pre_attn_scalar=24,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=3.0,
        ),
    ),
    Case(
        "gemma2-window",
        gemma(
            "gemma2",
            num_hidden_layers=4,
            sliding_window=WINDOW,
            query_pre_attn_scalar=24,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        ),
        read_as={"sliding_window": 4096},
    ),
    Case("phi3", tiny("phi3", **PHI3)),
    Case("phi3-window", tiny("phi3", **PHI3 | {"sliding_window": WINDOW}), read_as=NO_WINDOW),
    Case(
        "phi3-longrope-long",
        tiny("phi3", **PHI3, partial_rotary_factor=0.75, rope_scaling={"type": "longrope", **LONGROPE}),
    ),
    Case(
        "phi3-longrope-short",
        tiny(
            "phi3",
            **PHI3 | {"original_max_position_embeddings": 256},
            partial_rotary_factor=0.75,
            rope_scaling={"type": "longrope", **LONGROPE},
        ),
        read_as={"rope_scaling": {"type": "longrope", **LONGROPE, "short_factor": LONGROPE["long_factor"]}},
    ),
    Case("phi4-mini", tiny("phi3", **PHI3 | {"tie_word_embeddings": True}, partial_rotary_factor=0.75)),
    Case("olmo2", tiny("olmo2")),
    Case(
        "olmo3", tiny("olmo3", num_hidden_layers=4, layer_types=THREE_TO_ONE, sliding_window=WINDOW, **OLMO3)
    ),
    Case(
        "olmo3-yarn",
        tiny(
            "olmo3",
            num_hidden_layers=4,
            layer_types=THREE_TO_ONE,
            sliding_window=WINDOW,
            **OLMO3,
            rope_scaling={
                **YARN,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "attention_factor": 1 + 0.1 * math.log(4),
            },
        ),
    ),
    Case("granite", tiny("granite", **GRANITE)),
    Case("glm4", tiny("glm4", head_dim=32, partial_rotary_factor=0.5, attention_bias=True, pad_token_id=0)),
    Case("cohere2", tiny("cohere2", **COHERE2)),
    Case(
        "exaone4",
        tiny(
            "exaone4",
            **EXAONE4,
            sliding_window=WINDOW,
            sliding_window_pattern="LLLG",
            layer_types=THREE_TO_ONE,
        ),
    ),
    Case(
        "exaone4-full",
        tiny(
            "exaone4",
            **EXAONE4,
            sliding_window=None,
            sliding_window_pattern=None,
            layer_types=["full_attention"] * 4,
        ),
    ),
    Case("seed_oss", tiny("seed_oss", head_dim=32, attention_bias=True, attention_out_bias=False)),
    Case("ernie4_5", tiny("ernie4_5", head_dim=32, use_bias=False, tie_word_embeddings=True)),
    Case("ernie4_5-biases", tiny("ernie4_5", head_dim=32, use_bias=True)),
    Case("hunyuan", tiny("hunyuan_v1_dense", head_dim=32, use_qk_norm=True, attention_bias=False)),
    Case(
        "hunyuan-dynamic",
        tiny(
            "hunyuan_v1_dense",
            head_dim=32,
            use_qk_norm=True,
            tie_word_embeddings=True,
            rope_scaling={
                "type": "dynamic",
                "alpha": 1000.0,
                "factor": 1.0,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 0.0,
            },
        ),
    ),
    Case("starcoder2", tiny("starcoder2", **STARCODER2, sliding_window=None), read_as=EXACT_GELU),
    Case(
        "starcoder2-window",
        tiny("starcoder2", **STARCODER2, sliding_window=WINDOW),
        read_as=EXACT_GELU | NO_WINDOW,
    ),
    Case("stablelm", tiny("stablelm", **STABLELM, use_qkv_bias=True)),
    Case(
        "stablelm-parallel",
        tiny("stablelm", **STABLELM, use_qkv_bias=False, use_parallel_residual=True, qk_layernorm=True),
    ),
)
