"""From configs of DeepSeek and MiniCPM3 to specs: what is read, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.families.table import spec_of
from mlxone.models.spec import DecoderSpec, DenseSpec, ExpertsSpec, LatentSpec, RouterSpec
from tests.models.checkpoints import refused

LATENT: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 96, "num_attention_heads": 4,
    "vocab_size": 50, "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "q_lora_rank": 24,
    "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 20,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 10, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.0,
}  # fmt: skip
V2 = {**LATENT, **EXPERTS, "model_type": "deepseek_v2"}
V3 = {**LATENT, **EXPERTS, "model_type": "deepseek_v3"}
MINICPM3 = {**LATENT, "model_type": "minicpm3", "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}


def spec(base: dict[str, Any], **changes: Any) -> DecoderSpec:
    """A change to `...` takes the key away."""
    values = {k: v for k, v in (base | changes).items() if v is not ...}
    return spec_of(Config(values, source="the config"))


def latent(base: dict[str, Any], **changes: Any) -> LatentSpec:
    mixers = [layer.mixer for layer in spec(base, **changes).layers]
    assert all(mixer == mixers[0] for mixer in mixers) and isinstance(mixers[0], LatentSpec)
    return mixers[0]


def experts(base: dict[str, Any], **changes: Any) -> ExpertsSpec:
    found = spec(base, **changes).layers[-1].feed_forward
    assert isinstance(found, ExpertsSpec)
    return found


def with_experts(base: dict[str, Any], **changes: Any) -> list[bool]:
    return [isinstance(layer.feed_forward, ExpertsSpec) for layer in spec(base, **changes).layers]


def test_the_three_of_them():
    two, three, mini = latent(V2), latent(V3), latent(MINICPM3)
    assert (two.absorbed, three.absorbed, mini.absorbed) == (False, True, False)
    assert (two.norm_eps, three.norm_eps, mini.norm_eps) == (1e-6, 1e-6, 1e-5)
    assert (two.rope.traditional, three.rope.traditional, mini.rope.traditional) == (True, True, False)
    assert two.rope.dims == 8 and two.scale == pytest.approx(24**-0.5)
    assert spec({**V3, "model_type": "kimi_k2"}) == spec(V3)


@pytest.mark.parametrize("base", [V2, V3, MINICPM3], ids=["v2", "v3", "minicpm3"])
def test_queries_without_a_rank(base: dict[str, Any]):
    assert latent(base, q_lora_rank=None).query_rank is None
    assert latent(base).query_rank == 24


def test_yarn_scales_the_scores():
    yarn = {"type": "yarn", "factor": 40, "mscale_all_dim": 1.0, "original_max_position_embeddings": 64}
    grown = (0.1 * 3.6888794541139363 + 1) ** 2
    for base in (V2, V3):
        assert latent(base, rope_scaling=yarn).scale == pytest.approx(24**-0.5 * grown)
        assert latent(base, rope_scaling=yarn | {"factor": 1}).scale == 24**-0.5
        assert latent(base, rope_scaling=yarn | {"mscale_all_dim": 0}).scale == 24**-0.5
        with refused(DamagedModel, "rope_scaling: mscale_all_dim must be a finite number"):
            spec(base, rope_scaling=yarn | {"mscale_all_dim": "1"})
        with refused(DamagedModel, "rope_scaling: factor is missing"):
            spec(base, rope_scaling={"type": "yarn", "mscale_all_dim": 1.0})


def test_which_layers_have_experts():
    for base in (V2, V3):
        assert with_experts(base) == [False, True, True, True]
        assert with_experts(base, first_k_dense_replace=0) == [True] * 4
        assert with_experts(base, moe_layer_freq=2) == [False, False, True, False]
        assert with_experts(base, n_routed_experts=None) == [False] * 4
        assert with_experts(base, first_k_dense_replace=9) == [False] * 4
    assert with_experts(V2, first_k_dense_replace=...) == [True] * 4


def test_experts_of_deepseek_v2():
    greedy = experts(V2)
    assert greedy.router == RouterSpec(8, 3, "softmax", lowest_first=True)
    assert greedy.shared == DenseSpec(20) and not greedy.as_input and greedy.size == 10
    limited = experts(V2, topk_method="group_limited_greedy", routed_scaling_factor=16.0)
    assert limited.router == RouterSpec(
        8, 3, "softmax", groups=4, chosen_groups=2, factor=16.0, lowest_first=True
    )
    assert experts(V2, n_shared_experts=None).shared is None


def test_experts_of_deepseek_v3():
    found = experts(V3, routed_scaling_factor=2.5)
    assert found.as_input and found.router == RouterSpec(
        8, 3, "sigmoid", normalised=True, correction="gate.e_score_correction_bias", groups=4,
        chosen_groups=2, factor=2.5, lowest_first=True,
    )  # fmt: skip
    assert not experts(V3, norm_topk_prob=False).router.normalised
    assert not experts(V3, num_experts_per_tok=1).router.normalised, (
        "one score alone is not divided by itself"
    )


@pytest.mark.parametrize("key", ["n_group", "topk_group", "routed_scaling_factor", "first_k_dense_replace"])
def test_what_a_config_of_deepseek_v3_has_to_say(key: str):
    """mlx-lm and the publisher take different values where it is left out."""
    with refused(DamagedModel, "the config", key):
        spec(V3, **{key: ...})
    assert spec(V3, n_routed_experts=None, **{key: ...}), "of no interest without experts"


def test_minicpm3_scales_what_flows():
    found = spec(MINICPM3)
    assert found.embedding_scale == 12 and found.residual_scale == pytest.approx(0.7)
    assert found.logits.divide_hidden == 4
    assert latent(MINICPM3, v_head_dim=...).value_dim == 16, "what the heads share of the hidden size"


def test_longrope_of_minicpm3():
    full = {"type": "longrope", "long_factor": [1.5] * 4, "original_max_position_embeddings": 128}
    assert latent(MINICPM3, rope_scaling=full).rope.scaling == full
    found = latent(MINICPM3, rope_scaling={"short_factor": 1.0}).rope.scaling
    assert (found["type"], found["long_factor"], found["original_max_position_embeddings"]) == (
        "longrope",
        1.0,
        4096,
    )
    assert latent(MINICPM3, rope_scaling=None).rope.scaling == {}
    linear = {"type": "linear", "factor": 2.0}
    assert latent(MINICPM3, rope_scaling=linear).rope.scaling == linear


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (V2, "topk_method", "noaux_tc"),
        (V2, "topk_method", "gready"),
        (V2, "topk_method", ["greedy"]),
        (V2, "scoring_func", "sigmoid"),
        (V2, "norm_topk_prob", True),
        (V2, "mlp_bias", True),
        (V2, "hidden_act", "gelu"),
        (V3, "topk_method", "greedy"),
        (V3, "scoring_func", "softmax"),
        (V3, "rope_interleave", False),
        (V3, "mlp_bias", True),
        (MINICPM3, "rope_traditional", True),
        (MINICPM3, "hidden_act", "relu"),
    ],
)
def test_a_setting_that_would_compute_other_numbers(base: dict[str, Any], key: str, value: Any):
    with refused(UnsupportedModel, f"{base['model_type']} with {key}="):
        spec(base, **{key: value})


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        (V3, {"n_group": 3}, "n_group must be a divisor of n_routed_experts"),
        (V3, {"topk_group": 5}, "topk_group must be a whole number from 1 to 4"),
        (V3, {"topk_group": 1}, "1 groups hold fewer experts than num_experts_per_tok"),
        (V2, {"num_experts_per_tok": 9}, "num_experts_per_tok must be a whole number from 1 to 8"),
        (V3, {"first_k_dense_replace": -1}, "first_k_dense_replace must be a whole number"),
        (V3, {"moe_layer_freq": 0}, "moe_layer_freq must be a whole number from 1"),
        (V3, {"kv_lora_rank": ...}, "kv_lora_rank is missing"),
        (V3, {"qk_rope_head_dim": 7}, "rotary positions over 7 of the 7 dimensions"),
        (V2, {"moe_intermediate_size": ...}, "moe_intermediate_size is missing"),
        (V2, {"topk_method": "group_limited_greedy", "n_group": ...}, "n_group is missing"),
        (MINICPM3, {"scale_depth": ...}, "scale_depth is missing"),
        (MINICPM3, {"num_attention_heads": 5}, "num_attention_heads must be a divisor of hidden_size"),
    ],
)
def test_a_config_that_contradicts_itself(base: dict[str, Any], changes: dict[str, Any], words: str):
    with refused(DamagedModel, "the config", words):
        spec(base, **changes)
