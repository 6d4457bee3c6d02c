"""Answers that share what was read: only what is new is read, whoever asked before, however that ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import mlxone
from mlxone.core.words import ChatRequest, Event, Failed, Finished, Token
from mlxone.kv.prefixes import PrefixStore
from mlxone.service.answer import Answer
from mlxone.service.memory import Memory, Remembers, Shared
from tests.engine.tiny import ids_in
from tests.service.rig import decoder_of, ids_of, scripted

ROOMY = 10**9
A, B, C = ids_of("abc")
RING = 4
WINDOWS: dict[str, Any] = {"plain": (None, None), "sliding": (None, RING), "rings": (RING, RING)}
PROMPT = [10, 11, 12, 13, 14, 15, 16, 17]
OPTIONS: dict[str, Any] = {"max_tokens": 4}


def ask(
    model: mlxone.Model, memory: Remembers | None, ids: Sequence[int], **options: Any
) -> tuple[Answer, list[Event]]:
    work = Answer(model, ChatRequest(ids=tuple(ids), **(OPTIONS | options)), memory=memory)
    return work, list(work.events())


def passes(
    model: mlxone.Model, memory: Remembers | None, ids: Sequence[int], **options: Any
) -> tuple[int, list[int]]:
    """How many tokens were not read again, and the lengths of the passes over the others."""
    log = decoder_of(model).log
    log.clear()
    work, events = ask(model, memory, ids, **options)
    stats = finished(events).stats
    counts = [count for _, count in log]
    assert stats.cached_tokens == work.cached
    assert stats.cached_tokens + sum(counts) == len(ids) + stats.generated_tokens - 1
    return stats.cached_tokens, counts[: len(counts) - (stats.generated_tokens - 1)]


def finished(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


@pytest.fixture(params=WINDOWS)
def model(request: pytest.FixtureRequest) -> mlxone.Model:
    return scripted("abcdefgh", windows=WINDOWS[request.param])


def memory_for(store: PrefixStore, namespace: str = "m") -> Shared:
    return Shared(store, namespace)


# What is read -----------------------------------------------------------------------------


def test_the_second_turn_reads_what_is_new(model: mlxone.Model):
    store = PrefixStore(ROOMY)
    assert passes(model, memory_for(store), PROMPT) == (0, [7, 1])
    # Of an answer of four, three were read back in.
    turn = [*PROMPT, A, B, C, 30, 31, 32]
    assert passes(model, memory_for(store), turn) == (11, [2, 1])
    assert passes(model, memory_for(store), [*turn, A, B, C, 40]) == (len(turn) + 3, [1])


def test_all_answers_to_one_prompt_read_it_once(model: mlxone.Model):
    store = PrefixStore(ROOMY)
    first = Answer(model, ChatRequest(ids=tuple(PROMPT), **OPTIONS), memory=memory_for(store))
    events = first.events()
    while not (isinstance(event := next(events), Token) and event.index == 1):
        pass
    # The first is not at its end yet, and others share what it has read.
    assert passes(model, memory_for(store), PROMPT) == (7, [1])
    assert isinstance(list(events)[-1], Finished)
    assert passes(model, memory_for(store), PROMPT) == (7, [1])
    assert store.hits == 2 and store.misses == 1 and store.hit_tokens == 14


def test_up_to_the_first_token_that_differs():
    model, store = scripted("abcdefgh"), PrefixStore(ROOMY)
    passes(model, memory_for(store), PROMPT)
    for same in range(1, 8):
        other = [*PROMPT[:same], 50 + same, 60, 61]
        assert passes(model, memory_for(store), other) == (same, [2, 1])


@pytest.mark.parametrize("windows", ["sliding", "rings"])
def test_past_the_window_borders_say_where_others_may_part(windows: str):
    model, store = scripted("abcdefgh", windows=WINDOWS[windows]), PrefixStore(ROOMY)
    system, first, second = PROMPT, [20, 21, 22], [30, 31, 32, 33, 34]
    assert passes(model, memory_for(store), [*system, *first], borders=(8, 99, 0, -1)) == (0, [8, 2, 1])
    assert passes(model, memory_for(store), [*system, *second], borders=(8,)) == (8, [4, 1])
    # In the middle of what only one of them has, nobody parts.
    assert passes(model, memory_for(store), [*system, 30, 31, 99, 99]) == (8, [3, 1])
    assert passes(model, memory_for(store), [*system[:5], 9, 9]) == (0, [6, 1])


def test_borders_do_not_touch_a_model_whose_state_can_be_cut():
    model, store = scripted("abcdefgh"), PrefixStore(ROOMY)
    borders = tuple(range(20))
    assert passes(model, memory_for(store), PROMPT, borders=borders, prefill_step=3) == (0, [3, 3, 1, 1])
    assert passes(model, None, PROMPT, borders=borders, prefill_step=3) == (0, [3, 3, 1, 1])


@pytest.mark.parametrize(("windows", "kept"), [("plain", [8, 11]), ("sliding", [2, 7, 11])])
def test_what_is_kept_and_when(monkeypatch: pytest.MonkeyPatch, windows: str, kept: list[int]):
    """At borders where need be, and where prompt and answer end; not after each chunk, nor step."""
    store, places = PrefixStore(ROOMY), list[int]()
    put = store.put

    def noted(namespace: str, tokens: Sequence[int], state: Any) -> bool:
        places.append(len(tokens))
        return put(namespace, tokens, state)

    monkeypatch.setattr(store, "put", noted)
    passes(
        scripted("abcdefgh", windows=WINDOWS[windows]),
        memory_for(store),
        PROMPT,
        borders=(2,),
        prefill_step=3,
    )
    assert places == kept


@pytest.mark.parametrize("windows", WINDOWS)
def test_without_a_store_borders_cost_nothing(windows: str):
    model = scripted("abcdefgh", windows=WINDOWS[windows])
    assert passes(model, None, PROMPT, borders=(2, 3, 5)) == (0, [7, 1])


def test_a_prompt_of_one_token(model: mlxone.Model):
    store = PrefixStore(ROOMY)
    assert passes(model, memory_for(store), [5]) == (0, [1])
    assert passes(model, memory_for(store), [5]) == (0, [1])  # it is the one that is always read
    cached, _ = passes(model, memory_for(store), [5, A, B, C, 9])
    assert cached == 4


def test_namespaces_share_nothing(model: mlxone.Model):
    store = PrefixStore(ROOMY)
    passes(model, memory_for(store, "m"), PROMPT)
    assert passes(model, memory_for(store, "m with an adapter"), PROMPT) == (0, [7, 1])
    assert passes(model, memory_for(store, "m"), PROMPT) == (7, [1])


# How it ended -----------------------------------------------------------------------------


@pytest.mark.parametrize("leave_after", range(5))
def test_what_a_cancelled_answer_has_read_is_kept(model: mlxone.Model, leave_after: int):
    store = PrefixStore(ROOMY)
    request = ChatRequest(ids=tuple(PROMPT), prefill_step=3, **OPTIONS)
    work = Answer(model, request, memory=memory_for(store))
    events = work.events()
    for _ in range(leave_after + 1):
        next(events)
    events.close()
    fed = list(work.row.fed)
    assert fed[:3] == PROMPT[:3] and len(fed) >= min(3 * (leave_after + 1), 7)
    again = Answer(model, ChatRequest(ids=(*fed, 99)), memory=memory_for(store))
    assert again.cached == len(fed)
    for layer in again.state.layers:
        assert ids_in(layer) == fed[-(getattr(layer, "window", 0) - 1) if hasattr(layer, "window") else 0 :]


def checkpoints(model: mlxone.Model) -> bool:
    return not model.new_state().cuttable


@pytest.mark.parametrize("broken_pass", [0, 1, 2])
def test_a_broken_step_leaves_nothing_behind(
    model: mlxone.Model, monkeypatch: pytest.MonkeyPatch, broken_pass: int
):
    """Only what was whole before it."""
    store, log = PrefixStore(ROOMY), decoder_of(model).log

    def broken(layer: int) -> None:
        if len(log) > broken_pass and layer == 1:
            raise RuntimeError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(decoder_of(model), "before_layer", broken)
        _, events = ask(model, memory_for(store), PROMPT)
    assert isinstance(events[-1], Failed)
    # A prompt that can be cut later is kept when its first token is out.
    kept = broken_pass >= (1 if checkpoints(model) else 2)
    assert (store.entries, store.bytes > 0) == ((1, True) if kept else (0, False))
    assert passes(model, memory_for(store), PROMPT)[0] == (7 if kept else 0)


def test_a_conversation_begins_anew_after_a_failure(model: mlxone.Model, monkeypatch: pytest.MonkeyPatch):
    memory = Memory()
    assert passes(model, memory, PROMPT)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(decoder_of(model), "logits", lambda hidden: 1 / 0)
        _, events = ask(model, memory, [*PROMPT, A, B, C, 30])
        assert isinstance(events[-1], Failed)
    assert passes(model, memory, [*PROMPT, A, B, C, 30])[0] == 0


def test_an_answer_whose_state_another_took_keeps_nothing_of_the_others(model: mlxone.Model):
    store, work = PrefixStore(ROOMY), None
    work = Answer(model, ChatRequest(ids=tuple(PROMPT), **OPTIONS), memory=memory_for(store))
    events = work.events()
    next(events), next(events)
    work.state.hold()
    before = store.figures()
    events.close()
    assert store.figures() == before


def test_a_store_too_small_for_a_prompt_is_left_alone(model: mlxone.Model):
    small = PrefixStore(ROOMY)
    passes(model, memory_for(small), [1, 2, 3])
    store = PrefixStore(small.bytes)
    passes(model, memory_for(store), [1, 2, 3])
    kept = store.bytes
    assert passes(model, memory_for(store), list(range(50, 250)))[0] == 0
    if decoder_of(model).windows != (RING, RING):  # whatever they hold is a window's worth
        assert store.bytes == kept
        assert passes(model, memory_for(store), [1, 2, 3])[0] == 2


def test_what_is_asked_for_needs_no_store_that_remembers_it(model: mlxone.Model):
    """Evicted between two turns, or while an answer runs: it costs time, nothing else."""
    store = PrefixStore(ROOMY)
    passes(model, memory_for(store), PROMPT)
    work = Answer(model, ChatRequest(ids=(*PROMPT, 30, 31), **OPTIONS), memory=memory_for(store))
    store.give_way(ROOMY)
    assert finished(list(work.events())).stats.cached_tokens == 8 - (
        decoder_of(model).windows != (None, None)
    )
    assert passes(model, memory_for(store), [*PROMPT, 30, 31, 99])[0] >= 9


# Real arithmetic --------------------------------------------------------------------------

TEXT = [(5 * i * i + i + 2) % 300 for i in range(60)]


def tokens_and_logprobs(events: Sequence[Event]) -> list[Any]:
    assert isinstance(events[-1], Finished)
    return [(e.token, e.logprob, e.top_logprobs) for e in events if isinstance(e, Token)]


@pytest.mark.parametrize("which", ["real", "sliding"])
def test_a_shared_prompt_gives_the_same_numbers(request: pytest.FixtureRequest, which: str):
    """Bit for bit: the second reads what is left in the chunks the first read it in."""
    model: mlxone.Model = request.getfixturevalue("real_model" if which == "real" else which)
    store = PrefixStore(ROOMY)
    options = {"eos_token_ids": (), "max_tokens": 12, "logprobs": 3, "prefill_step": 16}
    _, cold = ask(model, None, TEXT, **options)
    for cached in (0, 59, 59):
        work, warm = ask(model, memory_for(store), TEXT, **options)
        assert work.cached == cached
        assert tokens_and_logprobs(warm) == tokens_and_logprobs(cold)


@pytest.fixture
def real_model(folder: Any) -> mlxone.Model:
    return mlxone.load(folder)


@pytest.mark.parametrize("kind", ["conversation", "shared"])
def test_turn_by_turn_as_if_read_anew(sliding: mlxone.Model, kind: str):
    memory: Remembers = Memory() if kind == "conversation" else memory_for(PrefixStore(ROOMY))
    prompt = list(TEXT)
    for turn in range(3):
        options = {"eos_token_ids": (), "max_tokens": 6, "logprobs": 3, "borders": (20, len(prompt))}
        work, warm = ask(sliding, memory, prompt, **options)
        _, cold = ask(sliding, None, prompt, **options)
        assert work.cached == (len(prompt) - 4 if turn else 0)
        ours, theirs = tokens_and_logprobs(warm), tokens_and_logprobs(cold)
        assert [t for t, _, _ in ours] == [t for t, _, _ in theirs]
        assert all(abs(a[1] - b[1]) < 1e-4 for a, b in zip(ours, theirs, strict=True))
        prompt += [t for t, _, _ in ours] + [4, 5, 6]
