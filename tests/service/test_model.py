"""For loops of one's own: logits of a chunk, and of a whole text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as mlx_lm_load

import mlxone
from mlxone.backend.arrays import mx
from mlxone.core.errors import UsageError
from tests.engine.tiny import VOCAB, integers

IDS = [(5 * i * i + i + 2) % VOCAB for i in range(21)]


@pytest.fixture(params=["model", "sliding"])
def any_model(request: pytest.FixtureRequest) -> mlxone.Model:
    found: mlxone.Model = request.getfixturevalue(request.param)
    return found


def close(a: mx.array, b: mx.array) -> bool:
    return a.shape == b.shape and bool(mx.allclose(a, b, rtol=1e-4, atol=1e-4))


def test_forward_equals_mlx_lm_chunk_by_chunk(any_model: mlxone.Model):
    theirs, _ = mlx_lm_load(any_model.path)
    cache, state = make_prompt_cache(theirs), any_model.new_state()
    for chunk in (IDS[:9], IDS[9:16], *([i] for i in IDS[16:])):
        expected = theirs(mx.array([chunk]), cache=cache)[0]
        logits = any_model.forward(chunk, state)
        assert logits.shape == (len(chunk), VOCAB)
        assert mx.array_equal(logits, expected)
    assert state.offset == len(IDS)


@pytest.mark.parametrize("step", [1, 4, 20, 21, 2048])
def test_a_whole_text_in_chunks(any_model: mlxone.Model, step: int):
    whole = any_model.forward(IDS, any_model.new_state())
    logits = any_model.logits(IDS, prefill_step=step)
    assert logits.shape == (len(IDS), VOCAB)
    assert close(logits, whole)
    state = any_model.new_state()
    parts = [any_model.forward(IDS[at : at + step], state) for at in range(0, len(IDS), step)]
    assert mx.array_equal(logits, mx.concatenate(parts))


def test_an_array_of_ids_is_the_same(model: mlxone.Model):
    expected = model.logits(IDS)
    assert mx.array_equal(model.logits(mx.array(IDS)), expected)
    assert mx.array_equal(model.forward(mx.array(IDS), model.new_state()), expected)
    others: list[Any] = [tuple(IDS), [np.int64(id) for id in IDS]]
    for ids in others:
        assert mx.array_equal(model.forward(ids, model.new_state()), expected)


def test_a_batch(any_model: mlxone.Model):
    rows = [IDS[:6], IDS[6:12], IDS[12:18]]
    state = any_model.new_state()
    first = any_model.forward(mx.array(rows), state)
    then = any_model.forward(mx.array([[row[0]] for row in rows]), state)
    assert (first.shape, then.shape) == ((3, 6, VOCAB), (3, 1, VOCAB))
    for at, row in enumerate(rows):
        alone = any_model.logits([*row, row[0]])
        assert close(first[at], alone[:6])
        assert close(then[at], alone[6:])


def test_a_whole_batch_in_chunks(any_model: mlxone.Model):
    rows = [IDS[:10], IDS[10:20]]
    logits = any_model.logits(mx.array(rows), prefill_step=4)
    assert logits.shape == (2, 10, VOCAB)
    for at, row in enumerate(rows):
        assert close(logits[at], any_model.logits(row, prefill_step=4))


@pytest.mark.parametrize("dtype", [mx.uint8, mx.int8, mx.int16, mx.uint32, mx.int64, mx.uint64])
def test_an_array_of_any_whole_numbers(model: mlxone.Model, dtype: mx.Dtype):
    ids = [1, 100, 127, 0]
    assert mx.array_equal(model.logits(mx.array(ids, dtype)), model.logits(ids))


def test_an_array_is_kept_in_range(model: mlxone.Model):
    """It is not looked at, which would wait for it; and what lies past the vocabulary is not read."""
    wild = mx.array([3, VOCAB, 10**9, -1])
    assert mx.array_equal(model.logits(wild), model.logits([3, VOCAB - 1, VOCAB - 1, 0]))


@pytest.mark.parametrize(
    "array", [mx.array(3), mx.array([1.0]), mx.array([True]), mx.zeros((1, 1, 1), mx.int32)]
)
def test_arrays_that_are_no_ids(model: mlxone.Model, array: mx.array):
    with pytest.raises(UsageError, match="ids are whole numbers"):
        model.forward(array, model.new_state())
    with pytest.raises(UsageError, match="ids are whole numbers"):
        model.logits(array)


@pytest.mark.parametrize("odd", [None, 5])
def test_things_that_are_no_ids(model: mlxone.Model, odd: Any):
    with pytest.raises(UsageError, match="ids must be a list"):
        model.forward(odd, model.new_state())


def test_a_loop_of_ones_own(model: mlxone.Model):
    """As README has it: greedy by hand, token after token."""
    state = model.new_state()
    logits = model.forward(IDS, state)
    drawn = []
    for _ in range(6):
        drawn.append(integers(mx.argmax(logits[-1], keepdims=True))[0])
        logits = model.forward(drawn[-1:], state)
    generation = mlxone.generate(model, IDS, max_tokens=6, eos_token_ids=())
    assert drawn == [t.token for t in generation]


@pytest.mark.parametrize("ids", [[-1], [VOCAB], [3, 10**9], [1.5], ["1"], [True], [None]])
def test_ids_that_are_none(model: mlxone.Model, ids: Any):
    state = model.new_state()
    with pytest.raises(UsageError, match="token id"):
        model.forward(ids, state)
    with pytest.raises(UsageError, match="token id"):
        model.logits(ids)
    assert state.offset == 0


@pytest.mark.parametrize("ids", [[], (), mx.array([], mx.uint32)])
def test_no_ids(model: mlxone.Model, ids: Any):
    with pytest.raises(UsageError, match="the text is empty"):
        model.forward(ids, model.new_state())
    with pytest.raises(UsageError, match="the text is empty"):
        model.logits(ids)


@pytest.mark.parametrize("step", [0, -3, 1.5, True, "4"])
def test_steps_that_are_none(model: mlxone.Model, step: Any):
    with pytest.raises(UsageError, match="prefill_step must be"):
        model.logits(IDS, prefill_step=step)


def test_what_it_says_of_itself(model: mlxone.Model):
    assert (model.context_length, model.vocab_size, model.name) == (512, VOCAB, "tiny")
