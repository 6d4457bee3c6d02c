"""Every wait for a client has an end. The clock is set by hand."""

from __future__ import annotations

import pytest

from tests.server.http.rig import GET, Client, Clock, Desk, chunked, post, run, settled

LIMITS = {"idle_seconds": 100.0, "read_seconds": 10.0, "write_seconds": 1e9}


async def later(client: Client, clock: Clock, seconds: float) -> None:
    clock.now += seconds
    client.protocol.check(clock.now)
    await settled()


def test_an_idle_connection_is_closed_without_a_word():
    async def scenario(server, desk: Desk, clock: Clock):
        fresh, used = Client(server), Client(server)
        await used.send(GET)
        for client in (fresh, used):
            await later(client, clock, 0)
            assert not client.closed
        for _ in range(2):
            await later(fresh, clock, 50)
        await later(used, clock, 0)
        assert fresh.sent == b"" and fresh.transport.closing
        assert len(used.answers()) == 1 and used.transport.closing

    run(scenario, **LIMITS)


def test_each_request_begins_the_idle_time_anew():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        for _ in range(5):
            await later(client, clock, 99)
            await client.send(GET)
        assert len(client.answers()) == 5

    run(scenario, **LIMITS)


@pytest.mark.parametrize("first", [b"", GET])
def test_headers_that_dribble_in_are_a_408(first: bytes):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(first)
        for byte in b"GET / HTT":
            await client.send(bytes([byte]))
            await later(client, clock, 1)
        assert not client.closed
        await later(client, clock, 1)
        answers = client.answers()
        assert [a.status for a in answers] == ([200] if first else []) + [408]
        assert answers[-1].headers["connection"] == "close"
        assert client.closed

    run(scenario, **LIMITS)


@pytest.mark.parametrize("data", [post(b"/echo", b"x" * 50), chunked(b"/echo", b"x" * 50)])
def test_a_body_may_take_long_but_no_piece_of_it(data: bytes):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(data[:-20])
        for byte in data[-20:-10]:
            await later(client, clock, 9)
            await client.send(bytes([byte]))
        assert client.sent == b""
        await later(client, clock, 10)
        (answer,) = client.answers("POST")
        assert answer.status == 408 and answer.json["error"]["code"] == "request_timeout"
        assert client.closed

    run(scenario, **LIMITS)


def test_a_handler_has_all_the_time_it_wants():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(post(b"/wait", b"{}"))
        await later(client, clock, 10_000)
        desk.gate.set()
        await settled()
        assert client.answers("POST")[0].status == 200
        await later(client, clock, 50)
        assert not client.closed

    run(scenario, **LIMITS)


def test_the_rest_of_a_skipped_body_is_not_waited_for_long():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(post(b"/health", b"hello")[:-1])
        assert len(client.answers("POST")) == 1
        await later(client, clock, 10)
        assert len(client.answers("POST")) == 1 and client.closed

    run(scenario, **LIMITS)


def test_who_is_refused_and_stays_is_cut_off():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(b"\x00")
        assert client.transport.eof_written and not client.transport.closing
        await later(client, clock, 5)
        assert client.transport.aborted

    run(scenario, **LIMITS)


def test_the_server_looks_by_itself():
    """The one place with a real clock: nobody calls `check` here."""

    async def scenario(server, desk: Desk, clock: Clock):
        await server.listen()
        client = Client(server)
        await settled()
        clock.now += 100
        await client.transport.lost
        await settled()

    run(scenario, idle_seconds=0.04, read_seconds=10.0)
