"""Mixtures of experts: each token through a few of many feed-forward parts, weighed and added up.

Many tokens are put in the order of their experts first, so that each expert's weights are read once.
E: experts, K: chosen for a token, B: rows, L: tokens, D: hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

from mlxone.backend.arrays import mx, on_cpu
from mlxone.models.layers import Linear
from mlxone.models.parts import feed_forward, routing
from mlxone.models.parts.activations import Gate, Single, gate_of, single_of
from mlxone.models.parts.feed_forward import Dense
from mlxone.models.parts.routing import Router
from mlxone.models.spec import DecoderSpec, ExpertsSpec
from mlxone.models.stacked import Abreast, JoinedStacks, Stack, join_stacks
from mlxone.models.weights import WeightSource

# From this many choices on they are sorted: where mlx-lm begins to, for the numbers differ by it.
SORTED_FROM = 64
JOINED = True  # on a GPU the stacks of gate and up are one product


class GatedExperts:
    __slots__ = ("down", "gate", "gate_up")

    def __init__(self, gate_up: Abreast | JoinedStacks, down: Stack, gate: Gate) -> None:
        self.gate_up, self.down, self.gate = gate_up, down, gate

    def __call__(self, x: mx.array, indices: mx.array, is_sorted: bool) -> mx.array:
        gate, up = self.gate_up.gathered(x, indices, is_sorted)
        return self.down.gathered(self.gate(gate, up), indices, is_sorted)

    def arrays(self) -> list[mx.array]:
        return [*self.gate_up.arrays(), *self.down.arrays()]


class UngatedExperts:
    __slots__ = ("activation", "down", "up")

    def __init__(self, up: Stack, down: Stack, activation: Single) -> None:
        self.up, self.down, self.activation = up, down, activation

    def __call__(self, x: mx.array, indices: mx.array, is_sorted: bool) -> mx.array:
        inner = self.activation(self.up.gathered(x, indices, is_sorted))
        return self.down.gathered(inner, indices, is_sorted)

    def arrays(self) -> list[mx.array]:
        return [*self.up.arrays(), *self.down.arrays()]


StackedExperts = GatedExperts | UngatedExperts


def through_experts(experts: StackedExperts, x: mx.array, indices: mx.array) -> mx.array:
    """[B, L, D] and [B, L, K] to [B, L, K, D]."""
    if indices.size < SORTED_FROM:
        return experts(mx.expand_dims(x, (-2, -3)), indices, False).squeeze(-2)
    flat = indices.flatten()
    order = mx.argsort(flat)
    rows = x.reshape(-1, 1, x.shape[-1])[order // indices.shape[-1]]
    out = experts(rows, flat[order], True)
    return mx.unflatten(out[mx.argsort(order)], 0, indices.shape).squeeze(-2)


class Latent:
    """The way into the fewer dimensions that experts work in, and back."""

    __slots__ = ("into", "out")

    def __init__(self, into: Linear, out: Linear) -> None:
        self.into, self.out = into, out

    def arrays(self) -> list[mx.array]:
        return [*self.into.arrays(), *self.out.arrays()]


class SharedExpert:
    """What every token goes through; with a gate, it says for each token how much of it counts."""

    __slots__ = ("expert", "gate")

    def __init__(self, expert: Dense, gate: Linear | None) -> None:
        self.expert, self.gate = expert, gate

    def __call__(self, x: mx.array) -> mx.array:
        out = self.expert(x)
        return out if self.gate is None else mx.sigmoid(self.gate(x)) * out

    def arrays(self) -> list[mx.array]:
        return [*self.expert.arrays(), *([] if self.gate is None else self.gate.arrays())]


class Experts:
    __slots__ = ("as_input", "latent", "router", "shared", "stacked")

    def __init__(
        self,
        router: Router,
        stacked: StackedExperts,
        *,
        shared: SharedExpert | None = None,
        latent: Latent | None = None,
        as_input: bool = False,
    ) -> None:
        self.router, self.stacked, self.shared, self.latent = router, stacked, shared, latent
        self.as_input = as_input

    def __call__(self, x: mx.array) -> mx.array:
        out = self.chosen(x, *self.router(x))
        return out if self.shared is None else out + self.shared(x)

    def chosen(self, x: mx.array, indices: mx.array, scores: mx.array) -> mx.array:
        out = through_experts(self.stacked, x if self.latent is None else self.latent.into(x), indices)
        summed = (out * scores[..., None]).sum(axis=-2)
        if self.as_input:
            summed = summed.astype(out.dtype)
        return summed if self.latent is None else self.latent.out(summed)

    def arrays(self) -> list[mx.array]:
        parts = (self.router, self.stacked, self.shared, self.latent)
        return [a for part in parts if part is not None for a in part.arrays()]


def build(spec: ExpertsSpec, model: DecoderSpec, source: WeightSource, path: str) -> Experts:
    return Experts(
        routing.build(spec.router, model, source, path),
        build_stacked(spec, model, source, f"{path}.{model.name('stacked')}"),
        shared=_shared(spec, model, source, path),
        latent=_latent(spec, model, source, path),
        as_input=spec.as_input,
    )


def build_stacked(spec: ExpertsSpec, model: DecoderSpec, source: WeightSource, path: str) -> StackedExperts:
    outer, inner = spec.latent or model.hidden_size, spec.size

    def stack(role: str, in_dims: int, out_dims: int) -> Stack:
        name, count = f"{path}.{model.name(role)}", spec.router.experts
        return source.stack(name, count, in_dims, out_dims, bias=spec.bias).for_gathering()

    up, down = stack("expert_up", outer, inner), stack("expert_down", inner, outer)
    if not spec.gated:
        return UngatedExperts(up, down, single_of(spec.activation))
    pair = [stack("expert_gate", outer, inner), up]
    together: Callable[[list[Stack]], Abreast | JoinedStacks]
    together = join_stacks if JOINED and not on_cpu() else Abreast
    return GatedExperts(together(pair), down, gate_of(spec.activation))


def _shared(spec: ExpertsSpec, model: DecoderSpec, source: WeightSource, path: str) -> SharedExpert | None:
    if spec.shared is None:
        return None
    around = path.rpartition(".")[0] if spec.shared_beside else path
    expert = feed_forward.build(spec.shared, model, source, f"{around}.{model.name('shared')}")
    if not spec.shared_gate:
        return SharedExpert(expert, None)
    return SharedExpert(expert, source.linear(f"{path}.{model.name('shared_gate')}", model.hidden_size, 1))


def _latent(spec: ExpertsSpec, model: DecoderSpec, source: WeightSource, path: str) -> Latent | None:
    if spec.latent is None:
        return None
    hidden, bias = model.hidden_size, spec.latent_bias
    into = source.linear(f"{path}.{model.name('fc1_latent_proj')}", hidden, spec.latent, bias=bias)
    out = source.linear(f"{path}.{model.name('fc2_latent_proj')}", spec.latent, hidden, bias=bias)
    return Latent(into, out)
