"""The recurrences beside their definitions, token by token in float64; cut anywhere, they stay the same."""

from __future__ import annotations

import gc
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxone.backend.arrays import mx
from mlxone.models.parts import gated_delta, mamba2
from mlxone.models.parts.convolution import Convolution
from mlxone.models.parts.mamba2 import Tokens
from mlxone.models.spec import GatedDeltaSpec

BATCH, HEADS, GROUPS, DIM, SIZE = 2, 4, 2, 3, 5
Plain = np.ndarray[Any, np.dtype[np.float64]]
CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def random(seed: int, *shape: int) -> Plain:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).astype(np.float64)


def plain(array: mx.array) -> Plain:
    return np.array(cast("Any", array.astype(mx.float32).tolist()), np.float64)


def array(values: Plain) -> mx.array:
    return mx.array(values.astype(np.float32))


@pytest.mark.parametrize("kernel", [1, 2, 4])
@given(cuts=CUTS)
def test_a_convolution_sees_across_every_border(kernel: int, cuts: list[int]):
    channels, total = 3, sum(cuts)
    inputs, weight, bias = random(0, 1, total, channels), random(1, channels, kernel, 1), random(2, channels)
    padded = np.concatenate([np.zeros((1, kernel - 1, channels)), inputs], axis=1)
    expected = sum(padded[:, k : k + total] * weight[:, k, 0] for k in range(kernel)) + bias
    part, tail, start, outs = Convolution(array(weight), array(bias)), None, 0, []
    for count in cuts:
        out, tail = part(array(inputs[:, start : start + count]), tail)
        assert out.shape == (1, count, channels) and tail.shape == (1, kernel - 1, channels)
        outs.append(plain(out))
        start += count
    np.testing.assert_allclose(np.concatenate(outs, axis=1), expected, rtol=1e-5, atol=1e-5)


def mamba_tokens(count: int) -> tuple[Plain, Plain, Plain, Plain]:
    return (
        random(0, BATCH, count, HEADS, DIM),
        -np.abs(random(1, BATCH, count, HEADS)) / 3,
        random(2, BATCH, count, GROUPS, SIZE),
        random(3, BATCH, count, GROUPS, SIZE),
    )


def mamba_by_definition(tokens: tuple[Plain, Plain, Plain, Plain]) -> tuple[Plain, Plain]:
    taken, fading, into, out_of = tokens
    memory, outs = np.zeros((BATCH, HEADS, DIM, SIZE)), []
    own = np.arange(HEADS) // (HEADS // GROUPS)
    for place in range(taken.shape[1]):
        memory = memory * np.exp(fading[:, place])[..., None, None]
        memory = memory + taken[:, place, :, :, None] * into[:, place, own][:, :, None]
        outs.append((memory * out_of[:, place, own][:, :, None]).sum(-1))
    return np.stack(outs, axis=1), memory


@settings(max_examples=30)
@given(cuts=CUTS, chunk=st.sampled_from([1, 4, 256]))
def test_mamba_in_chunks_is_mamba_token_by_token(cuts: list[int], chunk: int):
    tokens = mamba_tokens(sum(cuts))
    expected, last = mamba_by_definition(tokens)
    memory, start, outs = None, 0, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mamba2, "CHUNK", chunk)
        for count in cuts:
            given_ = Tokens(*(array(a[:, start : start + count]) for a in tokens))
            out, memory = mamba2.recur(given_, memory, mx.float32)
            outs.append(plain(out))
            start += count
    assert memory is not None
    np.testing.assert_allclose(np.concatenate(outs, axis=1), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain(memory), last, rtol=1e-4, atol=1e-5)


def test_the_delta_rule_corrects_what_stands_under_a_key():
    """With a key of unit length, nothing fading and a full correction, the value stands there afterwards."""
    key = random(0, BATCH, HEADS, DIM)
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    value, memory, ones = (
        random(1, BATCH, HEADS, SIZE),
        random(2, BATCH, HEADS, SIZE, DIM),
        np.ones((BATCH, HEADS)),
    )
    out, after = gated_delta._step(
        array(key), array(key), array(value), array(ones), array(ones), array(memory)
    )
    np.testing.assert_allclose(plain(out), value, rtol=1e-4, atol=1e-5)
    left, correction, query = ones * 0.5, ones * 0.25, random(3, BATCH, HEADS, DIM)
    out, after = gated_delta._step(
        array(query), array(key), array(value), array(left), array(correction), array(memory)
    )
    faded = memory * 0.5
    missing = value - np.einsum("bhvk,bhk->bhv", faded, key)
    expected = faded + 0.25 * missing[..., None] * key[:, :, None]
    np.testing.assert_allclose(plain(after), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain(out), np.einsum("bhvk,bhk->bhv", expected, query), rtol=1e-4, atol=1e-5)


def test_the_states_of_a_long_text_are_not_in_memory_together():
    """What a token is told comes before the next one's state is made."""
    tokens, heads, dim = 200, 4, 32
    spec = GatedDeltaSpec(heads, heads, dim, dim, kernel=4, norm_eps=1e-6, fused=False)
    unused = cast("Any", None)
    part = gated_delta.GatedDelta(spec, unused, unused, (unused, unused), unused, unused)
    by_head = mx.random.normal((1, tokens, heads, dim))
    numbers = mx.random.uniform(0, 1, (1, tokens, heads))
    mx.eval(by_head, numbers)
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    out, memory = part._recur(by_head, by_head, by_head, numbers, numbers, None)
    mx.eval(out, memory)
    assert mx.get_peak_memory() - before < 50 * memory.nbytes
