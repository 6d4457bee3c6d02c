"""Gradients to the next parameters: MLX's optimizers behind one object whose state is flat arrays.

A step is one graph: the norm over all gradients, clipping, the optimizer, and a guard. A loss or norm
that is not finite leaves parameters and state as they were, for that step and for all that were
submitted behind it (`sound` stays false), so whoever reads the loss later still holds the last good
parameters. LoRA+ gives the second factor (`.lora_b`) a learning rate of its own.

Equal to `mlx.optimizers` applied to each parameter. Adafactor takes the learning rate that it is given:
MLX's by default computes one of its own, and by the size of the weights, which are zero at first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlxone.backend.arrays import mx, on_cpu
from mlxone.backend.optimizers import optimizers as mlx
from mlxone.training.recipe import Recipe

Params = dict[str, mx.array]
SLOT = ":"  # between a parameter's name and its slot's
SECOND_FACTOR = ".lora_b"

_MADE: Mapping[str, Callable[[Recipe], Any]] = {
    "adamw": lambda r: mlx.AdamW(0.0, weight_decay=r.decay, bias_correction=r.corrects_bias),
    "adam": lambda r: mlx.Adam(0.0, bias_correction=r.corrects_bias),
    "adafactor": lambda r: mlx.Adafactor(
        0.0, weight_decay=r.decay, scale_parameter=False, relative_step=False
    ),
    "sgd": lambda r: mlx.SGD(0.0, weight_decay=r.decay),
    "muon": lambda r: mlx.Muon(0.0, weight_decay=r.decay),
}
UNUSED = {"sgd": ("v",)}  # of momentum, which is off


class Optimizer:
    def __init__(self, recipe: Recipe, params: Params, *, compiled: bool | None = None) -> None:
        """`compiled`: fused by MLX's compiler; by default on a GPU. On the CPU that needs a C++ compiler."""
        self._recipe = recipe
        self._groups = _groups(params, recipe.lora_plus)
        self.state = self._start(params)
        wanted = not on_cpu() if compiled is None else compiled
        self._update = mx.compile(self._graph) if wanted else self._graph

    def step(self, params: Params, gradients: Params, loss: mx.array, lr: float) -> tuple[Params, mx.array]:
        """The next parameters and the gradients' norm; nothing is evaluated."""
        rate = mx.array(lr, mx.float32)
        params, self.state, norm = self._update(params, gradients, self.state, loss, rate)
        return params, norm

    def _graph(
        self, params: Params, gradients: Params, state: Params, loss: mx.array, lr: mx.array
    ) -> tuple[Params, Params, mx.array]:
        squares = [mx.sum(mx.square(gradients[name])) for name in sorted(gradients)]  # in an order of its own
        norm = mx.sqrt(sum(squares, mx.array(0.0)))
        if self._recipe.grad_clip:
            shorter = mx.minimum(self._recipe.grad_clip / (norm + 1e-6), 1.0)
            gradients = {name: g * shorter for name, g in gradients.items()}
        sound = mx.logical_and(state["sound"], mx.logical_and(mx.isfinite(loss), mx.isfinite(norm)))
        new, new_state = self._apply(params, gradients, state, lr)
        return _kept(sound, new, params), _kept(sound, new_state, state) | {"sound": sound}, norm

    def _apply(self, params: Params, gradients: Params, state: Params, lr: mx.array) -> tuple[Params, Params]:
        new: Params = {}
        new_state: Params = {}
        for ratio, names in self._groups.items():
            optimizer = _MADE[self._recipe.optimizer](self._recipe)
            slots = _slots(state, names)
            optimizer.state = {"step": state["step"], "learning_rate": lr * ratio} | slots
            some = {name: gradients[name] for name in names}
            new |= optimizer.apply_gradients(some, {name: params[name] for name in names})
            new_state |= self._flat(optimizer.state, names)
        return {name: new[name] for name in params}, new_state

    def _start(self, params: Params) -> Params:
        optimizer = _MADE[self._recipe.optimizer](self._recipe)
        optimizer.init(dict(params))
        return self._flat(optimizer.state, list(params)) | {"sound": mx.array(True)}

    def _flat(self, state: Mapping[str, Any], names: list[str]) -> Params:
        unused = UNUSED.get(self._recipe.optimizer, ())
        slots = {
            f"{name}{SLOT}{slot}": array
            for name in names
            for slot, array in state[name].items()
            if slot not in unused
        }
        return {"step": state["step"]} | slots


def _groups(params: Params, ratio: float) -> dict[float, list[str]]:
    """Names by what their learning rate is multiplied by."""
    groups: dict[float, list[str]] = {}
    for name in params:
        groups.setdefault(ratio if name.endswith(SECOND_FACTOR) else 1.0, []).append(name)
    return groups


def _slots(state: Params, names: list[str]) -> dict[str, dict[str, mx.array]]:
    wanted: dict[str, dict[str, mx.array]] = {name: {} for name in names}
    for key, array in state.items():
        name, _, slot = key.rpartition(SLOT)
        if name in wanted:
            wanted[name][slot] = array
    return wanted


def _kept(sound: mx.array, new: Params, old: Params) -> Params:
    return {name: mx.where(sound, array, old[name]) for name, array in new.items()}
