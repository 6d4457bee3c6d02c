"""Families with experts, recurrent layers or latent attention, as their published configs spell them."""

from __future__ import annotations

from typing import Any

from tests.oracle.case import WINDOW, Case, beside_vision, tiny, vision

QWEN_NEXT = {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "full_attention_interval": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "rms_norm_eps": 1e-6,
}
QWEN_EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
}
SHARED_EXPERT = {"shared_expert_intermediate_size": 40}
MROPE = {
    "rope_type": "default",
    "rope_theta": 1000000.0,
    "partial_rotary_factor": 0.25,
    "mrope_section": [2, 1, 1],
    "mrope_interleaved": True,
}


def qwen3_5_text(model_type: str, **settings: Any) -> dict[str, Any]:
    return tiny(model_type, **QWEN_NEXT, rope_theta=None, rope_parameters=MROPE, **settings)


def qwen3_5(model_type: str, **settings: Any) -> dict[str, Any]:
    text = qwen3_5_text(f"{model_type}_text", **settings)
    eyes = vision(model_type, depth=1, num_heads=2, out_hidden_size=64, num_position_embeddings=16)
    return beside_vision(model_type, text, eyes)


GRANITE_MOE = {
    "attention_multiplier": 0.05,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 6.0,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
GRANITE_HYBRID = GRANITE_MOE | {
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "mamba", "attention", "mamba"],
    "shared_intermediate_size": 80,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_expand": 2,
    "mamba_proj_bias": False,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_conv_bias": True,
    "mamba_chunk_size": 16,
    "position_embedding_type": "nope",
}
LONGROPE = {"type": "longrope", "long_factor": [1.0, 1.1, 1.2, 1.3, 2.0, 4.0, 8.0, 9.0]}
MINICPM3_ROPE = LONGROPE | {"short_factor": LONGROPE["long_factor"], "original_max_position_embeddings": 256}
GRANITE_DENSE = {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 96}
NEMOTRON = {
    "rope_theta": None,
    "rms_norm_eps": None,
    "layer_norm_epsilon": 1e-5,
    "head_dim": 32,
    "attention_bias": False,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "mamba_proj_bias": False,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "n_groups": 2,
    "mlp_bias": False,
    "use_bias": False,
    "use_conv_bias": True,
    "chunk_size": 16,
    "mlp_hidden_act": "relu2",
    "time_step_limit": [0.0, float("inf")],
    "time_step_min": 0.001,
}
# NVIDIA's own code limits time steps by `time_step_limit`, and so does mlx-lm; transformers by this.
NO_LEAST_STEP = {"time_step_min": 1e-30}


def nemotron(pattern: str, settings: dict[str, Any]) -> dict[str, Any]:
    return tiny("nemotron_h", **settings, hybrid_override_pattern=pattern, num_hidden_layers=len(pattern))


NEMOTRON_MOE = NEMOTRON | {
    "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 80,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
LFM2 = {
    "num_hidden_layers": 4,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
    "norm_eps": 1e-5,
    "rms_norm_eps": None,
    "conv_bias": False,
    "conv_L_cache": 3,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
LFM2_DENSE = LFM2 | {
    "block_dim": 64,
    "block_ff_dim": 144,
    "block_multiple_of": 16,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
}
LFM2_MOE = LFM2 | {
    "moe_intermediate_size": 48,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "num_dense_layers": 1,
    "routed_scaling_factor": 1.0,
}
GPT_OSS_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
GPT_OSS = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "head_dim": 32,
    "sliding_window": WINDOW,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "attention_bias": True,
    "rope_theta": 150000.0,
    "swiglu_limit": 7.0,
    "quantization_config": {"quant_method": "mxfp4"},
}
GLM4_MOE = {
    "head_dim": 32,
    "partial_rotary_factor": 0.5,
    "rope_scaling": None,
    "moe_intermediate_size": 48,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "n_group": 1,
    "topk_group": 1,
    "use_qk_norm": True,
    "attention_bias": True,
    "num_nextn_predict_layers": 0,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
}
DEEPSEEK = LATENT | {
    "moe_intermediate_size": 48,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "attention_bias": False,
    "rms_norm_eps": 1e-6,
}
DEEPSEEK_YARN = {
    "type": "yarn",
    "factor": 40.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 4096,
}
V2 = DEEPSEEK | {
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
}
V2_YARN = DEEPSEEK_YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
V2_GROUPS = {
    "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 16.0,
    "n_group": 4,
    "topk_group": 2,
}
V3 = DEEPSEEK | {
    "q_lora_rank": 48,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
}
V3_YARN = DEEPSEEK_YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}
MINICPM3 = LATENT | {
    "v_head_dim": 16,
    "q_lora_rank": 48,
    "scale_emb": 12,
    "dim_model_base": 32,
    "scale_depth": 1.4,
    "tie_word_embeddings": False,
}

CASES = (
    Case("mixtral", tiny("mixtral", num_local_experts=8, num_experts_per_tok=2, sliding_window=None)),
    Case(
        "mixtral-window",
        tiny("mixtral", num_local_experts=8, num_experts_per_tok=2, sliding_window=WINDOW),
        read_as={"sliding_window": None},
    ),
    Case("olmoe", tiny("olmoe", num_experts=8, num_experts_per_tok=2, norm_topk_prob=False)),
    Case("qwen2_moe", tiny("qwen2_moe", **QWEN_EXPERTS | {"norm_topk_prob": False}, **SHARED_EXPERT)),
    Case("qwen3_moe", tiny("qwen3_moe", head_dim=32, **QWEN_EXPERTS)),
    Case(
        "qwen3_moe-mixed",
        tiny("qwen3_moe", head_dim=32, **QWEN_EXPERTS | {"mlp_only_layers": [1], "norm_topk_prob": False}),
    ),
    Case(
        "qwen3_next",
        tiny("qwen3_next", **QWEN_NEXT, **QWEN_EXPERTS, **SHARED_EXPERT, partial_rotary_factor=0.25),
    ),
    Case("qwen3_5", qwen3_5("qwen3_5")),
    Case("qwen3_5_moe", qwen3_5("qwen3_5_moe", **QWEN_EXPERTS, **SHARED_EXPERT)),
    Case("minicpm3", tiny("minicpm3", **MINICPM3, rope_scaling=MINICPM3_ROPE)),
    Case(
        "minicpm3-short",
        tiny("minicpm3", **MINICPM3, rope_scaling=MINICPM3_ROPE | {"short_factor": [1.0] * 8}),
        read_as={"rope_scaling": MINICPM3_ROPE},
    ),
    Case("nemotron_h", nemotron("M-M*-", NEMOTRON), read_as=NO_LEAST_STEP, steps_around=-10.0),
    Case("nemotron_h-no-least-step", nemotron("M-M*-", NEMOTRON | NO_LEAST_STEP), steps_around=-10.0),
    Case("nemotron_h-moe", nemotron("MEM*E", NEMOTRON_MOE), steps_around=1.0),
    Case(
        "nemotron_h-latent-moe", nemotron("MEM*E", NEMOTRON_MOE | {"moe_latent_size": 32}), steps_around=1.0
    ),
    Case("lfm2", tiny("lfm2", **LFM2_DENSE)),
    Case("lfm2_moe", tiny("lfm2_moe", **LFM2_MOE)),
    Case(
        "gpt_oss",
        tiny("gpt_oss", **GPT_OSS, rope_scaling=GPT_OSS_YARN),
        read_as={"rope_scaling": GPT_OSS_YARN | {"truncate": True}},
    ),
    Case("gpt_oss-truncated", tiny("gpt_oss", **GPT_OSS, rope_scaling=GPT_OSS_YARN | {"truncate": True})),
    Case("granitemoe", tiny("granitemoe", **GRANITE_MOE)),
    Case("granitemoehybrid", tiny("granitemoehybrid", **GRANITE_HYBRID)),
    Case(
        "granitemoehybrid-small-steps",
        tiny("granitemoehybrid", **GRANITE_HYBRID),
        read_as={"time_step_limit": [0.001, 100.0]},
        steps_around=-12.0,
    ),
    Case(
        "granitemoehybrid-stated-limits",
        tiny("granitemoehybrid", **GRANITE_HYBRID, time_step_limit=[0.0, float("inf")]),
        steps_around=-12.0,
    ),
    Case(
        "granitemoehybrid-rope",
        tiny("granitemoehybrid", **GRANITE_HYBRID | {"position_embedding_type": "rope"}),
    ),
    Case("granitemoehybrid-dense", tiny("granitemoehybrid", **GRANITE_HYBRID | GRANITE_DENSE)),
    Case("glm4_moe", tiny("glm4_moe", **GLM4_MOE)),
    Case(
        "glm4_moe-groups",
        tiny("glm4_moe", **GLM4_MOE | {"n_group": 4, "topk_group": 2, "use_qk_norm": False}),
    ),
    Case("deepseek_v2", tiny("deepseek_v2", **V2, q_lora_rank=None, rope_scaling=V2_YARN)),
    Case("deepseek_v2-groups", tiny("deepseek_v2", **V2 | V2_GROUPS, q_lora_rank=48, rope_scaling=V2_YARN)),
    Case("deepseek_v3", tiny("deepseek_v3", **V3)),
    Case("deepseek_v3-yarn", tiny("deepseek_v3", **V3, rope_scaling=V3_YARN)),
)
