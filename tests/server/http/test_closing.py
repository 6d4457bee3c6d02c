"""The server's end, met in every state that a connection can be in."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mlxone.server.messages import ENDING, Response
from tests.server.http.rig import GET, Client, Clock, Desk, chunked, post, run, settled

WAIT = GET.replace(b"/health", b"/wait")
STREAM = GET.replace(b"/health", b"/stream?wait=1&count=2")


@pytest.mark.parametrize("before", [b"", GET, b"GET / HT", GET + b"GET"])
def test_idle_connections_close_at_once(before: bytes):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(before)
        await server.close(1e9)
        assert client.transport.closing and not client.transport.aborted
        assert len(client.answers()) == before.count(b"health")

    run(scenario)


@pytest.mark.parametrize(
    ("data", "body"), [(WAIT, b'{"waited":true}'), (STREAM, b"0000011111"), (WAIT + GET, b'{"waited":true}')]
)
def test_what_is_being_made_may_be_finished(data: bytes, body: bytes):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(data)
        closing = asyncio.create_task(server.close(1e9))
        await settled()
        assert not client.closed and not closing.done()
        desk.gate.set()
        await closing
        (answer,) = client.answers()
        assert answer.body == body and answer.whole
        assert len(desk.asked) == 1
        if data != STREAM:
            assert answer.headers["connection"] == "close"

    run(scenario)


@pytest.mark.parametrize("form", [post, chunked])
def test_a_body_on_its_way_is_still_read(form):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        data = form(b"/echo", b"hello")
        await client.send(data[:-4])
        closing = asyncio.create_task(server.close(1e9))
        await settled()
        await client.send(data[-4:])
        await closing
        assert client.answers("POST")[0].body == b"hello"

    run(scenario)


def test_after_the_grace_a_handler_is_cancelled_and_answered_for():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(post(b"/wait", b"{}"))
        await server.close(0.0)
        assert desk.cancelled == ["/wait"]
        (answer,) = client.answers("POST")
        assert answer.status == 503 and answer.json["error"]["code"] == "shutting_down"
        assert answer.json["error"]["request_id"] == answer.headers["x-request-id"]
        assert answer.headers["connection"] == "close" and answer.headers["retry-after"] == "1"

    run(scenario)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_handler_hears_why_it_is_cancelled(leaves: bool):
    async def scenario(server, desk: Desk, clock: Clock):
        why: list[tuple[object, ...]] = []

        async def wait(request):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as cut:
                why.append(cut.args)
                raise

        desk.answers["/wait"] = wait
        client = Client(server)
        await client.send(WAIT)
        await (client.reset() if leaves else server.close(0.0))
        assert why == [() if leaves else (ENDING,)]

    run(scenario)


def test_a_stream_breaks_off_and_its_client_can_see_that():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(STREAM)
        await server.close(0.0)
        assert desk.closed == ["/stream"]
        (answer,) = client.answers()
        assert answer.body == b"00000" and not answer.whole

    run(scenario)


def test_a_stream_may_have_last_words():
    async def scenario(server, desk: Desk, clock: Clock):
        async def polite():
            try:
                yield b"first"
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                yield b"last"

        async def answer(request):
            return Response(body=polite())

        desk.answers["/polite"] = answer
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/polite"))
        await server.close(0.0)
        (told,) = client.answers()
        assert told.body == b"firstlast" and told.whole

    run(scenario)


def test_but_not_for_a_client_that_is_gone():
    async def scenario(server, desk: Desk, clock: Clock):
        closed = asyncio.Event()

        async def talkative():
            try:
                while True:
                    try:
                        yield b"more"
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        pass
            finally:
                closed.set()

        async def answer(request):
            return Response(body=talkative())

        desk.answers["/talkative"] = answer
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/talkative"))
        await client.end()
        assert closed.is_set() and client.transport.closing

    run(scenario)


def test_who_does_not_read_is_cut_off_in_the_end():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        client.transport.stuck = True
        await client.send(GET)
        assert client.transport.waiting
        await server.close(0.0)
        assert client.transport.aborted

    run(scenario)


def test_a_handler_that_will_not_be_cancelled_does_not_hold_the_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mlxone.server.http._LAST_WORDS", 0.01)

    async def scenario(server, desk: Desk, clock: Clock):
        freed = asyncio.Event()

        async def stubborn(request):
            while not freed.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await freed.wait()
            return Response()

        desk.answers["/stubborn"] = stubborn
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/stubborn"))
        await server.close(0.0)
        assert client.transport.aborted and client.sent == b""
        freed.set()
        await settled()

    run(scenario)


def test_closing_twice_is_closing_once_and_the_shorter_grace_wins():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(WAIT)
        patient = asyncio.create_task(server.close(1e9))
        await settled()
        await server.close(0.0)
        await patient
        assert client.answers()[0].status == 503
        await server.close(5.0)

    run(scenario)


def test_nobody_connects_to_a_server_that_closes():
    async def scenario(server, desk: Desk, clock: Clock):
        await server.close(0.0)
        client = Client(server)
        await settled()
        assert client.transport.aborted and server.open_connections == 0

    run(scenario)
