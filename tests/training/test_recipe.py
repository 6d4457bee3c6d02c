"""A recipe: the table's defaults, refusals by name, and what a run that goes on may change."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import UsageError
from mlxone.core.train_settings import RECIPE_SETTINGS
from mlxone.training.recipe import FREE, NAMES, Recipe


def test_the_fields_are_the_rows_of_the_table():
    assert tuple(s.name for s in RECIPE_SETTINGS) == NAMES
    assert {f.name: f.default for f in fields(Recipe)} == {s.name: s.default for s in RECIPE_SETTINGS}
    assert set(NAMES) >= FREE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranc": 4}, "no option ranc"),
        ({"rank": 0}, "rank must be between 1"),
        ({"rank": 2.0}, "rank must be a whole number"),
        ({"rank": True}, "rank must be a whole number"),
        ({"lr": "1e-4"}, "lr must be a number"),
        ({"lr": math.nan}, "lr must be between"),
        ({"pack": 1}, "pack must be true or false"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"target_modules": " , "}, "target_modules names nothing"),
        ({"target_modules": [3]}, "target_modules must be names"),
        ({"iters": 3, "epochs": 1}, "iters and epochs"),
        ({"type": "full", "rank": 8}, "rank"),
        ({"dpo_beta": 0.2}, "dpo_beta"),
        ({"method": "dpo", "orpo_lambda": 0.2}, "orpo_lambda"),
        ({"method": "orpo", "pack": True}, "pack"),
        ({"method": "dpo", "mask_prompt": True}, "mask_prompt"),
        ({"optimizer": "adam", "weight_decay": 0.1}, "adam has no weight_decay"),
        ({"optimizer": "sgd", "bias_correction": True}, "sgd has no bias_correction"),
        ({"lr_end": 1e-6}, "lr_end"),
        ({"warmup_start": 1e-6}, "warmup_start"),
        ({"sample_prompt": "hi"}, "sample_prompt"),
        ({"mask_prompt": True, "sft_scope": "full"}, "contradict"),
        ({"layers": 0}, "layers must be at least 1, or -1"),
        ({"val_batches": 0}, "val_batches"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(options, words):
    with pytest.raises(UsageError) as caught:
        Recipe.of(options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_none_is_not_given():
    assert Recipe.of(dict.fromkeys(NAMES)) == Recipe()


def test_defaults_follow_the_method():
    rates = {m: Recipe.of({"method": m}).learning_rate for m in ("sft", "dpo", "orpo")}
    assert rates == {"sft": 2e-4, "dpo": 5e-5, "orpo": 1e-5}
    assert [Recipe.of({"method": m}).steps(10) for m in ("sft", "dpo", "orpo")] == [30, 10, 10]
    assert Recipe.of({"iters": 7}).steps(10) == 7
    assert Recipe.of({"epochs": 0.25}).steps(10) == 3
    decays = {o: Recipe.of({"optimizer": o}).decay for o in ("adamw", "adam", "sgd", "adafactor", "muon")}
    assert decays == {"adamw": 0.01, "adam": 0.0, "sgd": 0.0, "adafactor": 0.0, "muon": 0.01}


def test_short_forms():
    assert Recipe.of({"mask_prompt": True}).sft_scope == "response"
    assert Recipe.of({"target_modules": "q_proj, v_proj"}).target_modules == ("q_proj", "v_proj")
    assert Recipe.of({"target_modules": ["q_proj", "v_proj,q_proj"]}).target_modules == ("q_proj", "v_proj")
    assert [Recipe.of(o).segment for o in ({}, {"grad_checkpoint": True}, {"checkpoint_every": 4})] == [
        0,
        1,
        4,
    ]


def test_rank_stabilised_scale():
    # scale = alpha / rank; rank-stabilised it is alpha / sqrt(rank).
    plain, stable = (Recipe.of({"rank": 16, "scale": 2.0, "rs_lora": on}) for on in (False, True))
    assert plain.adapter_scale == 2.0
    assert stable.adapter_scale == pytest.approx(32 / math.sqrt(16))


def test_ranks_by_bits():
    bits = {"a": 4, "b": 8, "c": 2, "d": None, "e": 3}
    assert Recipe().ranks(bits) is None
    ranks = Recipe.of({"rank": 8, "rank_scaling": "by_bits"}).ranks(bits)
    assert ranks == {"a": 8, "b": 16, "c": 4, "d": 8, "e": 6}
    assert Recipe.of({"rank": 1, "rank_scaling": "by_bits"}).ranks({"c": 2}) == {"c": 2}


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "rank": st.integers(1, 64),
        "lr": st.floats(1e-9, 1.0),
        "target_modules": st.lists(st.sampled_from(["q_proj", "v_proj", "up_proj"]), min_size=1),
        "mask_prompt": st.booleans(),
        "schedule": st.sampled_from(["constant", "cosine", "linear"]),
        "seed": st.integers(0, 2**63 - 1),
        "iters": st.integers(1, 1000),
        "warmup": st.integers(0, 20),
    },
)


@given(OPTIONS)
def test_a_recipe_survives_its_file(options):
    recipe = Recipe.of(options)
    assert Recipe.of(json.loads(json.dumps(recipe.as_json()))) == recipe
    assert recipe.going_on({}) == recipe
    assert recipe.going_on(options) == recipe


def test_going_on_keeps_what_training_depends_on():
    recipe = Recipe.of({"rank": 4, "lr": 1e-3, "epochs": 2, "mask_prompt": True, "weight_decay": 0.01})
    on = recipe.going_on({"iters": 500, "save_every": 7, "rank": 4, "sft_scope": "response"})
    assert (on.iters, on.epochs, on.save_every, on.rank, on.learning_rate) == (500, None, 7, 4, 1e-3)
    with pytest.raises(UsageError, match="was made with rank 4, not 8") as caught:
        recipe.going_on({"rank": 8})
    assert "--adapter-path" in caught.value.hint
    with pytest.raises(UsageError, match="was made with sft_scope response, not full"):
        recipe.going_on({"sft_scope": "full"})
    # What the defaults mean is the same as saying it.
    assert Recipe().going_on({"lr": 2e-4, "weight_decay": 0.01, "bias_correction": True}) == Recipe()
