"""Our one object against MLX's optimizers, parameter by parameter; the guard; the state as flat arrays."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest

from mlxone.backend.arrays import mx
from mlxone.backend.optimizers import optimizers as mlx
from mlxone.training.optimizer import Optimizer
from mlxone.training.recipe import Recipe

SHAPES = {"a.q.lora_a": (6, 2), "a.q.lora_b": (2, 5), "a.q.m": (5,)}
LR = 0.01

THEIRS = {
    "adamw": lambda lr: mlx.AdamW(lr, weight_decay=0.01, bias_correction=True),
    "adam": lambda lr: mlx.Adam(lr),
    "sgd": lambda lr: mlx.SGD(lr),
    "muon": lambda lr: mlx.Muon(lr, weight_decay=0.01),
    "adafactor": lambda lr: mlx.Adafactor(lr, scale_parameter=False, relative_step=False),
}


def arrays(seed: int, scale: float = 1.0) -> dict[str, mx.array]:
    keys = mx.random.split(mx.random.key(seed), len(SHAPES))
    return {n: scale * mx.random.normal(s, key=k) for (n, s), k in zip(SHAPES.items(), keys, strict=True)}


def same(one: dict[str, mx.array], other: dict[str, mx.array]) -> bool:
    assert one.keys() == other.keys()
    return all(mx.array_equal(one[name], other[name]).item() for name in one)


def theirs(kind: str, lr: float, steps: int) -> dict[str, mx.array]:
    """Each parameter with an optimizer of its own."""
    params = arrays(0)
    for name in params:
        own = THEIRS[kind](lr)
        for step in range(steps):
            params[name] = own.apply_gradients({"x": arrays(step + 1)[name]}, {"x": params[name]})["x"]
    return params


def ours(options: dict, steps: int, *, compiled: bool = False) -> tuple[dict[str, mx.array], Optimizer]:
    params = arrays(0)
    optimizer = Optimizer(Recipe.of(options), params, compiled=compiled)
    for step in range(steps):
        params, _ = optimizer.step(params, arrays(step + 1), mx.array(1.0), LR)
    return params, optimizer


@pytest.mark.parametrize("kind", THEIRS)
def test_as_mlx_parameter_by_parameter(kind):
    found, _ = ours({"optimizer": kind}, 5)
    expected = theirs(kind, LR, 5)
    assert found.keys() == expected.keys()
    for name in found:
        assert mx.allclose(found[name], expected[name], rtol=1e-6, atol=1e-7).item(), name


def test_as_mlx_lm_means_adamw_without_bias_correction():
    found, _ = ours({"optimizer": "adamw", "bias_correction": False}, 3)
    expected = mlx.AdamW(LR)
    params = arrays(0)
    for step in range(3):
        params = expected.apply_gradients(arrays(step + 1), params)
    assert all(mx.allclose(found[n], params[n], rtol=1e-6).item() for n in found)


@pytest.mark.parametrize("kind", THEIRS)
def test_lora_plus_speeds_up_the_second_factor_alone(kind):
    found, _ = ours({"optimizer": kind, "lora_plus": 4.0}, 3)
    slow, fast = theirs(kind, LR, 3), theirs(kind, 4 * LR, 3)
    for name in found:
        expected = fast if name.endswith("lora_b") else slow
        assert mx.allclose(found[name], expected[name], rtol=1e-5, atol=1e-6).item(), name


def test_the_norm_is_over_all_and_clips_all_alike():
    params, gradients = arrays(0), arrays(1, 10.0)
    clipped, norm = mlx.clip_grad_norm(gradients, 0.5)
    plain = Optimizer(Recipe.of({"optimizer": "sgd"}), params, compiled=False)
    cutting = Optimizer(Recipe.of({"optimizer": "sgd", "grad_clip": 0.5}), params, compiled=False)
    expected, _ = plain.step(params, clipped, mx.array(0.0), LR)
    found, measured = cutting.step(params, gradients, mx.array(0.0), LR)
    assert measured.item() == pytest.approx(norm.item())  # as it was before clipping
    assert all(mx.allclose(found[n], expected[n], rtol=1e-6).item() for n in found)


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("where", ["loss", "gradient", "too large"])
def test_what_is_not_finite_changes_nothing_and_neither_does_what_comes_behind(kind, where):
    params, optimizer = ours({"optimizer": kind}, 2)
    state = dict(optimizer.state)
    bad, loss = arrays(9), mx.array(math.nan if where == "loss" else 1.0)
    if where == "gradient":
        bad["a.q.m"] = bad["a.q.m"] * math.inf
    if where == "too large":
        bad["a.q.m"] = bad["a.q.m"] * 1e30  # finite; its norm is not
    after, _ = optimizer.step(params, bad, loss, LR)
    behind, _ = optimizer.step(after, arrays(10), mx.array(1.0), LR)
    assert same(after, params) and same(behind, params)
    del state["sound"]
    assert same({n: a for n, a in optimizer.state.items() if n != "sound"}, state)


@pytest.mark.parametrize("kind", THEIRS)
def test_the_state_is_flat_and_all_there_is(kind):
    straight, _ = ours({"optimizer": kind, "lora_plus": 2.0}, 6)
    halfway, first = ours({"optimizer": kind, "lora_plus": 2.0}, 3)
    assert all(isinstance(array, mx.array) for array in first.state.values())
    second = Optimizer(Recipe.of({"optimizer": kind, "lora_plus": 2.0}), halfway, compiled=False)
    assert second.state.keys() == first.state.keys()
    second.state = {name: mx.array(array) for name, array in first.state.items()}
    params = halfway
    for step in range(3, 6):
        params, _ = second.step(params, arrays(step + 1), mx.array(1.0), LR)
    assert same(params, straight)


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for the CPU with g++")
@pytest.mark.parametrize("kind", THEIRS)
def test_compiled_it_does_the_same(kind):
    options = {"optimizer": kind, "lora_plus": 2.0, "grad_clip": 1.0}
    plain, one = ours(options, 4)
    compiled, other = ours(options, 4, compiled=True)
    assert all(mx.allclose(plain[n], compiled[n], rtol=1e-5, atol=1e-6).item() for n in plain)
    assert one.state.keys() == other.state.keys()
    after, _ = other.step(compiled, arrays(9), mx.array(math.nan), LR)
    assert same(after, compiled) and other.state["step"].item() == 4


def test_the_norm_does_not_depend_on_the_order_of_names():
    """A file gives them back in an order of its own, and sums of floats have one."""
    keys = mx.random.split(mx.random.key(1), 300)
    gradients = {f"p{i}": mx.random.normal((3,), key=key) for i, key in enumerate(keys)}
    norms = set()
    for shift in range(0, 300, 30):
        names = [*list(gradients)[shift:], *list(gradients)[:shift]]
        own = Optimizer(Recipe.of({"optimizer": "sgd"}), gradients, compiled=False)
        _, norm = own.step(gradients, {n: gradients[n] for n in names}, mx.array(1.0), LR)
        norms.add(norm.item())
    assert len(norms) == 1


@pytest.mark.parametrize("kind", THEIRS)
def test_a_step_leaves_arrays_laid_out_as_a_file_gives_them_back(kind):
    params = {"w": mx.random.normal((6, 3), key=mx.random.key(1))}
    optimizer = Optimizer(Recipe.of({"optimizer": kind}), params, compiled=False)
    for _ in range(2):
        gradients = {"w": mx.random.normal((3, 6), key=mx.random.key(2)).T}
        params, _ = optimizer.step(params, gradients, mx.array(1.0), LR)
        mx.eval(params, optimizer.state)
        left: list[Any] = [*params.values(), *optimizer.state.values()]
        assert all(memoryview(array).c_contiguous for array in left)


def test_plain_descent_keeps_no_momentum():
    assert set(ours({"optimizer": "sgd"}, 1)[1].state) == {"step", "sound"}


def test_the_parameters_keep_their_order():
    assert list(ours({"lora_plus": 2.0}, 2)[0]) == list(SHAPES)
