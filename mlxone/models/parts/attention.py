"""Attention over keys and values of every head, in all the ways families do it.

What differs between them is data of the spec; a difference that a model does not have costs one look.
B: rows, L: new tokens, D: hidden size, H: heads.
"""

from __future__ import annotations

from typing import Any, Literal

from mlxone.backend.arrays import mx
from mlxone.kv.state import AttentionState, Mask
from mlxone.models.layers import Joined, Linear, Parallel, together
from mlxone.models.parts.head_norms import HeadNormalizer, WeightlessNorm, head_norms
from mlxone.models.rope import Rope, make_rope
from mlxone.models.spec import AttentionSpec, DecoderSpec, Stretch
from mlxone.models.weights import WeightSource

AnyHeadNorm = HeadNormalizer | WeightlessNorm
NormPlace = Literal["projection", "head", "last"]  # before heads are told apart, before the rope, behind it


class FusedProjections:
    """Queries, keys and values are one tensor of the checkpoint, and so one linear for adapters, too."""

    __slots__ = ("borders", "whole")

    def __init__(self, whole: Linear, borders: list[int]) -> None:
        self.whole, self.borders = whole, borders

    def __call__(self, x: mx.array) -> list[mx.array]:
        return list(mx.split(self.whole(x), self.borders, axis=-1))

    def arrays(self) -> list[mx.array]:
        return self.whole.arrays()


class Attention:
    __slots__ = ("k_norm", "norm_place", "out", "q_norm", "qkv", "rope", "sinks", "spec", "v_norm", "ways")

    def __init__(
        self,
        spec: AttentionSpec,
        qkv: Joined | Parallel | FusedProjections,
        out: Linear,
        norms: tuple[HeadNormalizer | None, HeadNormalizer | None],
        sinks: mx.array | None,
    ) -> None:
        self.spec, self.qkv, self.out, self.sinks = spec, qkv, out, sinks
        self.q_norm, self.k_norm = norms
        self.norm_place = _norm_place(spec)
        self.v_norm = None if spec.value_norm is None else WeightlessNorm(spec.value_norm.eps)
        self.rope: Rope | None = None if spec.rope is None else make_rope(spec.rope)
        ways = {"sinks": sinks, "softcap": spec.softcap}
        self.ways: dict[str, Any] = {name: way for name, way in ways.items() if way is not None}

    def __call__(self, x: mx.array, state: AttentionState, mask: Mask) -> mx.array:
        batch, length, _ = x.shape
        spec, gate = self.spec, None
        queries, *rest = self.qkv(x)
        if spec.gated:
            queries, gate = _halves(queries, spec.heads)
        queries = self._by_head(queries, spec.heads, self.q_norm, self.norm_place)
        queries = self._turned(queries, self.q_norm, state)
        if spec.stretch is not None:
            queries = state.rotate(_stretching(spec.stretch), queries)
        if spec.shared:
            held = state.held()
        else:
            keys = self._by_head(rest[0], spec.kv_heads, self.k_norm, self.norm_place)
            values = self._by_head(rest[-1], spec.kv_heads, self.v_norm, "head")
            held = state.append(self._turned(keys, self.k_norm, state), values)
        out = self._attend(queries, state, held, mask)
        if length > 1:
            out = out.transpose(0, 2, 1, 3)
        out = out.reshape(batch, length, -1)
        return self.out(out if gate is None else out * mx.sigmoid(gate))

    def _by_head(self, x: mx.array, heads: int, norm: AnyHeadNorm | None, place: NormPlace) -> mx.array:
        """[B, L, H * dim] to [B, H, L, dim]. One token needs no transposing: fewer steps for the host."""
        batch, length = x.shape[0], x.shape[1]
        if norm is not None and place == "projection":
            x = norm(x)
        dims = self.spec.head_dim
        x = x.reshape((batch, heads, 1, dims) if length == 1 else (batch, length, heads, dims))
        if norm is not None and place == "head":
            x = norm(x)
        return x if length == 1 else x.transpose(0, 2, 1, 3)

    def _turned(self, x: mx.array, norm: AnyHeadNorm | None, state: AttentionState) -> mx.array:
        if self.rope is not None:
            # What a shared layer reads has been appended by the layer that keeps it.
            x = self.rope(x, state.offset - x.shape[2]) if self.spec.shared else state.rotate(self.rope, x)
        return norm(x) if norm is not None and self.norm_place == "last" else x

    def _attend(self, queries: mx.array, state: AttentionState, held: Any, mask: Mask) -> mx.array:
        spec, dtype = self.spec, queries.dtype
        widen = spec.wide == "always" or (spec.wide == "half" and dtype == mx.float16)
        if not widen:
            return state.attend(queries, held, scale=spec.scale, mask=mask, **self.ways)
        queries = queries.astype(mx.float32)
        return state.attend(queries, held, scale=spec.scale, mask=mask, **self.ways).astype(dtype)

    def arrays(self) -> list[mx.array]:
        norms = [a for norm in (self.q_norm, self.k_norm) if norm is not None for a in norm.arrays()]
        sinks = [] if self.sinks is None else [self.sinks]
        return [*self.qkv.arrays(), *self.out.arrays(), *norms, *sinks]


def _norm_place(spec: AttentionSpec) -> NormPlace:
    own = spec.head_norm
    if own is None:
        return "head"
    return "last" if own.after_rope else "head" if own.reach == "head" else "projection"


def _halves(x: mx.array, heads: int) -> tuple[mx.array, mx.array]:
    """[B, L, H * 2 dim]: of each head, queries, and the gate of its output."""
    batch, length, _ = x.shape
    queries, gate = mx.split(x.reshape(batch, length, heads, -1), 2, axis=-1)
    return queries, gate.reshape(batch, length, -1)


def _stretching(stretch: Stretch) -> Rope:
    """By position as a rope is, so it is the state that knows where the queries stand."""

    def stretched(queries: mx.array, offset: Any) -> mx.array:
        length = queries.shape[2]
        if isinstance(offset, int) and offset + length <= stretch.trained:
            return queries  # the factor is 1
        first = offset if isinstance(offset, int) else offset.reshape(-1, 1)
        places = mx.floor((mx.arange(length) + first) / stretch.trained)
        factors = (1 + stretch.beta * mx.log(1 + places)).reshape(-1, 1, length, 1)
        return queries * factors.astype(queries.dtype)

    return stretched


def build(spec: AttentionSpec, model: DecoderSpec, source: WeightSource, path: str) -> Attention:
    inner = spec.heads * spec.head_dim
    out = source.linear(f"{path}.{model.name('o_proj')}", inner, model.hidden_size, bias=spec.out_bias)
    sinks = source.vector(f"{path}.sinks", spec.heads) if spec.sinks else None
    norms = head_norms(spec, model, source, path)
    return Attention(spec, _projections(spec, model, source, path), out, norms, sinks)


def _projections(
    spec: AttentionSpec, model: DecoderSpec, source: WeightSource, path: str
) -> Joined | Parallel | FusedProjections:
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    sizes = {"q_proj": 2 * queries if spec.gated else queries}
    if not spec.shared:
        sizes |= {"k_proj": keys} if spec.values_are_keys else {"k_proj": keys, "v_proj": keys}

    def linear(role: str, out_dims: int) -> Linear:
        return source.linear(f"{path}.{model.name(role)}", model.hidden_size, out_dims, bias=spec.qkv_bias)

    if spec.fused:
        return FusedProjections(linear("qkv_proj", queries + 2 * keys), [queries, queries + keys])
    parts = [linear(role, size) for role, size in sizes.items()]
    return together(parts)
