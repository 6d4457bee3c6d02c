"""A short convolution between two gates: LFM2's layers that are no attention."""

from __future__ import annotations

from mlxone.backend.arrays import mx
from mlxone.kv.recurrent import RecurrentState
from mlxone.kv.state import Mask
from mlxone.models.layers import Linear
from mlxone.models.parts.convolution import Convolution, convolution
from mlxone.models.spec import DecoderSpec, ShortConvSpec
from mlxone.models.weights import WeightSource


class ShortConv:
    """Its state holds the convolution's tail."""

    __slots__ = ("convolution", "inputs", "out")

    def __init__(self, inputs: Linear, convolution: Convolution, out: Linear) -> None:
        self.inputs, self.convolution, self.out = inputs, convolution, out

    def __call__(self, x: mx.array, state: RecurrentState, mask: Mask) -> mx.array:
        before, after, x = mx.split(self.inputs(x), 3, axis=-1)
        x, tail = self.convolution(before * x, state.held[0] if state.held else None)
        out = self.out(after * x)
        state.keep((tail,), x.shape[1])
        return out

    def arrays(self) -> list[mx.array]:
        return [*self.inputs.arrays(), *self.convolution.arrays(), *self.out.arrays()]


def build(spec: ShortConvSpec, model: DecoderSpec, source: WeightSource, path: str) -> ShortConv:
    hidden = model.hidden_size
    return ShortConv(
        source.linear(f"{path}.{model.name('in_proj')}", hidden, 3 * hidden, bias=spec.bias),
        convolution(source, f"{path}.{model.name('conv1d')}", hidden, spec.kernel, bias=spec.bias),
        source.linear(f"{path}.{model.name('out_proj')}", hidden, hidden, bias=spec.bias),
    )
