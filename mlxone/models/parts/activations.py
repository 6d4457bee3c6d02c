"""What stands between the matrices of a feed-forward part: of one array, or of a gate and an array.

On a GPU they are fused by MLX's compiler; on the CPU that would call a C++ compiler at run time,
and the numbers are the same without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

from mlxone.backend.arrays import mx, on_cpu
from mlxone.models.spec import Activation

Single = Callable[[mx.array], mx.array]
Gate = Callable[[mx.array, mx.array], mx.array]


def silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def gelu(x: mx.array) -> mx.array:
    return x * (1 + mx.erf(x / math.sqrt(2))) / 2


def gelu_approx(x: mx.array) -> mx.array:
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu2(x: mx.array) -> mx.array:
    return mx.square(mx.maximum(x, 0))


SINGLES: Mapping[str, Single] = {"silu": silu, "gelu": gelu, "gelu_approx": gelu_approx, "relu2": relu2}


def silu_gate(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


def clipped_silu_gate(gate: mx.array, up: mx.array) -> mx.array:
    """The gate is kept below a limit, the other within it, and one is added to that."""
    gate, up = mx.minimum(gate, CLIP), mx.clip(up, -CLIP, CLIP)
    return (up + 1.0) * (gate * mx.sigmoid(STEEPNESS * gate))


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    return gelu_approx(gate) * up


CLIP, STEEPNESS = 7.0, 1.702
WHOLE: Mapping[str, Gate] = {"silu": silu_gate, "geglu": geglu, "clipped_silu": clipped_silu_gate}


@cache
def single_of(name: Activation) -> Single:
    return SINGLES[name] if on_cpu() else mx.compile(SINGLES[name], shapeless=True)


@cache
def gate_of(name: Activation) -> Gate:
    """What is fused rounds less often on a GPU: so parity fixes whether the product is part of it."""
    if name in WHOLE:
        return WHOLE[name] if on_cpu() else mx.compile(WHOLE[name], shapeless=True)
    single = single_of(name)
    return lambda gate, up: single(gate) * up
