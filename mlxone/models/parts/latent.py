"""Latent attention: the keys and values of all heads come from one short vector a token.

A head's queries and keys have two pieces, one without positions and one that is turned; the turned keys
are the same for all heads. `Expanded` keeps the keys and values of every head, as any attention does.
`Absorbed` keeps the short vector in the keys' place and the turned keys in the values' (576 numbers a
token where DeepSeek-V3's heads would take 40,960): one new token attends over the short vectors
themselves, several have keys and values made for them, and the turned piece joins in as a mask that is
added. It needs states that hand back arrays from `append`. A state that gives no mask as an array for
several tokens, as training's rows, attends by itself over keys and values of every head.
B: rows, L: new tokens, T: tokens held, H: heads, R: rank of the short vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlxone.backend.arrays import mx
from mlxone.kv.state import AttentionState, Mask
from mlxone.models.layers import AnyNorm, Joined, Linear, Parallel, together
from mlxone.models.rope import make_rope
from mlxone.models.spec import DecoderSpec, LatentSpec, NormSpec
from mlxone.models.stacked import PackedStack, PlainStack, Stack
from mlxone.models.weights import WeightSource

# What reads the hidden state: on a GPU one product. `Parallel` here keeps the products apart.
FIRST: Callable[[Sequence[Linear]], Joined | Parallel] = together


@dataclass(frozen=True, slots=True)
class Pieces:
    """Of the new tokens, what is turned being at their positions already."""

    queries: mx.array  # [B, H, L, plain]
    turned_queries: mx.array  # [B, H, L, rope]
    latents: mx.array  # [B, L, R]
    turned_keys: mx.array  # [B, 1, L, rope]


class Inputs:
    """From the hidden state to queries, the short vector and the turned keys."""

    __slots__ = ("first", "kv_norm", "q_norm", "query_up", "rope", "spec")

    def __init__(
        self,
        spec: LatentSpec,
        first: Joined | Parallel,
        query_up: Linear | None,
        q_norm: AnyNorm | None,
        kv_norm: AnyNorm,
    ) -> None:
        self.spec, self.first, self.query_up = spec, first, query_up
        self.q_norm, self.kv_norm, self.rope = q_norm, kv_norm, make_rope(spec.rope)

    def __call__(self, x: mx.array, state: AttentionState) -> Pieces:
        spec = self.spec
        queries, latents = self.first(x)
        if self.query_up is not None and self.q_norm is not None:
            queries = self.query_up(self.q_norm(queries))
        queries, turned_queries = mx.split(by_head(queries, spec.heads), [spec.plain_dim], axis=-1)
        latents, turned_keys = mx.split(latents, [spec.kv_rank], axis=-1)
        return Pieces(
            queries,
            state.rotate(self.rope, turned_queries),
            self.kv_norm(latents),
            state.rotate(self.rope, by_head(turned_keys, 1)),
        )

    def arrays(self) -> list[mx.array]:
        parts = [self.first, self.query_up, self.q_norm, self.kv_norm]
        return [a for part in parts if part is not None for a in part.arrays()]


class Expanded:
    __slots__ = ("inputs", "kv_up", "out", "spec")

    def __init__(self, spec: LatentSpec, inputs: Inputs, kv_up: Linear, out: Linear) -> None:
        self.spec, self.inputs, self.kv_up, self.out = spec, inputs, kv_up, out

    def __call__(self, x: mx.array, state: AttentionState, mask: Mask) -> mx.array:
        pieces = self.inputs(x, state)
        both = by_head(self.kv_up(pieces.latents), self.spec.heads)
        keys, values = mx.split(both, [self.spec.plain_dim], axis=-1)
        return self.out(from_heads(_attend_whole(self.spec, pieces, keys, values, state, mask)))

    def arrays(self) -> list[mx.array]:
        return [*self.inputs.arrays(), *self.kv_up.arrays(), *self.out.arrays()]


class Absorbed:
    __slots__ = ("inputs", "key_up", "out", "spec", "value_up")

    def __init__(self, spec: LatentSpec, inputs: Inputs, key_up: Stack, value_up: Stack, out: Linear) -> None:
        self.spec, self.inputs, self.out = spec, inputs, out
        self.key_up = key_up  # of each head: [plain] of a query to [R]; the way back makes keys of [R]
        self.value_up = value_up  # [R] to [value]

    def __call__(self, x: mx.array, state: AttentionState, mask: Mask) -> mx.array:
        pieces = self.inputs(x, state)
        latents = mx.expand_dims(pieces.latents, 1)
        if x.shape[1] > 1 and not isinstance(mask, mx.array):
            keys, values = self.key_up.transposed(latents), self.value_up(latents)
            return self.out(from_heads(_attend_whole(self.spec, pieces, keys, values, state, mask)))
        latents, turned_keys = state.append(latents, pieces.turned_keys)
        added = self._scores(pieces.turned_queries, turned_keys, mask)
        if x.shape[1] == 1:
            out = self._attend(self.key_up(pieces.queries), latents, latents, state, added)
            return self.out(from_heads(self.value_up(out)))
        keys, values = self.key_up.transposed(latents), self.value_up(latents)
        return self.out(from_heads(self._attend(pieces.queries, keys, values, state, added)))

    def _scores(self, queries: mx.array, keys: mx.array, mask: Mask) -> mx.array:
        """[B, H, L, T]: what the turned pieces add; the least of all numbers where nothing is seen."""
        scores = (queries * self.spec.scale) @ keys.swapaxes(-1, -2)
        if mask is None:
            return scores
        return mx.where(mask, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))

    def _attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, state: AttentionState, added: mx.array
    ) -> mx.array:
        return state.attend(queries, (keys, values), scale=self.spec.scale, mask=added)

    def arrays(self) -> list[mx.array]:
        parts = [self.inputs, self.key_up, self.value_up, self.out]
        return [a for part in parts for a in part.arrays()]


def _attend_whole(
    spec: LatentSpec, new: Pieces, keys: mx.array, values: mx.array, state: AttentionState, mask: Mask
) -> mx.array:
    """Both pieces of every head side by side, kept and attended over as in any attention."""
    batch, _, length, dims = new.turned_keys.shape
    turned_keys = mx.broadcast_to(new.turned_keys, (batch, spec.heads, length, dims))
    held = state.append(mx.concatenate([keys, turned_keys], axis=-1), values)
    queries = mx.concatenate([new.queries, new.turned_queries], axis=-1)
    return state.attend(queries, held, scale=spec.scale, mask=mask)


def by_head(x: mx.array, heads: int) -> mx.array:
    """[B, L, H * dim] to [B, H, L, dim]."""
    batch, length, _ = x.shape
    if length == 1:
        return x.reshape(batch, heads, 1, -1)
    return x.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)


def from_heads(x: mx.array) -> mx.array:
    """[B, H, L, dim] to [B, L, H * dim]."""
    batch, _, length, _ = x.shape
    return (x if length == 1 else x.transpose(0, 2, 1, 3)).reshape(batch, length, -1)


def build(spec: LatentSpec, model: DecoderSpec, source: WeightSource, path: str) -> Absorbed | Expanded:
    out = source.linear(f"{path}.o_proj", spec.heads * spec.value_dim, model.hidden_size, bias=spec.bias)
    inputs = _inputs(spec, model, source, path)
    if spec.absorbed:
        return Absorbed(spec, inputs, *_stacks(spec, source, path), out)
    width = spec.heads * (spec.plain_dim + spec.value_dim)
    return Expanded(spec, inputs, source.linear(f"{path}.kv_b_proj", spec.kv_rank, width), out)


def _inputs(spec: LatentSpec, model: DecoderSpec, source: WeightSource, path: str) -> Inputs:
    hidden, width = model.hidden_size, spec.heads * (spec.plain_dim + spec.rope_dim)
    norm = NormSpec(spec.norm_eps)
    latents = source.linear(
        f"{path}.kv_a_proj_with_mqa", hidden, spec.kv_rank + spec.rope_dim, bias=spec.bias
    )
    kv_norm = source.norm(f"{path}.kv_a_layernorm", spec.kv_rank, norm)
    if spec.query_rank is None:
        first = FIRST([source.linear(f"{path}.q_proj", hidden, width), latents])
        return Inputs(spec, first, None, None, kv_norm)
    first = FIRST([source.linear(f"{path}.q_a_proj", hidden, spec.query_rank, bias=spec.bias), latents])
    query_up = source.linear(f"{path}.q_b_proj", spec.query_rank, width)
    q_norm = source.norm(f"{path}.q_a_layernorm", spec.query_rank, norm)
    return Inputs(spec, first, query_up, q_norm, kv_norm)


def _stacks(spec: LatentSpec, source: WeightSource, path: str) -> tuple[Stack, Stack]:
    """Checkpoints that were not converted for MLX keep both in one matrix, head after head."""
    if f"{path}.kv_b_proj.weight" not in source:
        return (
            source.stack(f"{path}.embed_q", spec.heads, spec.plain_dim, spec.kv_rank),
            source.stack(f"{path}.unembed_out", spec.heads, spec.kv_rank, spec.value_dim),
        )
    width = spec.plain_dim + spec.value_dim
    whole = source.linear(f"{path}.kv_b_proj", spec.kv_rank, spec.heads * width)
    weight = whole.dense().reshape(spec.heads, width, spec.kv_rank)
    packing = getattr(whole, "packing", None)
    stacks: list[Stack] = []
    for name, part in (
        ("embed_q", weight[:, : spec.plain_dim].swapaxes(-1, -2)),
        ("unembed_out", weight[:, spec.plain_dim :]),
    ):
        part = mx.contiguous(part)
        if packing is None:
            stacks.append(PlainStack(part, path=f"{path}.{name}", bits=whole.bits))
            continue
        packed = mx.quantize(part, packing.group_size, packing.bits, mode=packing.mode)
        biases = packed[2] if packing.has_biases else None
        stacks.append(PackedStack(packed[0], packed[1], biases, packing, path=f"{path}.{name}"))
    return stacks[0], stacks[1]
