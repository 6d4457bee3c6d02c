"""What an answer says it cost: every number counted right, at every way out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import mlxone
from mlxone.core.words import ChatRequest, Progress
from mlxone.service import answer as answer_module
from tests.engine.tiny import ids_in
from tests.service.rig import EOS, hold, ids_of, scripted


class Clock:
    """Stands still unless told to move."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(answer_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def timed(model: mlxone.Model, clock: Clock, *, prefill: float, step: float) -> None:
    """The model takes so long for its first draw and for each later one."""
    decoder: Any = model.decoder
    hidden = decoder.hidden

    def slow(*args: Any, **kwargs: Any) -> Any:
        clock.now += step if decoder.drawn else prefill
        return hidden(*args, **kwargs)

    decoder.hidden = slow


def test_the_prompts_time_ends_with_the_first_token(clock: Clock):
    """All passes after that are decoding's, with the one that nobody reads any more."""
    model = scripted("abcd")
    timed(model, clock, prefill=2.0, step=0.5)
    generation = mlxone.generate(model, [1] * 9, prefill_step=4)
    clock.now += 3600  # nobody has asked for anything yet
    list(generation)
    clock.now += 3600
    stats = generation.stats
    assert stats.generated_tokens == 5  # the end of sequence is one
    assert stats.prefill_ms == pytest.approx(1000 * 3 * 2.0)
    assert stats.decode_ms == pytest.approx(1000 * 5 * 0.5)
    assert stats.prefill_tps == pytest.approx(9 / 6.0)
    assert stats.decode_tps == pytest.approx(5 / 2.5)


def test_cached_tokens_do_not_make_prefill_look_fast(clock: Clock):
    model = scripted("ab")
    state = model.new_state()
    hold(model, [1] * 6, state)
    timed(model, clock, prefill=2.0, step=0.5)
    generation = mlxone.generate(model, [1] * 10, state=state)
    list(generation)
    stats = generation.stats
    assert (stats.prompt_tokens, stats.cached_tokens) == (10, 6)
    assert stats.prefill_tps == pytest.approx(4 / (stats.prefill_ms / 1000))


def test_the_readers_own_time_after_the_last_token_is_not_counted(clock: Clock):
    model = scripted("abcdef")
    timed(model, clock, prefill=1.0, step=1.0)
    generation = mlxone.generate(model, [1])
    next(generation)
    next(generation)
    clock.now += 3600
    assert generation.stats.decode_ms == pytest.approx(2000)


@pytest.mark.parametrize("leave_after", [1, 2, 5])
def test_after_leaving_early(leave_after: int):
    generation = mlxone.generate(scripted("abcdefgh"), [7, 8, 9])
    for t in generation:
        if t.index + 1 == leave_after:
            break
    stats = generation.stats
    assert stats.finish_reason == "cancelled"
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (3, 0, leave_after)
    assert list(stats.cache_tokens) == [7, 8, 9, *ids_of("abcdefgh")][: 2 + leave_after]
    assert ids_in(generation.state.layers[0]) == list(stats.cache_tokens)
    assert stats.decode_ms >= 0 and stats.prefill_ms > 0
    assert list(generation) == []  # asking ended it


def test_asked_before_anything_ran():
    stats = mlxone.generate(scripted("abc"), [7, 8, 9]).stats
    assert (stats.prompt_tokens, stats.generated_tokens, stats.cache_tokens) == (3, 0, ())
    assert (stats.prefill_ms, stats.decode_ms, stats.prefill_tps, stats.decode_tps) == (0, 0, 0, 0)
    assert stats.finish_reason == "cancelled"


def test_the_step_in_flight_is_taken_back_before_the_last_token_is_handed_out():
    """Its reader may take as long as it likes, and may use the states meanwhile."""
    generation = mlxone.generate(scripted("ab"), [7, 8], max_tokens=9)
    assert [next(generation).text for _ in range(3)] == ["a", "b", ""]
    assert generation._work.state.offset == 4  # without asking, which would end it


@pytest.mark.parametrize(("limit", "reason"), [(2, "length"), (3, "stop")])
def test_leaving_with_the_last_token_cancels_nothing(limit: int, reason: str):
    """It was the last, though nobody asked whether there is another one."""
    generation = mlxone.generate(scripted("ab"), [7, 8], max_tokens=limit)
    for _ in range(limit):
        next(generation)
    assert generation.stats.finish_reason == reason
    assert generation.stats.generated_tokens == limit


def test_broken_off_while_the_prompt_is_read(clock: Clock):
    model = scripted("ab")
    timed(model, clock, prefill=2.0, step=0.5)
    work = answer_module.Answer(model, ChatRequest(ids=(1, 2, 3, 4, 5), prefill_step=2), None)
    events = work.events()
    assert next(events) == Progress(2, 5)
    clock.now += 1
    events.close()
    stats = work.stats("cancelled")
    assert (stats.prefill_ms, stats.decode_ms, stats.generated_tokens) == (3000, 0, 0)
    assert stats.cache_tokens == (1, 2)


def test_the_same_however_often_asked():
    generation = mlxone.generate(scripted("abc"), [7])
    list(generation)
    assert generation.stats is generation.stats
    generation.close()
    assert generation.stats.finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "reason", "stop", "generated", "kept"),
    [
        ({}, "stop", None, 5, "abcd"),
        ({"max_tokens": 2}, "length", None, 2, "a"),
        ({"max_tokens": 1}, "length", None, 1, ""),
        ({"stop": ["c"]}, "stop", "c", 3, "ab"),
        ({"stop": ["x"], "max_tokens": 5}, "stop", None, 5, "abcd"),
    ],
)
def test_at_the_end(options: dict[str, Any], reason: str, stop: str | None, generated: int, kept: str):
    model = scripted("abcd")
    generation = mlxone.generate(model, [7, 8], **options)
    list(generation)
    stats = generation.stats
    assert (stats.finish_reason, stats.stop_string) == (reason, stop)
    assert (stats.prompt_tokens, stats.generated_tokens) == (2, generated)
    # The last token drawn was not read back in: the states end before it.
    assert list(stats.cache_tokens) == [7, 8, *ids_of(kept)]
    assert ids_in(generation.state.layers[0]) == list(stats.cache_tokens)
    assert EOS not in stats.cache_tokens


def test_real_numbers_are_plausible(model: mlxone.Model):
    generation = mlxone.generate(model, list(range(40)), max_tokens=12, eos_token_ids=(), prefill_step=16)
    assert len(list(generation)) == 12
    stats = generation.stats
    assert 0 < stats.prefill_ms < 60_000 and 0 < stats.decode_ms < 60_000
    assert stats.prefill_tps == pytest.approx(40 / stats.prefill_ms * 1000)
    assert stats.decode_tps == pytest.approx(12 / stats.decode_ms * 1000)
    assert stats.peak_memory_bytes > 10_000
    assert len(stats.cache_tokens) == 40 + 11
