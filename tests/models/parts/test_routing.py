"""Routers: whom they choose and how they weigh, against mlx-lm and against plain arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlxone.backend.arrays import mx
from mlxone.models.parts import routing
from mlxone.models.parts.routing import choice_of
from mlxone.models.spec import RouterSpec
from tests.models.parts.mixtures import CHOSEN, EXPERTS, GROUPED, corrected, router

# isort: split
from mlx_lm.models import deepseek_v3, glm4_moe, nemotron_h

SPECS: dict[str, RouterSpec] = {
    "softmax": router("softmax"),
    "softmax, normalised": router("softmax", normalised=True),
    "softmax, lowest first": router("softmax", lowest_first=True, factor=2.0),
    "chosen softmax": router("chosen_softmax"),
    "chosen softmax, wide": router("chosen_softmax", wide=True),
    "sigmoid": router("sigmoid", normalised=True, normal_eps=1e-6, factor=1.5),
    "sigmoid, corrected": corrected(),
}


def drawn(dtype: mx.Dtype = mx.float32, tokens: int = 50) -> tuple[mx.array, mx.array]:
    mx.random.seed(5)
    return 2 * mx.random.normal((1, tokens, EXPERTS)).astype(dtype), 0.2 * mx.random.normal((EXPERTS,))


def chosen(spec: RouterSpec, logits: mx.array, correction: mx.array | None) -> tuple[Any, Any]:
    """Experts in order, with their scores."""
    indices, scores = (np.array(a.astype(mx.float32))[0] for a in choice_of(spec)(logits, correction))
    order = np.argsort(indices, axis=-1)
    return np.take_along_axis(indices, order, -1), np.take_along_axis(scores, order, -1)


@pytest.mark.parametrize("name", SPECS)
def test_the_best_are_chosen_and_weighed(name: str):
    """In numbers of double precision, said another way."""
    spec, (logits, shift) = SPECS[name], drawn()
    correction = shift if spec.correction else None
    indices, scores = chosen(spec, logits, correction)
    exact = np.array(logits)[0].astype(np.float64)
    single = 1 / (1 + np.exp(-exact)) if spec.scoring == "sigmoid" else np.exp(exact)
    if spec.scoring == "softmax":
        single /= single.sum(-1, keepdims=True)
    wanted = single if correction is None else single + np.array(correction)
    best = np.sort(np.argsort(-wanted, axis=-1)[:, :CHOSEN], axis=-1)
    assert (indices == best).all()
    expected = np.take_along_axis(single, best, -1)
    if spec.normalised or spec.scoring == "chosen_softmax":
        expected /= expected.sum(-1, keepdims=True)
    assert np.allclose(scores, expected * spec.factor, rtol=1e-4)


def test_only_the_best_groups_are_chosen_from():
    spec, (logits, shift) = corrected(**GROUPED), drawn()
    indices, _ = chosen(spec, logits, shift)
    wanted = 1 / (1 + np.exp(-np.array(logits)[0])) + np.array(shift)
    worth = wanted.reshape(-1, 4, 2).sum(-1)  # groups of two: both count
    for row, experts in enumerate(indices):
        groups = {int(expert) // 2 for expert in experts}
        assert groups <= set(np.argsort(-worth[row])[:2].tolist())


def test_groups_of_a_softmax_are_worth_their_best_expert():
    spec = router("softmax", lowest_first=True, **GROUPED)
    logits, _ = drawn()
    indices, _ = chosen(spec, logits, None)
    worth = np.array(logits)[0].reshape(-1, 4, 2).max(-1)
    for row, experts in enumerate(indices):
        assert {int(expert) // 2 for expert in experts} <= set(np.argsort(-worth[row])[:2].tolist())


@pytest.mark.parametrize("theirs", [deepseek_v3, glm4_moe, nemotron_h], ids=lambda m: m.__name__[14:])
@pytest.mark.parametrize("groups", [(1, 1), (4, 2), (2, 1), (4, 4)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("normalised", [True, False])
def test_corrected_choices_are_mlx_lms(
    theirs: Any, groups: tuple[int, int], dtype: mx.Dtype, normalised: bool
):
    eps = 1e-20 if theirs is nemotron_h else 0.0
    spec = RouterSpec(
        EXPERTS, CHOSEN, "sigmoid", correction="here", lowest_first=True, normalised=normalised,
        normal_eps=eps, factor=2.5, groups=groups[0], chosen_groups=groups[1],
    )  # fmt: skip
    logits, shift = drawn(dtype)
    indices, scores = choice_of(spec)(logits, shift)
    expected = theirs.group_expert_select(logits, shift, CHOSEN, *groups, 2.5, normalised)
    assert scores.dtype == mx.float32
    assert mx.array_equal(indices, expected[0]) and mx.array_equal(scores, expected[1])


@pytest.mark.parametrize("name", SPECS)
def test_what_is_fused_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch):
    """What mlx-lm compiles, and nothing else: there the bits depend on it."""
    monkeypatch.setattr(routing, "on_cpu", lambda: False)
    monkeypatch.setattr(mx, "compile", lambda choose: "fused")
    made: list[Any] = [choice_of.__wrapped__(replace(SPECS[name], precise=p)) for p in (True, False)]
    assert [choice == "fused" for choice in made] == [SPECS[name].scoring == "sigmoid", False]


def test_experts_of_equal_score_are_chosen_as_partitioning_leaves_them():
    """Zeros everywhere: nothing but the place decides, and places differ by the direction."""
    logits = mx.zeros((1, 1, EXPERTS))
    lowest, highest = (
        choice_of(router("softmax", lowest_first=first))(logits, None)[0] for first in (True, False)
    )
    assert mx.array_equal(lowest, mx.argpartition(-logits, kth=CHOSEN - 1, axis=-1)[..., :CHOSEN])
    assert mx.array_equal(highest, mx.argpartition(logits, kth=-CHOSEN, axis=-1)[..., -CHOSEN:])
    assert not mx.array_equal(lowest, highest)


@pytest.mark.parametrize("precise", [True, False])
def test_a_correction_counts_in_float32(precise: bool):
    """Beside a score of one half bfloat16 has no room for these."""
    spec = router("sigmoid", precise=precise, correction="here")
    correction = mx.array([1e-4 * place for place in (3, 7, 1, 0, 6, 2, 5, 4)])
    indices, scores = chosen(spec, mx.zeros((1, 1, EXPERTS), mx.bfloat16), correction)
    assert indices.tolist() == [[1, 4, 6]] and scores.tolist() == [[0.5, 0.5, 0.5]]


def test_scores_that_stay_wide():
    logits, _ = drawn(mx.bfloat16)
    dtypes = {
        name: choice_of(SPECS[name])(logits, None)[1].dtype
        for name in ("softmax", "chosen softmax", "chosen softmax, wide", "sigmoid")
    }
    assert dtypes == {
        "softmax": mx.bfloat16, "chosen softmax": mx.bfloat16, "chosen softmax, wide": mx.float32,
        "sigmoid": mx.float32,
    }  # fmt: skip
