"""The gated delta rule: a state of [value_dim, key_dim] for each head, corrected token by token.

Each token lets the state fade, asks it what it has under the token's key, and stores the difference to
the token's value there. Tokens come one after another, so a long text is a long loop; on the CPU that is
plain operations, on a GPU one token's are fused by MLX's compiler. On Metal mlx-lm has a kernel of its
own for the loop; this project has none, because nobody could run it here: there the numbers agree with
mlx-lm's only as far as rounding goes, and reading a prompt is slower.
B: rows, L: new tokens, K: heads of queries and keys, H: heads of values.
"""

from __future__ import annotations

from typing import Protocol

from mlxone.backend.arrays import mx, on_cpu
from mlxone.kv.recurrent import RecurrentState
from mlxone.kv.state import Mask
from mlxone.models.layers import AnyNorm, Joined, Linear, Parallel, together
from mlxone.models.parts.activations import single_of
from mlxone.models.parts.convolution import Convolution, convolution
from mlxone.models.spec import DecoderSpec, GatedDeltaSpec, NormSpec
from mlxone.models.weights import WeightSource

NORMAL_EPS = 1e-6  # of the length of a query or key, squared


class Projections(Protocol):
    """[B, L, D] to what is convolved [B, L, C] (queries, keys, values), the output's gate [B, L, H, dim],
    and two numbers a head [B, L, H]: how much is corrected, and how much fades."""

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]: ...

    def arrays(self) -> list[mx.array]: ...


class SeparateProjections:
    """One linear for each; the large ones are a product of their own, and so are the small ones."""

    __slots__ = ("large", "small", "spec")

    def __init__(self, spec: GatedDeltaSpec, large: Joined | Parallel, small: Joined | Parallel) -> None:
        self.spec, self.large, self.small = spec, large, small

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        mixed, gate = self.large(x)
        correction, fading = self.small(x)
        gate = gate.reshape(*x.shape[:2], self.spec.value_heads, self.spec.value_dim)
        return mixed, gate, correction, fading

    def arrays(self) -> list[mx.array]:
        return [*self.large.arrays(), *self.small.arrays()]


class FusedProjections:
    """Two linears that hold, for one key head after the other, what belongs to it."""

    __slots__ = ("large", "small", "spec")

    def __init__(self, spec: GatedDeltaSpec, large: Linear, small: Linear) -> None:
        self.spec, self.large, self.small = spec, large, small

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        spec, (batch, length, _) = self.spec, x.shape
        share = spec.value_heads // spec.key_heads
        values = share * spec.value_dim
        borders = [spec.key_dim, 2 * spec.key_dim, 2 * spec.key_dim + values]
        *mixed, gate = mx.split(self.large(x).reshape(batch, length, spec.key_heads, -1), borders, axis=-1)
        correction, fading = mx.split(
            self.small(x).reshape(batch, length, spec.key_heads, -1), [share], axis=-1
        )
        return (
            mx.concatenate([part.reshape(batch, length, -1) for part in mixed], axis=-1),
            gate.reshape(batch, length, spec.value_heads, spec.value_dim),
            correction.reshape(batch, length, spec.value_heads),
            fading.reshape(batch, length, spec.value_heads),
        )

    def arrays(self) -> list[mx.array]:
        return [*self.large.arrays(), *self.small.arrays()]


class GatedDelta:
    """Its state holds the convolution's tail and the recurrence's [B, H, value_dim, key_dim] in float32."""

    __slots__ = (
        "activation", "convolution", "fade", "fade_bias", "fade_rate", "norm", "out", "project", "spec",
        "step", "weigh",
    )  # fmt: skip

    def __init__(
        self,
        spec: GatedDeltaSpec,
        project: Projections,
        convolution: Convolution,
        fading: tuple[mx.array, mx.array],
        norm: AnyNorm,
        out: Linear,
    ) -> None:
        self.spec, self.project, self.convolution = spec, project, convolution
        self.fade_rate, self.fade_bias = fading  # [H] each; the rate as its logarithm
        self.norm, self.out = norm, out
        self.activation = single_of("silu")
        compiled = not on_cpu()
        self.step = mx.compile(_step) if compiled else _step_in_turn
        self.fade = mx.compile(_fade, shapeless=True) if compiled else _fade
        self.weigh = mx.compile(_weigh, shapeless=True) if compiled else _weigh

    def __call__(self, x: mx.array, state: RecurrentState, mask: Mask) -> mx.array:
        batch, length, _ = x.shape
        tail, memory = state.held or (None, None)
        mixed, gate, correction, fading = self.project(x)
        mixed, tail = self.convolution(mixed, tail)
        queries, keys, values = self._by_head(self.activation(mixed))
        out, memory = self._recur(
            queries, keys, values, self.fade(self.fade_rate, fading, self.fade_bias), mx.sigmoid(correction),
            memory,
        )  # fmt: skip
        out = self.out(self.weigh(out, gate, self.norm(out)).reshape(batch, length, -1))
        state.keep((tail, memory), length)
        return out

    def _by_head(self, mixed: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries and keys of unit length, the queries then divided by the root of it: [B, L, heads, dim]."""
        spec, (batch, length, _) = self.spec, mixed.shape
        inner = spec.key_heads * spec.key_dim
        queries, keys, values = mx.split(mixed, [inner, 2 * inner], axis=-1)
        by_key = (batch, length, spec.key_heads, spec.key_dim)
        scale = spec.key_dim**-0.5
        eps = NORMAL_EPS * scale**2  # a mean takes the place of a sum
        queries = scale**2 * mx.fast.rms_norm(queries.reshape(by_key), None, eps)
        keys = scale * mx.fast.rms_norm(keys.reshape(by_key), None, eps)
        if (share := spec.value_heads // spec.key_heads) > 1:
            queries, keys = mx.repeat(queries, share, axis=2), mx.repeat(keys, share, axis=2)
        return queries, keys, values.reshape(batch, length, spec.value_heads, spec.value_dim)

    def _recur(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        left: mx.array,
        correction: mx.array,
        memory: mx.array | None,
    ) -> tuple[mx.array, mx.array]:
        spec, length = self.spec, queries.shape[1]
        if memory is None:
            shape = (queries.shape[0], spec.value_heads, spec.value_dim, spec.key_dim)
            memory = mx.zeros(shape, mx.float32)
        outs = []
        for place in range(length):
            out, memory = self.step(
                queries[:, place], keys[:, place], values[:, place], left[:, place], correction[:, place],
                memory,
            )  # fmt: skip
            outs.append(out)
        return mx.stack(outs, axis=1).astype(queries.dtype), memory  # at once: one step less a token

    def arrays(self) -> list[mx.array]:
        parts = (self.project, self.convolution, self.norm, self.out)
        return [*(a for part in parts for a in part.arrays()), self.fade_rate, self.fade_bias]


def _fade(rate: mx.array, x: mx.array, bias: mx.array) -> mx.array:
    """What is left of the state, as a factor."""
    return mx.exp(-mx.exp(rate.astype(mx.float32)) * mx.logaddexp(x + bias, 0))


def _weigh(x: mx.array, gate: mx.array, normalised: mx.array) -> mx.array:
    gate = gate.astype(mx.float32)
    return (gate * mx.sigmoid(gate) * normalised.astype(mx.float32)).astype(x.dtype)


def _step(
    query: mx.array, key: mx.array, value: mx.array, left: mx.array, correction: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """One token: [B, H, dim] each, [B, H] the two numbers. Sums are over the key's dimensions."""
    memory = memory * left[..., None, None]
    key = key[..., None, :]
    missing = (value - (memory * key).sum(axis=-1)) * correction[..., None]
    memory = memory + key * missing[..., None]
    return (memory * query[..., None, :]).sum(axis=-1), memory


def _step_in_turn(
    query: mx.array, key: mx.array, value: mx.array, left: mx.array, correction: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """The next token waits for what this one says. MLX would compute all states first, and then ask each:
    for 2,048 tokens of a Qwen3.5-4B that holds 4.3 GB."""
    out, memory = _step(query, key, value, left, correction, memory)
    (memory,) = mx.depends([memory], [out])
    return out, memory


def build(spec: GatedDeltaSpec, model: DecoderSpec, source: WeightSource, path: str) -> GatedDelta:
    keys, values = spec.key_heads * spec.key_dim, spec.value_heads * spec.value_dim

    def name(role: str) -> str:
        return f"{path}.{model.name(role)}"

    return GatedDelta(
        spec,
        _projections(spec, model, source, path),
        convolution(source, name("conv1d"), 2 * keys + values, spec.kernel, bias=False),
        (source.vector(name("A_log"), spec.value_heads), source.vector(name("dt_bias"), spec.value_heads)),
        source.norm(name("norm"), spec.value_dim, NormSpec(spec.norm_eps)),
        source.linear(name("out_proj"), values, model.hidden_size),
    )


def _projections(spec: GatedDeltaSpec, model: DecoderSpec, source: WeightSource, path: str) -> Projections:
    keys, values = spec.key_heads * spec.key_dim, spec.value_heads * spec.value_dim

    def linear(role: str, out_dims: int) -> Linear:
        return source.linear(f"{path}.{model.name(role)}", model.hidden_size, out_dims)

    if spec.fused:
        large, small = 2 * keys + 2 * values, 2 * spec.value_heads
        return FusedProjections(spec, linear("in_proj_qkvz", large), linear("in_proj_ba", small))
    large_ones = [linear("in_proj_qkv", 2 * keys + values), linear("in_proj_z", values)]
    small_ones = [linear("in_proj_b", spec.value_heads), linear("in_proj_a", spec.value_heads)]
    return SeparateProjections(spec, together(large_ones), together(small_ones))
