"""A causal convolution, each channel by itself, over the last few tokens. Recurrent mixers begin with one.

What it remembers is its tail: the inputs of the tokens that the next one still sees.
B: rows, L: new tokens, C: channels.
"""

from __future__ import annotations

from mlxone.backend.arrays import mx
from mlxone.models.weights import WeightSource


class Convolution:
    __slots__ = ("bias", "channels", "kernel", "weight")

    def __init__(self, weight: mx.array, bias: mx.array | None) -> None:
        self.channels, self.kernel, _ = weight.shape
        self.weight, self.bias = weight, bias

    def __call__(self, x: mx.array, tail: mx.array | None) -> tuple[mx.array, mx.array]:
        """[B, L, C] and the tail of what came before to [B, L, C] and the new tail [B, kernel - 1, C]."""
        batch, length, _ = x.shape
        if tail is None:
            tail = mx.zeros((batch, self.kernel - 1, self.channels), x.dtype)
        seen = mx.concatenate([tail, x], axis=1)
        out = mx.conv1d(seen, self.weight, groups=self.channels)
        tail = seen[:, length:]
        if length > 1:  # the end of a long chunk would keep all of it in memory
            tail = mx.contiguous(tail)
        return out if self.bias is None else out + self.bias, tail

    def arrays(self) -> list[mx.array]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


def convolution(source: WeightSource, path: str, channels: int, kernel: int, *, bias: bool) -> Convolution:
    weight = source.tensor(f"{path}.weight", (channels, kernel, 1))
    return Convolution(weight, source.vector(f"{path}.bias", channels) if bias else None)
