"""From scripted events to responses, through the real codec of OpenAI's chat."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import ContextOverflow, MlxoneError, Overloaded, TimedOut
from mlxone.core.words import Failed, Finished, Progress, Stats, Token
from mlxone.server import answering
from mlxone.server.exchange import Pace
from tests.fakes import FakeContext, Step, spoken
from tests.server.rig import CHAT, Answer, app, ask, request, stream, whole

PATH = "/v1/chat/completions"


def chat(script: Sequence[Step], *, pace: Pace | None = None, **body: Any) -> tuple[Answer, FakeContext]:
    context = FakeContext(script)
    server = app(context, pace=pace) if pace else app(context)
    return ask(server, "POST", PATH, CHAT | body), context


def text_of(answer: Answer, index: int = 0) -> str:
    choices = [c for chunk in answer.chunks for c in chunk.get("choices", ()) if c["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def assert_closed(context: FakeContext) -> None:
    assert [answers.closed for answers in context.gave] == [1]


# Whole answers


def test_a_whole_answer():
    answer, context = chat(spoken("Hello"))
    assert (answer.status, answer.media_type) == (200, "application/json")
    value = answer.json()
    assert value["choices"][0]["message"]["content"] == "Hello"
    assert value["model"] == "org/fake" and "req-1" in value["id"]
    assert value["usage"]["completion_tokens"] == 5
    assert context.asked[0].requests[0].messages[0].content == "Hi"
    assert_closed(context)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (TimedOut("no new token for 300 seconds"), 504, "timeout"),
        (ContextOverflow("too long"), 400, "context_over_budget"),
        (MlxoneError("what only we understand"), 500, "internal"),
        (ValueError("/secret/place"), 500, "internal"),
    ],
)
@pytest.mark.parametrize("how", ["event", "raised"])
def test_a_failure_in_the_middle_of_a_whole_answer_is_its_status(error, status, code, how):
    end: Step = (0, Failed(error)) if how == "event" else error
    answer, context = chat([*spoken("Hello")[:3], end])
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["request_id"] == "req-1"
    assert "secret" not in answer.body.decode() and "only we" not in answer.body.decode()
    assert_closed(context)


@pytest.mark.parametrize(("script", "choices"), [(spoken("Hello")[:-1], 1), (spoken("Hello"), 2), ([], 1)])
def test_an_answer_without_its_last_event_is_our_own_fault(script, choices, caplog):
    answer, _ = chat(script, n=choices)
    assert answer.status == 500
    assert any(str(r.exc_info and r.exc_info[1]) == str(answering.cut_short()) for r in caplog.records)


def test_no_dialect_hears_what_an_alien_failure_says():
    assert "secret" not in str(answering.told(RuntimeError("/secret"), "req-1"))


# Streams


def test_a_stream():
    answer, context = chat(spoken("Hello"), stream=True, stream_options={"include_usage": True})
    assert (answer.status, answer.media_type) == (200, "text/event-stream; charset=utf-8")
    assert answer.headers == {"cache-control": "no-cache", "x-accel-buffering": "no"}
    assert text_of(answer) == "Hello" and answer.data[-1] == "[DONE]"
    assert answer.chunks[-1]["usage"]["completion_tokens"] == 5
    assert_closed(context)


def test_what_is_there_at_once_is_one_piece():
    answer, _ = chat(spoken("x" * 100), stream=True)
    assert len(answer.pieces) == 1


def test_a_long_answer_comes_in_pieces_and_waits_for_a_slow_reader():
    async def run():
        context = FakeContext(spoken("x" * 2_000))
        body = await stream(app(context), "POST", PATH, CHAT | {"stream": True})
        first = await anext(body)
        for _ in range(50):
            await asyncio.sleep(0)
        given = context.gave[0].given
        rest = [piece async for piece in body]
        await body.aclose()
        return given, b"".join([first, *rest])

    given, body = asyncio.run(run())
    assert given <= 2 * answering.AHEAD + 2  # what was taken, and what waits
    assert body.count(b'"content":"x"') == 2_000


@pytest.mark.parametrize(
    "error", [TimedOut("no new token"), ValueError("/secret/place"), MlxoneError("ours")]
)
@pytest.mark.parametrize("how", ["event", "raised"])
def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(error, how, caplog):
    end: Step = (1, Failed(error)) if how == "event" else error
    script = [*spoken("Hello")[:3], end, *spoken("more")]
    with caplog.at_level(logging.INFO, "mlxone"):
        answer, context = chat(script, stream=True, n=2)
    assert answer.status == 200
    assert text_of(answer) == "He"
    code = "timeout" if isinstance(error, TimedOut) else "internal"
    assert answer.chunks[-1]["error"]["code"] == code and "[DONE]" not in answer.data
    assert "secret" not in answer.body.decode()
    assert caplog.records[-1].fields["error"] == code
    assert_closed(context)


@pytest.mark.parametrize("end", [(0, Failed(TimedOut("no new token"))), spoken("")[-1]])
def test_work_ends_before_the_last_piece_is_sent(end: Step):
    async def run():
        context = FakeContext([*spoken("Hello")[:3], end])
        body = await stream(app(context), "POST", PATH, CHAT | {"stream": True})
        await anext(body)
        closed = context.gave[0].closed
        await body.aclose()
        return closed

    assert asyncio.run(run()) == 1


def test_a_stream_without_its_last_event_fails():
    answer, context = chat(spoken("Hello")[:-1], stream=True)
    assert text_of(answer) == "Hello"
    assert answer.chunks[-1]["error"]["code"] == "internal"
    assert_closed(context)


def test_a_codec_that_fails_ends_the_stream_in_its_own_words(monkeypatch):
    def broken(*_: object) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mlxone.server.protocols.openai_answers.OpenAIStreaming.event", broken)
    answer, context = chat(spoken("Hello"), stream=True)
    assert [chunk["error"]["code"] for chunk in answer.chunks] == ["internal"]
    assert_closed(context)


@pytest.mark.parametrize("streams", [False, True])
def test_a_refusal_before_any_work_is_a_status(streams: bool):
    context = FakeContext(refusal=Overloaded("256 answers wait already", hint="try again"))
    answer = ask(app(context), "POST", PATH, CHAT | {"stream": streams})
    assert (answer.status, answer.error["code"]) == (429, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert answer.media_type == "application/json"


# Silence


def test_silence_is_broken_until_there_is_something_to_say():
    """With no patience at all a keep-alive comes at every turn of the loop: no clock is in play."""

    async def run():
        gate = asyncio.Event()
        script: list[Step] = [gate, *spoken("Hi")]
        context = FakeContext(script)
        body = await stream(app(context, pace=Pace(0.0, 0.0)), "POST", PATH, CHAT | {"stream": True})
        quiet = [await anext(body) for _ in range(3)]
        gate.set()
        rest = [piece async for piece in body]
        await body.aclose()
        return quiet, b"".join(rest)

    quiet, rest = asyncio.run(run())
    assert all(piece.startswith(b":") and piece.endswith(b"\n\n") for piece in quiet)
    assert b"[DONE]" in rest


def test_progress_of_a_long_prompt_is_told_early():
    async def run():
        gate = asyncio.Event()
        script: list[Step] = [(0, Progress(2_048, 8_000)), gate, *spoken("Hi")]
        pace = Pace(quiet=3600.0, progress=0.0)
        body = await stream(app(FakeContext(script), pace=pace), "POST", PATH, CHAT | {"stream": True})
        first = await anext(body)
        second = asyncio.ensure_future(anext(body))
        for _ in range(20):
            await asyncio.sleep(0)
        told_once = not second.done()  # nothing new: from here on the long patience holds
        gate.set()
        await second
        await body.aclose()
        return first, told_once

    first, told_once = asyncio.run(run())
    assert first == b": prompt 2048/8000\n\n" and told_once


def test_a_prompt_that_is_read_at_once_has_no_progress_to_tell():
    async def run():
        gate = asyncio.Event()
        context = FakeContext([(0, Progress(5, 5)), gate, *spoken("Hi")[1:]])
        pace = Pace(quiet=3600.0, progress=0.0)
        body = await stream(app(context, pace=pace), "POST", PATH, CHAT | {"stream": True})
        first = asyncio.ensure_future(anext(body))
        for _ in range(20):
            await asyncio.sleep(0)
        silent = not first.done()
        gate.set()
        piece = await first
        await body.aclose()
        return silent, piece

    silent, piece = asyncio.run(run())
    assert silent and b"prompt" not in piece


# Clients that go away


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_client_that_goes_away_cancels_its_answers(after: int, caplog):
    async def run():
        gate = asyncio.Event()
        context = FakeContext([*spoken("Hello")[:2], gate, *spoken("more")])
        server = app(context, pace=Pace(0.0, 0.0))
        body = await stream(server, "POST", PATH, CHAT | {"stream": True})
        for _ in range(after):
            await anext(body)
        await body.aclose()
        await body.aclose()  # twice is as good as once
        assert (await asyncio.wait_for(anext(body, b"over"), 1)) == b"over"
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        return context, server, left

    with caplog.at_level(logging.INFO, "mlxone"):
        context, server, left = asyncio.run(run())
    assert_closed(context)
    assert left == []
    assert server.shared.counters.requests == {("/chat/completions", 499): 1}
    assert [record.fields["status"] for record in caplog.records] == [499]


@pytest.mark.parametrize("streams", [False, True])
def test_a_cancelled_handler_cancels_its_answers(streams: bool):
    async def run():
        context = FakeContext([*spoken("Hello")[:2], asyncio.Event()])
        server = app(context)

        async def exchange():
            return await whole(await server(request("POST", PATH, CHAT | {"stream": streams})))

        task = asyncio.create_task(exchange())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return context, server

    context, server = asyncio.run(run())
    assert_closed(context)
    assert server.shared.counters.requests == {("/chat/completions", 499): 1}
    assert server.shared.counters.in_flight == 0


# Any order of events

TEXTS = st.lists(st.text(max_size=4), max_size=5)
ENDS = st.sampled_from(["finished", "failed", "alien", "missing"])


def a_choice(number: int, texts: Sequence[str], end: str, reads: bool) -> list[Step]:
    steps: list[Step] = [(number, Progress(1, 2)), (number, Progress(2, 2))] if reads else []
    steps += [(number, Token(7, index, text)) for index, text in enumerate(texts)]
    stats = Stats(prompt_tokens=2, generated_tokens=len(texts))
    ends: dict[str, list[Step]] = {
        "finished": [(number, Finished(stats))],
        "failed": [(number, Failed(TimedOut("too slow")))],
        "alien": [(number, Failed(RuntimeError("/secret")))],
        "missing": [],
    }
    return steps + ends[end]


@given(st.data(), st.integers(1, 3), st.booleans())
def test_no_order_of_events_breaks_a_stream_or_a_body(data, count, streams):
    plans = [(data.draw(TEXTS), data.draw(ENDS), data.draw(st.booleans())) for _ in range(count)]
    queues = [a_choice(number, *plan) for number, plan in enumerate(plans)]
    script: list[Step] = []
    while any(queues):  # each choice's own order holds, whatever comes between
        queue = data.draw(st.sampled_from([queue for queue in queues if queue]))
        script.append(queue.pop(0))
    pace = data.draw(st.sampled_from([Pace(0.0, 0.0), Pace(3600.0, 3600.0)]))
    answer, context = chat(script, n=count, stream=streams, pace=pace)
    good = all(end == "finished" for _, end, _ in plans)
    assert_closed(context)
    assert "secret" not in answer.body.decode()
    if not streams:
        assert (answer.status == 200) is good
        assert good or "error" in answer.json()
        return
    assert answer.status == 200
    assert ("[DONE]" in answer.data) is good and ("error" in answer.chunks[-1]) is not good
    assert sum("error" in chunk for chunk in answer.chunks) == (not good)
    if good:
        for number, (texts, _, _) in enumerate(plans):
            assert text_of(answer, number) == "".join(texts)


def test_ignored_fields_are_named_in_the_debug_log_only(caplog):
    with caplog.at_level(logging.DEBUG, "mlxone"):
        chat(spoken("Hi"), frobnicate=1)
    assert any("frobnicate" in r.getMessage() and r.levelno == logging.DEBUG for r in caplog.records)
    assert not any("frobnicate" in r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG)
