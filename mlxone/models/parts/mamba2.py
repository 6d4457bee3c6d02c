"""Mamba-2: a state of [head_dim, state_size] for each head, that fades and takes in, token by token.

Several tokens at once are computed as attention is, by weights from each token to each before it; up to
`CHUNK` of them, and then on from the state they leave. Parity fixes that arrangement, and how arrays lie
in memory where they are multiplied: a BLAS sums what is transposed in another order. On Metal mlx-lm
reads single tokens with a kernel of its own, which this project has not: there the numbers agree only as
far as rounding goes, and nobody has run either here.
B: rows, L: new tokens, H: heads, G: groups of heads that share what goes in and out, N: state size.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlxone.backend.arrays import mx, on_cpu
from mlxone.kv.recurrent import RecurrentState
from mlxone.kv.state import Mask
from mlxone.models.layers import AnyNorm, Linear
from mlxone.models.parts.activations import gate_of, single_of
from mlxone.models.parts.convolution import Convolution, convolution
from mlxone.models.spec import DecoderSpec, Mamba2Spec, NormSpec
from mlxone.models.weights import WeightSource

CHUNK = 256  # tokens


@dataclass(frozen=True, slots=True)
class Tokens:
    """What some tokens bring to the recurrence."""

    taken: mx.array  # [B, L, H, dim] float32: what goes into the state, by the length of the step
    fading: mx.array  # [B, L, H] float32: the logarithm of what is left of the state
    into: mx.array  # [B, L, G, N]
    out_of: mx.array  # [B, L, G, N]

    def part(self, start: int, end: int) -> Tokens:
        return Tokens(*(a[:, start:end] for a in (self.taken, self.fading, self.into, self.out_of)))


class GroupNorm:
    """Normalises group by group, then weighs all of it."""

    __slots__ = ("eps", "size", "weight")

    def __init__(self, weight: mx.array, groups: int, eps: float) -> None:
        self.weight, self.size, self.eps = weight, weight.shape[0] // groups, eps

    def __call__(self, x: mx.array) -> mx.array:
        groups = x.reshape(*x.shape[:-1], -1, self.size)
        return self.weight * mx.fast.rms_norm(groups, None, self.eps).reshape(x.shape)

    def arrays(self) -> list[mx.array]:
        return [self.weight]


class Mamba2:
    """Its state holds the convolution's tail and the recurrence's [B, H, dim, N]."""

    __slots__ = (
        "activation", "convolution", "gate", "inputs", "norm", "out", "rate", "skip", "spec", "step_bias",
        "steps",
    )  # fmt: skip

    def __init__(
        self,
        spec: Mamba2Spec,
        projections: tuple[Linear, Linear],
        convolution: Convolution,
        norm: AnyNorm | GroupNorm,
        heads: tuple[mx.array, mx.array, mx.array],
    ) -> None:
        self.spec, self.convolution, self.norm = spec, convolution, norm
        self.inputs, self.out = projections
        log_rate, self.step_bias, self.skip = heads  # [H] each
        self.rate = -mx.exp(log_rate).astype(mx.float32)
        self.activation, self.gate = single_of("silu"), gate_of("silu")
        self.steps = _steps if on_cpu() else mx.compile(_steps)

    def __call__(self, x: mx.array, state: RecurrentState, mask: Mask) -> mx.array:
        spec, (batch, length, _) = self.spec, x.shape
        tail, memory = state.held or (None, None)
        inner, both = spec.heads * spec.head_dim, spec.groups * spec.state_size
        gate, x, steps = mx.split(self.inputs(x), [inner, 2 * inner + 2 * both], axis=-1)
        x, tail = self.convolution(x, tail)
        x, into, out_of = mx.split(self.activation(x), [inner, inner + both], axis=-1)
        x = x.reshape(batch, length, spec.heads, spec.head_dim)
        steps = self.steps(steps, self.step_bias, spec.step_limits)
        tokens = Tokens(
            taken=steps[..., None] * x,
            fading=steps * self.rate,
            into=into.reshape(batch, length, spec.groups, spec.state_size),
            out_of=out_of.reshape(batch, length, spec.groups, spec.state_size),
        )
        out, memory = recur(tokens, memory, x.dtype)
        out = out + x * self.skip.astype(x.dtype)[:, None]
        out = self.out(self.norm(self.gate(gate, out.reshape(batch, length, inner))))
        state.keep((tail, memory), length)
        return out

    def arrays(self) -> list[mx.array]:
        parts = (self.inputs, self.convolution, self.norm, self.out)
        return [*(a for part in parts for a in part.arrays()), self.rate, self.step_bias, self.skip]


def _steps(steps: mx.array, bias: mx.array, limits: tuple[float, float]) -> mx.array:
    """How far each head goes with each token."""
    return mx.clip(mx.logaddexp(steps.astype(mx.float32) + bias, 0), *limits)


def recur(tokens: Tokens, memory: mx.array | None, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """What the heads say of all tokens [B, L, H, dim], and what they remember afterwards."""
    outs, length = [], tokens.taken.shape[1]
    for start in range(0, length, CHUNK):
        chunk = tokens if length <= CHUNK else tokens.part(start, start + CHUNK)
        out, memory = _chunk(chunk, memory)
        outs.append(out.astype(dtype))
    assert memory is not None
    return outs[0] if len(outs) == 1 else mx.concatenate(outs, axis=1), memory


def _chunk(tokens: Tokens, memory: mx.array | None) -> tuple[mx.array, mx.array]:
    taken, into = tokens.taken, tokens.into.transpose(0, 2, 3, 1)  # [B, G, N, L]
    share = taken.shape[2] // into.shape[1]
    weights = mx.repeat(tokens.out_of.swapaxes(1, 2) @ into, share, axis=1)  # [B, H, L, L]
    into = mx.repeat(into, share, axis=1).swapaxes(2, 3)  # [B, H, L, N]
    if taken.shape[1] == 1:  # nothing fades between a token and itself
        out, left = weights.astype(taken.dtype) @ taken.swapaxes(1, 2), taken
    else:
        fading = mx.exp(_between(tokens.fading.swapaxes(1, 2)))
        out = mx.tril(weights * fading, 0) @ taken.swapaxes(1, 2)
        left = taken * fading[:, :, -1:].transpose(0, 3, 1, 2)
    out, after = out.swapaxes(1, 2), left.transpose(0, 2, 3, 1) @ into
    if memory is not None:
        fading = mx.exp(mx.cumsum(tokens.fading, axis=1))  # [B, L, H]
        after = after + fading[:, -1, :, None, None] * memory
        out = out + fading[..., None] * _read(memory, tokens.out_of)
    return out, after


def _read(memory: mx.array, out_of: mx.array) -> mx.array:
    """What the state [B, H, dim, N] gives to tokens that ask with [B, L, G, N]: [B, L, H, dim]."""
    batch, length, groups, size = out_of.shape
    _, heads, dim, _ = memory.shape
    by_group = memory.reshape(batch, 1, groups, heads // groups, dim, size)
    return (by_group @ out_of.reshape(batch, length, groups, 1, size, 1)).squeeze(-1).flatten(2, 3)


def _between(fading: mx.array) -> mx.array:
    """[.., L] to [.., L, L]: the sum of all after one token, up to another one."""
    length = fading.shape[-1]
    return mx.cumsum(mx.tril(mx.repeat(fading[..., None], length, axis=-1), -1), axis=-2)


def build(spec: Mamba2Spec, model: DecoderSpec, source: WeightSource, path: str) -> Mamba2:
    hidden, inner = model.hidden_size, spec.heads * spec.head_dim
    channels = inner + 2 * spec.groups * spec.state_size

    def name(role: str) -> str:
        return f"{path}.{model.name(role)}"

    projections = (
        source.linear(name("in_proj"), hidden, inner + channels + spec.heads, bias=spec.proj_bias),
        source.linear(name("out_proj"), inner, hidden, bias=spec.proj_bias),
    )
    norm: AnyNorm | GroupNorm = (
        GroupNorm(source.vector(f"{name('norm')}.weight", inner), spec.groups, spec.norm_eps)
        if spec.norm_by_group
        else source.norm(name("norm"), inner, NormSpec(spec.norm_eps))
    )
    return Mamba2(
        spec,
        projections,
        convolution(source, name("conv1d"), channels, spec.kernel, bias=spec.conv_bias),
        norm,
        (
            source.vector(name("A_log"), spec.heads),
            source.vector(name("dt_bias"), spec.heads),
            source.vector(name("D"), spec.heads),
        ),
    )
