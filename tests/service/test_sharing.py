"""One state, several users: the last one has it, the ones before are told so and leave no trace."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import mlxone
from mlxone.backend.arrays import mx
from mlxone.core.errors import UsageError
from mlxone.core.words import ChatRequest
from mlxone.kv.state import ModelState
from mlxone.service.answer import Answer, answer
from mlxone.service.memory import Memory
from tests.engine.tiny import ids_in
from tests.service.rig import cold_logits, decoder_of, hold, ids_of, scripted

PROMPT = [(5 * i * i + i + 2) % 300 for i in range(14)]
OPTIONS: dict[str, Any] = {"max_tokens": 6, "eos_token_ids": ()}


def tokens(model: mlxone.Model, ids: list[int], **options: Any) -> list[int]:
    return [t.token for t in mlxone.generate(model, ids, **(OPTIONS | options))]


def by_another_answer(model: mlxone.Model, state: ModelState, ids: list[int]) -> None:
    assert tokens(model, ids, state=state) == tokens(model, ids)


def by_a_loop_of_ones_own(model: mlxone.Model, state: ModelState, ids: list[int]) -> None:
    new = ids[state.offset :]
    assert mx.allclose(model.forward(new, state)[-1], cold_logits(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("take", [by_another_answer, by_a_loop_of_ones_own])
@pytest.mark.parametrize("read", [0, 1, 3])
@pytest.mark.parametrize("which", ["model", "sliding"])
def test_who_takes_a_state_over_has_it_to_himself(
    request: pytest.FixtureRequest, which: str, read: int, take: Callable[..., None]
):
    model: mlxone.Model = request.getfixturevalue(which)
    state = model.new_state()
    first = mlxone.generate(model, PROMPT, state=state, **OPTIONS)
    drawn = [next(first).token for _ in range(read)]
    if take is by_a_loop_of_ones_own:
        state.hold()  # as forward does; only now it is known what is left to read
    take(model, state, [*PROMPT, *drawn, 5, 6])
    with pytest.raises(UsageError, match="taken over by another use") as caught:
        next(first)
    assert "state.fork()" in caught.value.hint
    assert list(first) == []  # once
    before = state.offset
    assert first.stats.finish_reason == "error"
    first.close()
    assert state.offset == before  # an end without a hand in what is no longer its own


def test_forks_go_on_side_by_side(model: mlxone.Model):
    state = model.new_state()
    first = mlxone.generate(model, PROMPT, state=state, **OPTIONS)
    drawn = [next(first).token, next(first).token]
    other = [*PROMPT, 9]
    assert tokens(model, other, state=state.fork()) == tokens(model, other)
    assert drawn + [t.token for t in first] == tokens(model, PROMPT)


def test_a_state_that_its_owner_trimmed_is_used_as_it_is():
    model = scripted("abcdef")
    state = model.new_state()
    assert len(tokens(model, [1, 2, 3, 4], state=state)) == 6
    assert state.trim(6)
    second = mlxone.generate(model, [1, 2, 3, 8, 9], state=state, max_tokens=1)
    list(second)
    assert second.stats.cached_tokens == 3
    assert ids_in(state.layers[0]) == [1, 2, 3, 8, 9]


def test_after_a_refusal_the_state_is_as_good_as_before():
    model = scripted("abc", windows=(None, 4))
    state = model.new_state()
    hold(model, [1, 2, 3, 4, 5, 6], state)
    with pytest.raises(UsageError, match="cannot go back"):
        mlxone.generate(model, [1, 2, 3], state=state)
    third = mlxone.generate(model, [1, 2, 3, 4, 5, 6, 7], state=state, max_tokens=2)
    assert len(list(third)) == 2
    assert third.stats.cached_tokens == 6


@pytest.mark.parametrize("odd", [5, [], "state", "another model's"])
def test_a_state_of_something_else(model: mlxone.Model, odd: Any):
    state = scripted("x", windows=(None,)).new_state() if odd == "another model's" else odd
    with pytest.raises(UsageError, match="does not belong to this model"):
        mlxone.generate(model, [1, 2], state=state)


# A conversation's memory -------------------------------------------------------------------


def turn(model: mlxone.Model, memory: Memory, ids: list[int], leave_after: int | None = None) -> int:
    """Plays one answer; returns how many tokens its passes have read."""
    decoder_of(model).log.clear()
    events = answer(model, ChatRequest(ids=tuple(ids), max_tokens=4), memory)
    for count, _ in enumerate(events):
        if count == leave_after:
            break
    events.close()
    return sum(length for _, length in decoder_of(model).log)


A, B, C, D = ids_of("abcd")
SAID = [A, B, C]  # what the states hold of an answer of four: the last token was not read back


@pytest.mark.parametrize(
    ("second", "read"),
    [
        ([1, 2, 3, A, B, C, 7, 8], 2 + 3),  # it goes on: only what is new
        ([1, 2, 3, A, B, C, D, 7], 2 + 3),
        ([1, 2, 3, A, 7], 1 + 3),  # said otherwise from there on
        ([1, 2, 3], 1 + 3),  # again
        ([1, 2, 9, 9], 2 + 3),
        ([1], 1 + 3),
        ([9, 9, 9, 9], 4 + 3),  # of something else
    ],
)
def test_only_what_is_new_is_read(second: list[int], read: int):
    model, memory = scripted("abcdefgh"), Memory()
    assert turn(model, memory, [1, 2, 3]) == 3 + 3
    assert turn(model, memory, second) == read
    work = Answer(model, ChatRequest(ids=(*second, 5)), memory=memory)
    assert work.cached >= len(second)
    assert ids_in(work.state.layers[0])[: len(second)] == second


@pytest.mark.parametrize("leave_after", [0, 1, 2])
def test_an_answer_that_is_left_is_remembered_as_far_as_it_went(leave_after: int):
    model, memory = scripted("abcdefgh"), Memory()
    turn(model, memory, [1, 2, 3], leave_after)
    work = Answer(model, ChatRequest(ids=(1, 2, 3, A, B, C, D, 7)), memory=memory)
    assert work.cached == [2, 3, 4][leave_after]
    assert ids_in(work.state.layers[0]) == [1, 2, 3, A][: work.cached]


def test_what_cannot_go_back_is_read_anew():
    model, memory = scripted("abcdefgh", windows=(None, 4)), Memory()
    turn(model, memory, [1, 2, 3])
    assert turn(model, memory, [1, 2, 3, *SAID, 7]) == 1 + 3  # on from where it is
    assert turn(model, memory, [1, 2, 7]) == 3 + 3  # the window has passed it


def test_after_a_failure_the_next_turn_is_right(monkeypatch: pytest.MonkeyPatch):
    model, memory = scripted("abcdefgh"), Memory()
    turn(model, memory, [1, 2, 3])

    def broken(layer: int) -> None:
        if layer == 1:
            raise RuntimeError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(decoder_of(model), "before_layer", broken)
        turn(model, memory, [1, 2, 3, A, 7])
    work = Answer(model, ChatRequest(ids=(1, 2, 3, A, 7, 8)), memory=memory)
    list(work.events())
    assert all(ids_in(layer)[:6] == [1, 2, 3, A, 7, 8] for layer in work.state.layers)


def test_a_remembered_turn_equals_a_cold_one(model: mlxone.Model):
    memory, prompt = Memory(), list(PROMPT)
    for _ in range(3):
        request = ChatRequest(ids=tuple(prompt), max_tokens=5, eos_token_ids=(), logprobs=3)
        warm, cold = (
            [e for e in answer(model, request, m) if isinstance(e, mlxone.Token)] for m in (memory, None)
        )
        assert [t.token for t in warm] == [t.token for t in cold]
        assert all(abs(a.logprob - b.logprob) < 1e-4 for a, b in zip(warm, cold, strict=True))
        prompt += [t.token for t in warm] + [4, 5, 6]


@pytest.mark.parametrize("read", [0, 1, 3, 99])
def test_an_answer_that_ended_keeps_no_memory(model: mlxone.Model, read: int):
    gc.collect()
    gc.disable()  # a circle of references would only be found by chance
    try:
        generation = mlxone.generate(model, PROMPT, **OPTIONS)
        kept = weakref.ref(generation._work.row)
        for _, _ in zip(range(read), generation, strict=False):
            pass
        generation.close()
        del generation
        assert kept() is None
    finally:
        gc.enable()
