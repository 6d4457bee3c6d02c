"""From configs of mixtures to specs: other spellings, what may be left out, what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from mlxone.core.errors import DamagedModel
from mlxone.formats.config import Config
from mlxone.models.families.table import spec_of
from mlxone.models.spec import AttentionSpec, DecoderSpec, ExpertsSpec
from tests.models.checkpoints import refused
from tests.models.tiny_families import changed


def spec(name: str, **changes: Any) -> DecoderSpec:
    return spec_of(Config(changed(name, **changes), source="the config"))


def experts(name: str, **changes: Any) -> ExpertsSpec:
    found = spec(name, **changes).layers[-1].feed_forward
    assert isinstance(found, ExpertsSpec)
    return found


@pytest.mark.parametrize("name", ["qwen2_moe", "qwen3_moe"])
def test_the_number_of_experts_as_transformers_spells_it(name: str):
    assert spec(name, num_experts=..., num_local_experts=8) == spec(name, num_experts=8)
    with refused(DamagedModel, "the config: num_local_experts must be a whole number"):
        spec(name, num_experts=..., num_local_experts="8")


def test_qwen2_moe_may_have_no_biases():
    def biases(**changes: Any) -> list[bool]:
        mixers = [layer.mixer for layer in spec("qwen2_moe", **changes).layers]
        return [isinstance(m, AttentionSpec) and m.qkv_bias for m in mixers]

    assert all(biases()) and all(biases(qkv_bias=True)) and not any(biases(qkv_bias=False))


@pytest.mark.parametrize("name", ["olmoe", "gpt_oss"])
def test_values_that_are_computed_may_be_stated(name: str):
    stated: dict[str, dict[str, Any]] = {
        "olmoe": {"clip_qkv": None},
        "gpt_oss": {"swiglu_alpha": 1.702, "swiglu_limit": 7.0},
    }
    assert spec(name, **stated[name]) == spec(name, **dict.fromkeys(stated[name], ...))


def test_glm4_moe_may_leave_its_groups_out():
    gone = {"n_group": ..., "topk_group": ..., "routed_scaling_factor": ..., "norm_topk_prob": ...}
    router = experts("glm4_moe", **gone).router
    assert (router.groups, router.chosen_groups, router.factor, router.normalised) == (1, 1, 1.0, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_group": 3}, "n_group must be a divisor of n_routed_experts (8)"),
        ({"n_group": 8, "topk_group": 4}, "n_group must be so small that each group has two experts"),
        ({"n_group": 4, "topk_group": 1}, "1 groups hold fewer experts than num_experts_per_tok"),
        ({"n_group": 2, "topk_group": 3}, "topk_group must be a whole number from 1 to 2"),
    ],
)
def test_groups_that_cannot_be(changes: dict[str, Any], words: str):
    with refused(DamagedModel, "the config", words):
        spec("glm4_moe", **changes)
