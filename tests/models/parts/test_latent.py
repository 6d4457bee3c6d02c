"""Latent attention's roads to the same numbers: one token, several, and states that attend by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mlxone.backend.arrays import mx, on_stream
from mlxone.kv.buffer import attention, causal_mask
from mlxone.kv.plain import PlainState
from mlxone.kv.state import Rope
from mlxone.models.layers import Norm, PlainLinear, join
from mlxone.models.parts.latent import Absorbed, Expanded, Inputs, by_head, from_heads
from mlxone.models.spec import LatentSpec, RopeSpec
from mlxone.models.stacked import PlainStack

HEADS, RANK, PLAIN, ROPE, VALUE, HIDDEN = 3, 12, 8, 4, 6, 20
SPEC = LatentSpec(
    HEADS, 10, RANK, PLAIN, ROPE, VALUE, scale=0.3, rope=RopeSpec(ROPE, 10000.0, traditional=True),
    bias=False, norm_eps=1e-6, absorbed=True,
)  # fmt: skip


def linear(in_dims: int, out_dims: int, name: str) -> PlainLinear:
    return PlainLinear(mx.random.normal((out_dims, in_dims)) * in_dims**-0.5, path=f"self_attn.{name}")


def parts(spec: LatentSpec = SPEC) -> tuple[Absorbed, Expanded]:
    """Both over the same weights."""
    mx.random.seed(5)
    latents, width = linear(HIDDEN, RANK + ROPE, "kv_a_proj_with_mqa"), HEADS * (PLAIN + ROPE)
    norm = Norm(1 + 0.1 * mx.random.normal((RANK,)), 1e-6, path="self_attn.kv_a_layernorm")
    if spec.query_rank is None:
        inputs = Inputs(spec, join([linear(HIDDEN, width, "q_proj"), latents]), None, None, norm)
    else:
        first = join([linear(HIDDEN, spec.query_rank, "q_a_proj"), latents])
        q_norm = Norm(mx.ones((spec.query_rank,)), 1e-6, path="self_attn.q_a_layernorm")
        inputs = Inputs(spec, first, linear(spec.query_rank, width, "q_b_proj"), q_norm, norm)
    out = linear(HEADS * VALUE, HIDDEN, "o_proj")
    both = linear(RANK, HEADS * (PLAIN + VALUE), "kv_b_proj")
    weight = both.dense().reshape(HEADS, PLAIN + VALUE, RANK)
    keys, values = PlainStack(weight[:, :PLAIN].swapaxes(-1, -2)), PlainStack(weight[:, PLAIN:])
    return Absorbed(spec, inputs, keys, values, out), Expanded(spec, inputs, both, out)


def _causal(queries: mx.array, held: Any, *, scale: float, mask: Any) -> mx.array:
    return attention(queries, held, scale=scale, mask="causal")


class ByItself(PlainState):
    """As training's rows: gives no mask, and knows what each token sees."""

    def mask(self, length: int) -> Any:
        return None

    attend = staticmethod(_causal)  # type: ignore[assignment]


class TwoLater(PlainState):
    """The first two tokens are padding."""

    def rotate(self, rope: Rope, x: mx.array) -> mx.array:
        return rope(x, self.offset - 2)


def through(part: Absorbed | Expanded, state: PlainState, x: mx.array, chunks: Sequence[int]) -> mx.array:
    """`x` in pieces, the states giving arrays where a decoder would ask for them."""
    outs, start = [], 0
    with on_stream():
        for size in chunks:
            mask = state.mask(size)
            if isinstance(part, Absorbed) and mask == "causal":
                mask = causal_mask(size, state.offset)
            outs.append(part(x[:, start : start + size], state, mask))
            start += size
        return mx.concatenate(outs, axis=1)


def hidden(length: int, rows: int = 1) -> mx.array:
    mx.random.seed(9)
    return mx.random.normal((rows, length, HIDDEN))


def close(a: mx.array, b: mx.array) -> bool:
    return bool(mx.allclose(a, b, rtol=1e-5, atol=1e-5))


@pytest.mark.parametrize("rank", [10, None])
@pytest.mark.parametrize("chunks", [(9,), (1,) * 9, (4, 1, 4), (1, 7, 1)])
@pytest.mark.parametrize("rows", [1, 3])
def test_every_road_leads_to_the_same(rows: int, chunks: tuple[int, ...], rank: int | None):
    absorbed, expanded = parts(replace(SPEC, query_rank=rank))
    x = hidden(9, rows)
    expected = through(expanded, PlainState(), x, (9,))
    assert close(through(expanded, PlainState(), x, chunks), expected)
    assert close(through(absorbed, PlainState(), x, chunks), expected)


@pytest.mark.parametrize("length", [1, 9])
def test_a_state_that_attends_by_itself(length: int):
    absorbed, expanded = parts()
    x = hidden(length, 2)
    assert close(through(absorbed, ByItself(), x, (length,)), through(expanded, PlainState(), x, (length,)))


def test_a_mask_hides_what_it_hides():
    """Padding on the left, as rows of different lengths have it."""
    absorbed, _ = parts()
    x = hidden(7)
    alone = through(absorbed, PlainState(), x[:, 2:], (5,))
    state: Any = TwoLater()
    mask = causal_mask(6, 0) & (mx.arange(6) >= 2)
    with on_stream():
        absorbed(x[:, :6], state, mask)
        assert close(absorbed(x[:, 6:], state, mx.arange(7) >= 2), alone[:, -1:])


def test_what_is_kept_of_a_token():
    absorbed, expanded = parts()
    for part, kept in ((absorbed, RANK + ROPE), (expanded, HEADS * (PLAIN + ROPE + VALUE))):
        state = PlainState()
        through(part, state, hidden(5), (5,))
        assert sum(a.shape[1] * a.shape[3] for a in state.arrays()) == kept
    assert through(absorbed, state := PlainState(), hidden(5), (5,)).shape == (1, 5, HIDDEN)
    assert state.keys is not None and state.keys.shape[1] == 1


def test_trimming_and_forking_it():
    absorbed, _ = parts()
    x = hidden(8)
    expected = through(absorbed, PlainState(), x, (5, 3))[:, 5:]
    state = PlainState()
    through(absorbed, state, mx.concatenate([x[:, :5], hidden(2)], axis=1), (5, 2))
    state.trim(2)
    twin = state.fork()
    for one in (state, twin):
        assert mx.array_equal(through(absorbed, one, x[:, 5:], (3,)), expected)


def test_heads_there_and_back():
    x = hidden(4, 2)
    assert by_head(x, 5).shape == (2, 5, 4, 4)
    assert mx.array_equal(from_heads(by_head(x, 5)), x)
    assert mx.array_equal(by_head(x[:, :1], 5), by_head(x, 5)[:, :, :1])
    assert mx.array_equal(from_heads(by_head(x[:, :1], 5)), x[:, :1])


def test_every_weight_is_among_its_arrays():
    for part in parts():
        shapes = {a.shape for a in part.arrays()}
        assert (RANK,) in shapes and (10,) in shapes, "norms"
        assert (HEADS * VALUE, HIDDEN) in shapes
