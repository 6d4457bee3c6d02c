"""The dense feed-forward part, with a gate or without."""

from __future__ import annotations

from mlxone.backend.arrays import mx
from mlxone.models.layers import Joined, Linear, Parallel, together
from mlxone.models.parts.activations import Gate, Single, gate_of, single_of
from mlxone.models.spec import DecoderSpec, DenseSpec
from mlxone.models.weights import WeightSource


class FeedForward:
    __slots__ = ("down", "gate", "gate_up")

    def __init__(self, gate_up: Joined | Parallel, down: Linear, gate: Gate) -> None:
        self.gate_up, self.down, self.gate = gate_up, down, gate

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = self.gate_up(x)
        return self.down(self.gate(gate, up))

    def arrays(self) -> list[mx.array]:
        return [*self.gate_up.arrays(), *self.down.arrays()]


class FusedFeedForward:
    """Gate and up are one tensor of the checkpoint, and so one linear for adapters, too."""

    __slots__ = ("down", "gate", "gate_up")

    def __init__(self, gate_up: Linear, down: Linear, gate: Gate) -> None:
        self.gate_up, self.down, self.gate = gate_up, down, gate

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gate_up(x), 2, axis=-1)
        return self.down(self.gate(gate, up))

    def arrays(self) -> list[mx.array]:
        return [*self.gate_up.arrays(), *self.down.arrays()]


class UngatedFeedForward:
    __slots__ = ("activation", "down", "up")

    def __init__(self, up: Linear, down: Linear, activation: Single) -> None:
        self.up, self.down, self.activation = up, down, activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(self.activation(self.up(x)))

    def arrays(self) -> list[mx.array]:
        return [*self.up.arrays(), *self.down.arrays()]


Dense = FeedForward | FusedFeedForward | UngatedFeedForward


def build(spec: DenseSpec, model: DecoderSpec, source: WeightSource, path: str) -> Dense:
    hidden, size = model.hidden_size, spec.size

    def linear(role: str, in_dims: int, out_dims: int) -> Linear:
        return source.linear(f"{path}.{model.name(role)}", in_dims, out_dims, bias=spec.bias)

    if not spec.gated:
        up, down = linear("up_proj", hidden, size), linear("down_proj", size, hidden)
        return UngatedFeedForward(up, down, single_of(spec.activation))
    gate = gate_of(spec.activation)
    if spec.fused:
        gate_up = linear("gate_up_proj", hidden, 2 * size)
        return FusedFeedForward(gate_up, linear("down_proj", size, hidden), gate)
    parts = [linear("gate_proj", hidden, size), linear("up_proj", hidden, size)]
    # Joining the pairs of other activations brought nothing on an H200.
    pair = together(parts) if spec.activation == "silu" else Parallel(parts)
    return FeedForward(pair, linear("down_proj", size, hidden), gate)
