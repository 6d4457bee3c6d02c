"""Events: the text that may be shown, why it ended, and one terminal event whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxone
from mlxone.core.errors import MlxoneError, OutOfMemory, UsageError
from mlxone.core.words import ChatRequest, Event, Failed, Finished, Progress, Sampling, Token
from mlxone.engine.row import Pending
from mlxone.service.answer import Answer, answer
from mlxone.service.model import Model
from tests.service.rig import EOS, TOKENIZER, decoder_of, ids_of, scripted

HALVES = [TOKENIZER._library.token_to_id(piece) for piece in ("Ã", "©", "æĹ", "ðŁ")]
# Letters and longer tokens, a special token, halves of characters, one id without a text, the end.
PIECES = [
    *ids_of("abé 日本"),
    *(TOKENIZER.encode(t)[0] for t in ("he", "llo", " t", "<tool>", "<s>")),
    *HALVES,
    310,
    EOS,
]
STOPS = [
    "a",
    "b",
    "ab",
    "ba",
    "aab",
    "hello",
    "lloa",
    " the",
    "é",
    "日本",
    "本a",
    "b\ufffd",
    "<tool>",
    "\ufffd",
]


def events(model: Model, **request: Any) -> list[Event]:
    given: dict[str, Any] = {"ids": (1, 2), "max_tokens": 50} | request
    return list(answer(model, ChatRequest(**given)))


def said(all_events: Sequence[Event]) -> str:
    return "".join(e.text for e in all_events if isinstance(e, Token))


def finished(all_events: Sequence[Event]) -> Finished:
    assert isinstance(all_events[-1], Finished)
    return all_events[-1]


# Text and stops ----------------------------------------------------------------------------


def expected_answer(
    script: Sequence[int], stops: Sequence[str], max_tokens: int
) -> tuple[str, str, str | None]:
    """Text, reason and stop string, reckoned from the whole answer at once."""
    ids = list(script[:max_tokens])
    ended = EOS in ids
    full = TOKENIZER.decode(ids[: ids.index(EOS)] if ended else ids)
    hits = sorted((full.index(stop), len(stop), stop) for stop in stops if stop in full)
    if hits:
        return full[: hits[0][0]], "stop", hits[0][2]
    return full, "stop" if ended else "length", None


@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=14),
    st.lists(st.sampled_from(STOPS), max_size=3),
    st.integers(1, 14),
)
def test_fuzz_text_reason_and_stop_string_of_any_answer(script: list[int], stops: list[str], limit: int):
    script += [EOS] * 14
    happened = events(scripted(script), stop=tuple(stops), max_tokens=limit)
    text, reason, stop = expected_answer(script, stops, limit)
    stats = finished(happened).stats
    assert (said(happened), stats.finish_reason, stats.stop_string) == (text, reason, stop)
    tokens = [e for e in happened if isinstance(e, Token)]
    assert [t.token for t in tokens] == script[: len(tokens)]
    assert [t.index for t in tokens] == list(range(len(tokens)))
    assert stats.generated_tokens == len(tokens) <= limit


@pytest.mark.parametrize(
    ("answer_text", "stop", "texts"),
    [
        ("abc", (), ["a", "b", "c", ""]),
        ("aXYb", ("XY",), ["a", "", ""]),  # nothing of it is shown, and nothing comes after
        ("aXb", ("XY",), ["a", "", "Xb", ""]),  # held back until it was not the stop string
        ("aX", ("XY",), ["a", "", "X"]),  # the end itself brings what was held back
        ("é!", (), ["", "é", "!", ""]),
    ],
)
def test_text_may_lag_but_never_leaks(answer_text: str, stop: tuple[str, ...], texts: list[str]):
    script = [*(TOKENIZER.encode(c)[0] for c in answer_text if c != "é"), EOS]
    if "é" in answer_text:
        script = [*HALVES[:2], *script]
    tokens = [e for e in events(scripted(script), stop=stop) if isinstance(e, Token)]
    assert [t.text for t in tokens] == texts


def test_the_last_token_of_a_cut_answer_brings_what_was_held_back():
    happened = events(scripted("hello"), stop=("hello!",), max_tokens=1)
    assert said(happened) == TOKENIZER.decode(ids_of("hello")[:1]) != ""
    assert said(events(scripted(HALVES), max_tokens=1)) == "\ufffd"


@pytest.mark.parametrize("end", [[], [EOS]])
def test_what_was_held_back_may_itself_be_a_stop_string(end: list[int]):
    """Half a character becomes its replacement sign only when nothing follows."""
    happened = events(scripted([*ids_of("ab"), HALVES[0], *end]), stop=("b\ufffd",), max_tokens=3 + len(end))
    assert said(happened) == "a"
    stats = finished(happened).stats
    assert (stats.finish_reason, stats.stop_string) == ("stop", "b\ufffd")


@pytest.mark.parametrize("stop", [("",), (5,), (None,), ("a", "")])
def test_stop_strings_that_are_none(stop: Any):
    with pytest.raises(UsageError, match="stop string"):
        events(scripted("x"), stop=stop)


# Where an answer ends ----------------------------------------------------------------------


def test_any_of_several_eos_ids_ends_it():
    model = scripted([20, 21, 22, 23])
    model.eos_token_ids = frozenset({22, 99})
    happened = events(model)
    assert [e.token for e in happened if isinstance(e, Token)] == [20, 21, 22]
    assert finished(happened).stats.finish_reason == "stop"


@pytest.mark.parametrize(("ids", "count"), [((21,), 2), ((), 6), ((0,), 6)])
def test_a_request_may_name_its_own_eos_ids(ids: tuple[int, ...], count: int):
    model = scripted([20, 21, EOS])
    happened = events(model, eos_token_ids=ids, max_tokens=6)
    assert len([e for e in happened if isinstance(e, Token)]) == count


def test_eos_at_the_limit_is_a_stop():
    assert finished(events(scripted([20, EOS]), max_tokens=2)).stats.finish_reason == "stop"
    assert finished(events(scripted([20, 21]), max_tokens=2)).stats.finish_reason == "length"


def test_progress_comes_first_and_counts_the_prompt():
    happened = events(scripted("ab"), ids=tuple(range(8)), prefill_step=3)
    assert happened[:3] == [Progress(3, 8), Progress(6, 8), Progress(7, 8)]
    assert [type(e) for e in happened[3:]] == [Token, Token, Token, Finished]


def test_logprobs_carry_ids_and_texts():
    bias = {ids_of("a")[0]: 7.0}
    happened = events(scripted("b"), logprobs=2, max_tokens=1, sampling=Sampling(logit_bias=bias))
    token = next(e for e in happened if isinstance(e, Token))
    assert [(t.token, t.text) for t in token.top_logprobs] == [(ids_of("b")[0], "b"), (ids_of("a")[0], "a")]
    assert token.logprob == token.top_logprobs[0].logprob > token.top_logprobs[1].logprob
    assert next(e for e in events(scripted("b")) if isinstance(e, Token)).top_logprobs is None
    assert next(e for e in events(scripted("b"), logprobs=0) if isinstance(e, Token)).top_logprobs == ()


# One terminal event ------------------------------------------------------------------------

KINDS: list[Exception] = [RuntimeError("boom"), ValueError(), MemoryError(), KeyError("x"), UsageError("no")]
PLACES = ["prefill", "layer", "logits", "read", "text"]


def break_at(patch: pytest.MonkeyPatch, model: Model, place: str, after: int, error: Exception) -> None:
    left, decoder = [after], decoder_of(model)

    def failing(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise error
            return original(*args, **kwargs)

        return call

    if place == "layer":
        patch.setattr(decoder, "before_layer", failing(decoder.before_layer))
    elif place == "read":
        patch.setattr(Pending, "read", failing(Pending.read))
    elif place == "text":
        patch.setattr(TOKENIZER, "token_text", failing(TOKENIZER.token_text))
    else:
        name = "hidden" if place == "prefill" else "logits"
        patch.setattr(decoder, name, failing(getattr(decoder, name)))


@given(st.sampled_from(PLACES), st.integers(0, 14), st.sampled_from(KINDS))
def test_fuzz_one_terminal_event_whatever_fails(place: str, after: int, error: Exception):
    model = scripted("abcdef")
    with pytest.MonkeyPatch.context() as patch:
        break_at(patch, model, place, after, error)
        happened = events(model, ids=tuple(range(9)), prefill_step=3, logprobs=1)
    terminal = [e for e in happened if isinstance(e, Finished | Failed)]
    assert terminal == [happened[-1]]
    if isinstance(happened[-1], Failed):
        shown = happened[-1].error
        assert isinstance(shown, MlxoneError)
        assert error is (shown if isinstance(error, MlxoneError) else shown.__cause__)
        assert "\n" not in str(shown)
    else:
        assert said(happened) == "abcdef"
    assert said(events(model)) == "abcdef"  # and the next one is served


@pytest.mark.parametrize(
    "error", [MemoryError("none left"), RuntimeError("[malloc] Unable to allocate 9 bytes.")]
)
def test_no_memory_left_is_named(error: Exception):
    model = scripted("abc")
    with pytest.MonkeyPatch.context() as patch:
        break_at(patch, model, "logits", 1, error)
        happened = events(model)
    failed = happened[-1]
    assert isinstance(failed, Failed) and isinstance(failed.error, OutOfMemory)
    assert "not enough memory" in str(failed.error)


def test_closing_is_no_event_and_leaves_the_states_true():
    model = scripted("abcdef")
    state = model.new_state()
    running = Answer(model, ChatRequest(ids=(1, 2, 3), max_tokens=9), state).events()
    for wanted in (Progress, Token, Token):
        assert isinstance(next(running), wanted)
    running.close()
    assert list(running) == []
    assert state.offset == 4  # the prompt and the first token; the step in flight was taken back


def test_a_refused_request_leaves_the_given_state_alone():
    model = scripted("abc")
    state = model.new_state()
    list(mlxone.generate(model, [1, 2, 3, 4], state=state, max_tokens=1))
    for options in ({"stop": [""]}, {"max_tokens": 0}, {"logprobs": -1}, {"temperature": -1}):
        with pytest.raises(UsageError):
            mlxone.generate(model, [1, 2], state=state, **options)
    assert state.offset == 4
