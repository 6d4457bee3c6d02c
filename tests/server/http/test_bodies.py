"""Bodies: read when the handler asks, never more than may be, and no answer lost over them."""

from __future__ import annotations

import asyncio

import pytest

from mlxone.server.errors import TooLarge
from mlxone.server.messages import Response
from tests.server.http.rig import GET, Client, Clock, Desk, chunked, post, run, settled

EXPECT = b"Expect: 100-continue"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_leave_to_send_is_given_when_the_handler_reads():
    async def scenario(server, desk: Desk, clock: Clock):
        head, body = post(b"/echo", b"hello", EXPECT)[:-5], b"hello"
        client = Client(server)
        await client.send(head)
        assert client.sent == CONTINUE
        await client.send(body + GET)
        assert [a.body for a in client.answers("POST")] == [b"hello", b'{"ok":true}']

    run(scenario)


def test_no_leave_for_who_does_not_wait_or_sends_nothing():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(post(b"/echo", b"hello", EXPECT) + post(b"/echo", b"", EXPECT))
        assert CONTINUE not in client.sent
        assert desk.bodies == [b"hello", b""]

    run(scenario)


def test_an_old_client_gets_no_100():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(b"POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.sent == b""
        await client.send(b"hello")
        assert client.answers("POST")[0].body == b"hello" and client.closed

    run(scenario)


def test_who_is_refused_gets_no_leave_and_the_connection_ends():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(post(b"/health", b"hello", EXPECT)[:-5])
        (answer,) = client.answers("POST")
        assert client.sent.startswith(b"HTTP/1.1 200") and answer.headers["connection"] == "close"
        assert client.closed

    run(scenario)


SIZES = {"length": lambda n: post(b"/echo", b"x" * n), "chunks": lambda n: chunked(b"/echo", *[b"x"] * n)}


@pytest.mark.parametrize("form", SIZES)
def test_as_much_as_may_be(form: str):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(SIZES[form](1000) + GET)
        await settled(200)
        assert [len(b) for b in desk.bodies] == [1000]
        assert [a.status for a in client.answers("POST")] == [200, 200]

    run(scenario, body_bytes=1000)


@pytest.mark.parametrize("form", SIZES)
def test_more_than_may_be_is_a_413_that_the_client_sees(form: str):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(SIZES[form](1001) + b"x" * 500)
        await settled(200)
        (answer,) = client.answers("POST")
        assert answer.status == 413
        assert answer.json["error"]["code"] == "too_large" and "1000" in answer.json["error"]["message"]
        assert answer.headers["connection"] == "close"
        # The sending side is ended; what still comes is thrown away, so that no reset overtakes the answer.
        assert client.transport.eof_written and not client.transport.closing
        await client.send(b"x" * 3000)
        assert not client.transport.closing and not client.protocol.inbox
        await client.end()
        assert client.transport.closing and not client.transport.aborted

    run(scenario, body_bytes=1000)


def test_a_length_too_large_is_refused_before_a_byte_of_it_came():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999999\r\n" + EXPECT)
        await client.send(b"\r\n\r\n")
        assert b"100 Continue" not in client.sent
        assert client.answers("POST")[0].status == 413

    run(scenario)


def test_a_chunk_that_says_too_much_is_refused_before_it_came():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(chunked(b"/echo")[:-5] + b"ffffffff\r\n" + b"x" * 1001)
        assert client.answers("POST")[0].status == 413
        assert desk.bodies == []

    run(scenario, body_bytes=1000)


def test_what_is_thrown_away_is_bounded_too():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(post(b"/echo", b"x" * 2000))
        for _ in range(10):
            client.protocol.data_received(b"x" * 1000)
        assert client.transport.aborted

    run(scenario, body_bytes=1000)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("data", [post(b"/health", b"x" * 5000), chunked(b"/health", b"x" * 5000)])
def test_a_small_body_that_nobody_read_is_skipped(data: bytes, late: bool):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        if late and b"chunked" not in data:
            await client.send(data[:100])
            assert len(client.answers("POST")) == 1
            await client.send(data[100:])
        else:
            await client.send(data)
        await client.send(GET)
        assert [a.status for a in client.answers("POST")] == [200, 200]
        assert "connection" not in client.answers("POST")[0].headers

    run(scenario)


def test_what_nobody_reads_has_no_other_limit():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        data = post(b"/health", b"x" * 5000)
        await client.send(data[:100])
        await client.send(data[100:] + GET)
        assert [a.status for a in client.answers("POST")] == [200, 200]

    run(scenario, body_bytes=10)


@pytest.mark.parametrize("data", [post(b"/health", b"x" * 500_000), chunked(b"/health", b"x" * 500_000)])
def test_a_large_one_ends_the_connection(data: bytes):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(data[:1000])
        (answer,) = client.answers("POST")
        assert answer.status == 200 and answer.headers["connection"] == "close"
        assert client.closed

    run(scenario)


@pytest.mark.parametrize("head", [b"G", b"GET / HTTP/1.1\r\nHost: here\r\n"])
def test_a_head_that_breaks_off_is_one_too(head: bytes):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(head)
        await client.end()
        (answer,) = client.answers()
        assert answer.status == 400 and "ended before" in answer.json["error"]["message"]
        assert client.closed and desk.asked == []

    run(scenario)


def test_a_body_that_breaks_off_is_a_400():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(post(b"/echo", b"hello")[:-1])
        await client.end()
        (answer,) = client.answers("POST")
        assert answer.status == 400 and "ended before" in answer.json["error"]["message"]
        assert client.closed and desk.bodies == []

    run(scenario)


def test_read_twice_is_the_same():
    async def scenario(server, desk: Desk, clock: Clock):
        async def twice(request):
            return Response(body=await request.read() + await request.read())

        desk.answers["/twice"] = twice
        client = Client(server)
        await client.send(post(b"/twice", b"ab"))
        assert client.answers()[0].body == b"abab"

    run(scenario)


def test_a_refusal_stays_a_refusal():
    async def scenario(server, desk: Desk, clock: Clock):
        async def stubborn(request):
            for _ in range(3):
                with pytest.raises(TooLarge):
                    await request.read()
            return Response(body=b"so be it")

        desk.answers["/stubborn"] = stubborn
        client = Client(server)
        await client.send(post(b"/stubborn", b"x" * 11) + GET)
        (answer,) = client.answers("POST")
        assert answer.body == b"so be it" and client.closed

    run(scenario, body_bytes=10)


def test_a_late_read_takes_nothing_from_the_next_request():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(post(b"/health", b"first") + post(b"/wait", b"second"))
        with pytest.raises(RuntimeError):
            await desk.asked[0].read()
        assert await desk.asked[1].read() == b"second"

    run(scenario)


def test_reading_is_paused_while_nobody_takes_a_body():
    async def scenario(server, desk: Desk, clock: Clock):
        taken = asyncio.Event()

        async def later(request):
            await taken.wait()
            return Response(body=b"%d" % len(await request.read()))

        desk.answers["/later"] = later
        client = Client(server)
        data = post(b"/later", b"x" * 100_000)
        sent = 0
        while not client.transport.reading_paused:
            await client.send(data[sent : sent + 500])
            sent += 500
        assert sent <= 2000
        taken.set()
        await settled()
        assert not client.transport.reading_paused
        await client.send(data[sent:])
        assert client.answers("POST")[0].body == b"100000"

    run(scenario, header_bytes=1024)


@pytest.mark.parametrize("form", [post, chunked])
def test_all_bodies_together_are_bounded(form):
    async def scenario(server, desk: Desk, clock: Clock):
        first, second = Client(server), Client(server)
        await first.send(form(b"/echo", b"x" * 900)[:-10])
        await second.send(form(b"/echo", b"y" * 900))
        (refused,) = second.answers("POST")
        assert refused.status == 503 and refused.json["error"]["code"] == "too_many_bodies"
        assert refused.headers["retry-after"] == "1"
        await first.send(form(b"/echo", b"x" * 900)[-10:])
        assert first.answers("POST")[0].body == b"x" * 900
        third = Client(server)  # all of it has been given back
        await third.send(form(b"/echo", b"z" * 1500))
        assert third.answers("POST")[0].status == 200

    run(scenario, all_body_bytes=1_500)


@pytest.mark.parametrize("ends", ["answered", "leaves", "breaks off", "skipped", "too slow"])
def test_a_body_is_given_back_however_it_ends(ends: str):
    async def scenario(server, desk: Desk, clock: Clock):
        async def read(request):
            await request.read()
            return await desk.wait(request)

        desk.answers["/read"] = read
        client = Client(server)
        await client.send(post(b"/health" if ends == "skipped" else b"/read", b"x" * 900)[:-10])
        if ends in ("answered", "leaves"):
            await client.send(b"x" * 10)
        assert server._common.body_bytes == {"answered": 900, "leaves": 900, "skipped": 0}.get(ends, 890)
        if ends == "answered":
            desk.gate.set()
            await settled()
        elif ends == "too slow":
            clock.now += 1e6
            client.protocol.check(clock.now)
            await settled()
        else:
            await (client.end() if ends == "breaks off" else client.reset())
        assert server._common.body_bytes == 0

    run(scenario)


def test_a_body_is_given_back_when_its_stream_begins():
    async def scenario(server, desk: Desk, clock: Clock):
        async def read(request):
            await request.read()
            return await desk.stream(request)

        desk.answers["/read"] = read
        client = Client(server)
        await client.send(post(b"/read?wait=1", b"x" * 900))
        assert desk.made == 1 and server._common.body_bytes == 0

    run(scenario)
