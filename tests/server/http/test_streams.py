"""Bodies that are made while they are sent: to whom, how fast, and who is told when nobody listens."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mlxone.server.messages import Response
from tests.server.http.rig import GET, Client, Clock, Desk, chunked, post, run, settled


def stream(query: bytes = b"", version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    return method + b" /stream?" + query + b" HTTP/" + version + b"\r\nHost: here\r\n\r\n"


def test_each_chunk_is_sent_at_once():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(stream(b"wait=1&count=2"))
        assert desk.made == 1
        assert client.transport.writes[1:] == [b"5\r\n00000\r\n"]
        assert b"transfer-encoding: chunked" in client.sent.lower()
        desk.gate.set()
        await settled()
        await client.send(GET)
        assert [a.body for a in client.answers()] == [b"0000011111", b'{"ok":true}']
        assert desk.closed == ["/stream"]

    run(scenario)


def test_an_old_client_gets_it_until_the_connection_ends():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(stream(version=b"1.0"))
        (answer,) = client.answers()
        assert answer.body == b"000001111122222" and client.transport.closing
        assert "transfer-encoding" not in answer.headers and "content-length" not in answer.headers
        assert answer.headers["connection"] == "close"

    run(scenario)


def test_an_empty_chunk_does_not_end_the_stream():
    async def scenario(server, desk: Desk, clock: Clock):
        async def chunks():
            for piece in (b"", b"a", b"", b"b", b""):
                yield piece

        async def answer(request):
            return Response(body=chunks())

        desk.answers["/stream"] = answer
        client = Client(server)
        await client.send(stream() + GET)
        assert [a.body for a in client.answers()] == [b"ab", b'{"ok":true}']

    run(scenario)


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_client_that_goes_away_closes_its_stream_at_once(how: str, method: bytes):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(stream(b"wait=1", method=method))
        assert desk.made == 1 and desk.closed == []
        await getattr(client, how)()
        assert desk.closed == ["/stream"] and desk.made == 1
        assert client.transport.closing and server.open_connections == 0
        assert client.answers()[0].whole is False

    run(scenario)


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_client_that_goes_away_cancels_its_handler(how: str, reads: bool):
    async def scenario(server, desk: Desk, clock: Clock):
        async def work(request):
            if reads:
                await request.read()
            return await desk.wait(request)

        desk.answers["/wait"] = work
        client = Client(server)
        data = post(b"/wait", b"{}")
        await client.send(data[:-1])
        await client.send(data[-1:])
        await getattr(client, how)()
        assert desk.cancelled == ["/wait"]
        assert client.sent == b"" and server.open_connections == 0

    run(scenario)


def test_a_safe_method_is_answered_to_who_only_ended_its_side():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/wait") + GET)
        await client.end()
        assert desk.cancelled == []
        desk.gate.set()
        await settled()
        assert [a.status for a in client.answers()] == [200, 200]
        assert client.transport.closing

    run(scenario)


def test_but_not_for_ever():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/wait"))
        await client.end()
        for seconds, cancelled in ((1.9, []), (0.2, ["/wait"])):
            clock.now += seconds
            client.protocol.check(clock.now)
            await settled()
            assert desk.cancelled == cancelled
        assert client.sent == b"" and client.transport.closing

    run(scenario)


def test_what_would_have_to_wait_is_given_up_if_its_client_ended_before():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        client.protocol.data_received(post(b"/echo", b"{}") + post(b"/wait", b"{}") + post(b"/echo", b"{}"))
        client.protocol.eof_received()
        await settled()
        assert desk.cancelled == ["/wait"] and len(client.answers("POST")) == 1
        assert client.transport.closing

    run(scenario)


def test_but_not_to_who_is_gone():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/wait"))
        await client.reset()
        assert desk.cancelled == ["/wait"]

    run(scenario)


AT_ONCE = {
    "get": GET,
    "post": post(b"/echo", b"hello"),
    "both": GET + post(b"/echo", b"hello"),
    "many chunks": chunked(b"/echo", *[b"x"] * 500),
}


@pytest.mark.parametrize("data", AT_ONCE.values(), ids=AT_ONCE)
def test_what_is_made_without_waiting_is_sent_to_who_ends_at_once(data: bytes):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        client.protocol.data_received(data)
        assert client.protocol.eof_received()
        await settled()
        assert [a.status for a in client.answers()] == [200] * data.count(b"HTTP/1.1")
        assert client.transport.closing and not client.transport.aborted

    run(scenario)


def test_a_stream_to_who_ended_at_once_is_not_begun():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        client.protocol.data_received(stream())
        client.protocol.eof_received()
        await settled()
        assert desk.made == 0 and client.sent == b"" and client.transport.closing

    run(scenario)


def test_a_stream_that_fails_breaks_off_and_is_logged(caplog: pytest.LogCaptureFixture):
    async def scenario(server, desk: Desk, clock: Clock):
        async def broken():
            yield b"first"
            raise ZeroDivisionError

        async def answer(request):
            return Response(body=broken())

        desk.answers["/stream"] = answer
        client = Client(server)
        await client.send(stream() + GET)
        (told,) = client.answers()
        assert told.body == b"first" and not told.whole
        assert client.closed
        (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert client.answers()[0].headers["x-request-id"] in record.getMessage()

    run(scenario)


def test_cleaning_up_is_not_cut_off():
    """However often it is noticed that the client is gone."""

    async def scenario(server, desk: Desk, clock: Clock):
        tidied, may_end = asyncio.Event(), asyncio.Event()

        async def careful():
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                await may_end.wait()
                tidied.set()

        async def answer(request):
            return Response(body=careful())

        desk.answers["/stream"] = answer
        client = Client(server)
        await client.send(stream())
        await client.end()
        await client.reset()
        client.protocol.stop()
        client.protocol.abort()
        await settled()
        assert server.open_connections == 1  # not before all is in order
        may_end.set()
        await settled()
        assert tidied.is_set() and server.open_connections == 0

    run(scenario)


def test_an_end_that_comes_behind_the_last_chunk_takes_nothing_back():
    async def scenario(server, desk: Desk, clock: Clock):
        may_end = asyncio.Event()

        class Slow:
            def __aiter__(self):
                return self

            async def __anext__(self):
                raise StopAsyncIteration

            async def aclose(self):
                await may_end.wait()

        async def answer(request):
            return Response(body=Slow())

        desk.answers["/stream"] = answer
        client = Client(server)
        await client.send(stream(method=b"POST") + GET)
        await client.end()
        may_end.set()
        await settled()
        assert [a.status for a in client.answers("POST")] == [200, 200]

    run(scenario)


def test_an_iterator_that_cannot_be_closed_is_only_logged(caplog: pytest.LogCaptureFixture):
    async def scenario(server, desk: Desk, clock: Clock):
        class Awkward:
            def __aiter__(self):
                return self

            async def __anext__(self):
                raise StopAsyncIteration

            async def aclose(self):
                raise ZeroDivisionError

        async def answer(request):
            return Response(body=Awkward())

        desk.answers["/stream"] = answer
        client = Client(server)
        await client.send(stream() + GET)
        assert [a.status for a in client.answers()] == [200, 200]
        assert "could not be closed" in caplog.text

    run(scenario)


# A client that does not read.


def test_what_waits_for_a_slow_client_is_bounded_and_it_is_dropped():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        client.transport.stuck = True
        await client.send(stream(b"count=100000&size=100", method=b"POST"))
        assert client.transport.waiting <= 1000 + 200
        assert desk.made <= 12
        for _ in range(9):
            clock.now += 1
            client.protocol.check(clock.now)
            await settled()
        assert desk.closed == [] and not client.transport.aborted
        clock.now += 1
        client.protocol.check(clock.now)
        await settled()
        assert client.transport.aborted and desk.closed == ["/stream"] and desk.made <= 12
        assert server.open_connections == 0

    run(scenario, unsent_bytes=1000, write_seconds=10.0)


def test_one_that_reads_slowly_is_not_dropped():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        client.transport.stuck = True
        await client.send(stream(b"count=20&size=100"))
        for _ in range(100):
            clock.now += 5
            client.protocol.check(clock.now)
            client.transport.take(min(40, client.transport.waiting))
            await settled()
        assert desk.made == 20 and not client.transport.aborted

    run(scenario, unsent_bytes=1000, write_seconds=10.0, idle_seconds=1e9)


def test_the_patience_begins_when_something_waits():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(stream(b"wait=1&count=100"))
        clock.now += 1000  # nobody looked meanwhile
        client.transport.stuck = True
        desk.gate.set()
        await settled()
        client.protocol.check(clock.now)
        assert client.transport.waiting and not client.transport.aborted
        clock.now += 10
        client.protocol.check(clock.now)
        assert client.transport.aborted
        await settled()

    run(scenario, write_seconds=10.0)


def test_a_large_body_waits_for_its_reader_too():
    async def scenario(server, desk: Desk, clock: Clock):
        body = bytes(range(250)) * 400

        async def large(request):
            return Response(body=body, media_type="text/plain")

        desk.answers["/large"] = large
        client = Client(server)
        client.transport.stuck = True
        await client.send(GET.replace(b"/health", b"/large"))
        assert client.transport.waiting < 3000
        while client.transport.waiting:
            client.transport.take(min(500, client.transport.waiting))
            await settled(5)
        assert b"".join(client.transport.writes).endswith(body)

    run(scenario, unsent_bytes=1000)


def test_who_asks_much_and_reads_nothing_gets_no_further_answers_made():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        client.transport.stuck = True
        await client.send(GET * 1000)
        await settled(3000)
        assert len(desk.asked) < 10

    run(scenario, unsent_bytes=1000)


def test_a_stream_that_never_waits_lets_others_have_their_turn():
    async def scenario(server, desk: Desk, clock: Clock):
        greedy, other = Client(server), Client(server)
        greedy.protocol.data_received(stream(b"count=100000"))
        await settled(3)
        await other.send(GET)
        assert len(other.answers()) == 1
        assert desk.made < 10_000
        await greedy.reset()
        assert desk.closed == ["/stream"]

    run(scenario)


def test_over_a_real_socket_nothing_is_made_for_who_does_not_read(tmp_path):
    """The kernel's own buffers are the only slack beyond the limit."""

    async def scenario(server, desk: Desk, clock: Clock):
        path = str(tmp_path / "s")
        await server.listen(uds=path)
        reader, writer = await asyncio.open_unix_connection(path, limit=1024)
        writer.write(stream(b"count=1000000&size=10000"))
        while not desk.made:
            await asyncio.sleep(0)
        (connection,) = server._common.connections
        while server.open_connections:
            await asyncio.sleep(0.001)
            clock.now += 31
            connection.check(clock.now)
        assert desk.made < 1000
        assert desk.closed == ["/stream"]
        writer.close()

    run(scenario)
