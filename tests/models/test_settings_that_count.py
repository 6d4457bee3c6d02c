"""What a publisher's own configuration class knows is read, refused by name, or listed here with its reason.

The oracle is transformers: it says which settings an architecture has. Each of them is given another
value, in every tiny config of the family; a spec that stays the same means that nobody looked.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import transformers

from mlxone.core.errors import MlxoneError
from mlxone.formats.config import Config
from mlxone.models.families.table import BY_MODEL_TYPE, spec_of
from mlxone.models.spec import DecoderSpec
from tests.models.tiny_families import CONFIGS

pytestmark = pytest.mark.filterwarnings("default")  # those of transformers are its own

UNKNOWN_THERE = {"kimi_k2", "minicpm"}  # published with code of their own
# What every class inherits, and what only matters in training, to a cache, to pictures and to sounds.
FOR_OTHERS = {
    *transformers.PretrainedConfig().to_dict(), "model_type", "text_config", "vision_config", "audio_config",
    "bos_token_id", "eos_token_id", "pad_token_id", "eod_token_id", "image_token_id", "use_cache",
    "initializer_range", "attention_dropout", "embedding_dropout", "residual_dropout", "hidden_dropout",
    "embd_pdrop", "resid_pdrop", "router_jitter_noise", "router_aux_loss_coef", "output_router_logits",
    "pretraining_tp", "num_nextn_predict_layers", "mtp_layers_block_type", "num_logits_to_keep",
}  # fmt: skip
LIKE_MLX_LM = "passed over, as mlx-lm does: docs/models.md says for which models that matters"
FOLLOWS = "follows from others, which are read"
NAMED_BY_TENSOR = "changes which tensors there are, or their shapes: the error names one"
FOR_SPEED = "how it is computed, not what"
SWITCHED = "counts only with use_sliding_window, which is refused"
UNUSED = "the architecture's own code never looks at it"
STATED_OUTSIDE = "of the whole model; what stands outside of text_config counts"
# model_type, or * for all: setting -> why nothing has to be read.
HARMLESS: dict[str, dict[str, str]] = {
    "mistral": {"sliding_window": LIKE_MLX_LM},
    "mistral3": {"sliding_window": LIKE_MLX_LM, "vocab_size": STATED_OUTSIDE},
    "mixtral": {"sliding_window": LIKE_MLX_LM},
    "phi3": {"sliding_window": LIKE_MLX_LM},
    "starcoder2": {"sliding_window": LIKE_MLX_LM},
    "gemma2": {"sliding_window": LIKE_MLX_LM, "layer_types": LIKE_MLX_LM},
    "qwen2": {"sliding_window": SWITCHED, "max_window_layers": SWITCHED},
    "qwen3": {"sliding_window": SWITCHED, "max_window_layers": SWITCHED},
    "qwen2_moe": {"sliding_window": SWITCHED, "max_window_layers": SWITCHED},
    "qwen3_moe": {"sliding_window": SWITCHED},
    "smollm3": {"sliding_window": SWITCHED},
    "gemma3": {"_sliding_window_pattern": FOLLOWS},
    "gemma3_text": {"_sliding_window_pattern": FOLLOWS},
    "granitemoehybrid": {"mamba_chunk_size": FOR_SPEED, "mamba_expand": NAMED_BY_TENSOR},
    "nemotron_h": {
        "chunk_size": FOR_SPEED, "use_mamba_kernels": FOR_SPEED, "moe_shared_expert_overlap": FOR_SPEED,
        "mamba_ssm_cache_dtype": FOR_SPEED, "expand": NAMED_BY_TENSOR, "use_bias": NAMED_BY_TENSOR,
        "n_shared_experts": FOLLOWS, "rescale_prenorm_residual": "how training starts",
        "time_step_min": "how training starts", "time_step_max": "how training starts",
        "time_step_floor": "how training starts", "residual_in_fp32": UNUSED, "sliding_window": UNUSED,
    },
    "deepseek_v2": {"num_key_value_heads": FOLLOWS, "head_dim": FOLLOWS, "qk_head_dim": FOLLOWS},
    "deepseek_v3": {"num_key_value_heads": FOLLOWS, "head_dim": FOLLOWS, "qk_head_dim": FOLLOWS},
    "minicpm3": {"num_key_value_heads": FOLLOWS, "head_dim": FOLLOWS, "qk_head_dim": FOLLOWS},
}  # fmt: skip
# They count in models of a kind that the family has no tiny config for.
COUNTS_ELSEWHERE = {"moe_intermediate_size", "num_experts", "top_k_experts", "intermediate_size"}


def settings(model_type: str) -> dict[str, Any]:
    whole = transformers.CONFIG_MAPPING[model_type]().to_dict()
    own = whole["text_config"] if isinstance(whole.get("text_config"), dict) else whole
    kept = {key: value for key, value in own.items() if key not in FOR_OTHERS}
    return kept | {"tie_word_embeddings": own.get("tie_word_embeddings")}


def others(key: str, value: Any, layers: int) -> list[Any]:
    """Values that the setting could have as well."""
    if key == "layer_types":
        return [["sliding_attention"] * layers, ["full_attention"] * layers]
    if key == "rope_parameters":
        return [{"rope_type": "linear", "factor": 3.0, "rope_theta": 7e4}, {"rope_type": "spiral"}]
    if key == "per_layer_config":
        return [{str(layers - 1): {"head_dim": 96}}]
    if key == "mlp_only_layers":
        return [[0], [1]]
    if key == "time_step_limit":
        return [[0.02, 0.07]]
    if isinstance(value, bool):
        return [True, False]
    if isinstance(value, int):
        return [2 * value or 2, value + 2, 1]
    if isinstance(value, float):
        return [2 * value or 0.5]
    return ["something else"] if isinstance(value, str) else [True, False, 8, 0.5]


def outcome(config: dict[str, Any]) -> DecoderSpec | str:
    try:
        return spec_of(Config(config))
    except MlxoneError as error:
        return str(error)


def noticed(config: dict[str, Any], key: str, value: Any) -> bool:
    before = outcome(config)
    layers = config.get("text_config", config)["num_hidden_layers"]
    for other in others(key, value, layers):
        after = copy.deepcopy(config)
        own = after.get("text_config", after)
        if key in own and own[key] == other:
            continue
        own[key] = other
        if outcome(after) != before:
            return True
    return False


def configs_of(model_type: str) -> list[dict[str, Any]]:
    family = BY_MODEL_TYPE[model_type]
    exact = [c for c in CONFIGS.values() if c["model_type"] == model_type]
    return exact or [c for c in CONFIGS.values() if c["model_type"] in family.model_types]


@pytest.mark.parametrize("model_type", sorted(set(BY_MODEL_TYPE) - UNKNOWN_THERE))
def test_every_setting_counts_or_is_refused(model_type: str):
    candidates = configs_of(model_type)
    if any("text_config" in c for c in candidates):  # the text model's configs show more of it
        name = BY_MODEL_TYPE[model_type].name.removesuffix("_unified").removesuffix("_moe")
        candidates = candidates + [c for c in CONFIGS.values() if c["model_type"] in (name, f"{name}_text")]
    silent = {
        key
        for key, value in settings(model_type).items()
        if not any(noticed(config, key, value) for config in candidates)
    }
    assert silent - COUNTS_ELSEWHERE == set(HARMLESS.get(model_type, {}))


# Which tensors there are, and of which size: a wrong guess is an error that names one.
BY_TENSOR = {
    "tie_word_embeddings", "num_key_value_heads", "head_dim", "intermediate_size", "num_experts",
    "first_k_dense_replace", "num_dense_layers", "num_local_experts", "n_routed_experts", "n_shared_experts",
    "q_lora_rank", "v_head_dim", "attention_bias", "mamba_conv_bias", "hidden_size", "num_attention_heads",
    "vocab_size",
}  # fmt: skip
# Made of others by the class itself, so that no single value is its default; the last is no number
# that anything is computed with, and where a kind of rope needs it, it is asked for.
MADE = {
    "rope_parameters", "layer_types", "layers_block_type", "full_attn_idxs", "no_rope_layers",
    "per_layer_config", "max_position_embeddings",
}  # fmt: skip
AS_MLX_LM = {"granitemoehybrid": {"time_step_limit"}}  # docs/models.md says so


@pytest.mark.parametrize("model_type", sorted(set(BY_MODEL_TYPE) - UNKNOWN_THERE))
def test_what_a_config_leaves_out_is_what_its_class_says(model_type: str):
    """Or it is asked for. Configs inside of others are written without what equals their class."""
    guessed = set()
    for key, value in settings(model_type).items():
        for config in configs_of(model_type):
            absent, stated = copy.deepcopy(config), copy.deepcopy(config)
            absent.get("text_config", absent).pop(key, None)
            stated.get("text_config", stated)[key] = value
            found = outcome(absent)
            if isinstance(found, DecoderSpec) and outcome(stated) != found:
                guessed.add(key)
    assert guessed - BY_TENSOR - MADE == AS_MLX_LM.get(model_type, set())
