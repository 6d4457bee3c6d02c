"""For loops of one's own: logits of a chunk, and of a whole text."""

from __future__ import annotations

from typing import Any

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
    assert mx.array_equal(model.forward(tuple(IDS), model.new_state()), expected)


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
