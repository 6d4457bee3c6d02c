"""Any bytes get answers that are HTTP, or an end; how they are cut changes nothing; the server lives on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.server.http import HttpServer
from mlxone.server.limits import Limits
from mlxone.server.messages import Request, Response
from tests.server.http.rig import GET, Client, chunked, malformed, post, read_answers, settled

PIECES = [
    *(GET, post(b"/a", b"hello"), chunked(b"/b", b"hel", b"lo"), post(b"/c", b"", b"Expect: 100-continue")),
    *(b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"HEAD /%41 HTTP/1.0\r\n", b"OPTIONS * HTTP/1.1\r\n"),
    *(b"Host: here\r\n", b"Host: there\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Upgrade: x\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"5\nhello\r\n",
        b" ",
        b":",
        b"\x00",
    ),
    *(b"hello", b"ffffffffffff\r\n", b";a=b\r\n", b"A: b\r\n", b" folded\r\n", b"\xff\xfe", b"\x16\x03\x01"),
]
mess = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=12).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=6)
short = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(a for a in at if a < len(data))})
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


async def told(data: list[bytes]) -> tuple[list[Any], list[int], bool]:
    """What the handler was asked, what the client was answered, and whether the connection ended."""
    asked: list[Any] = []

    async def handler(request: Request) -> Response:
        # Entered when the body is whole, so that a refused request counts as not executed.
        body = await request.read()
        asked.append((request.method, request.path, dict(request.query), request.headers, body))
        return Response(body=body, media_type="text/plain")

    limits = Limits(header_bytes=2000, body_bytes=1000)
    server = HttpServer(handler, limits=limits, server_name="t", malformed=malformed)
    client = Client(server)
    for piece in data:
        if client.closed:
            break
        client.protocol.data_received(piece)
        await settled(60)
    if not client.transport.closing:
        await client.end()
    methods = [a[0] for a in asked]
    sent, closed = client.sent, client.closed
    await server.close(0.0)
    assert server.open_connections == 0 and len(asyncio.all_tasks()) == 1
    # What was refused is one more at most. HEAD's refusal has no body, so both readings are tried.
    try:
        found = read_answers(sent, (*methods, "GET"), closed)
    except h11.RemoteProtocolError:
        found = read_answers(sent, (*methods, "HEAD"), closed)
    assert [a.status for a in found[: len(asked)]] == [200] * len(asked)
    assert all(400 <= a.status < 600 for a in found[len(asked) :]) and len(found) <= len(asked) + 1
    return asked, [a.status for a in found], closed


def check(data: bytes, at: list[int], caplog: pytest.LogCaptureFixture) -> None:
    whole = asyncio.run(told([data]))
    assert asyncio.run(told(pieces(data, at))) == whole
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@settings(short, suppress_health_check=[*HealthCheck])
@given(mess, cuts)
def test_any_bytes_however_cut(caplog: pytest.LogCaptureFixture, data: bytes, at: list[int]):
    check(data, at, caplog)


@settings(short, suppress_health_check=[*HealthCheck])
@given(st.sampled_from(PIECES[:4]), st.integers(0, 200), st.binary(min_size=1, max_size=3), cuts)
def test_a_good_request_with_a_scratch(caplog, good: bytes, place: int, scratch: bytes, at: list[int]):
    """And with a second behind it, which must be understood only if the first was."""
    place = min(place, len(good))
    check(good[:place] + scratch + good[place:] + GET, at, caplog)
    check(good[:place] + scratch + good[place + len(scratch) :] + GET, at, caplog)


@pytest.mark.long
@settings(suppress_health_check=[*HealthCheck])
@given(mess, cuts)
def test_any_bytes_for_long(caplog: pytest.LogCaptureFixture, data: bytes, at: list[int]):
    check(data, at, caplog)


@pytest.mark.parametrize("at", range(len(GET + chunked(b"/b", b"hel", b"lo"))))
def test_good_requests_cut_anywhere(at: int, caplog: pytest.LogCaptureFixture):
    check(GET + chunked(b"/b", b"hel", b"lo") + GET, [at], caplog)
