"""Requests and answers one after another: what is asked reaches the handler, what it says the client."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import threading

import pytest

from mlxone.server import compress
from mlxone.server.compress import accepts_gzip
from mlxone.server.errors import NoSuchRoute
from mlxone.server.messages import Response
from tests.server.http.rig import GET, Answer, Client, Clock, Desk, chunked, post, run, settled

HEAD = b"HEAD /health HTTP/1.1\r\nHost: here\r\n\r\n"
FIVE = {
    "length": post(b"/echo", b"hello"),
    "chunks": chunked(b"/echo", b"hel", b"lo"),
    "one-byte chunks": chunked(b"/echo", b"h", b"e", b"l", b"l", b"o"),
    "an answered Expect": post(b"/echo", b"hello", b"Expect: 100-continue"),
}


@pytest.mark.parametrize("manner", ["whole", "bytewise", "followed"])
@pytest.mark.parametrize("data", FIVE.values(), ids=FIVE)
def test_a_body_is_the_same_however_it_comes(data: bytes, manner: str):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(data + (GET if manner == "followed" else b""), bytewise=manner == "bytewise")
        answers = client.answers("POST")
        assert answers[0].body == b"hello"
        assert [a.status for a in answers] == [200] * (2 if manner == "followed" else 1)
        assert not client.closed

    run(scenario)


def test_a_request_is_told_as_it_was_asked():
    async def scenario(server, desk: Desk, clock: Clock):
        await Client(server).send(
            b"GET /v1/models/org%2Fname%20%C3%A9/x?a=1&b=x%26y+z&a=2&c&&=d HTTP/1.1\r\n"
            b"HOST: here\r\nX-Twice: 1\r\nx-twice: \xe9 \r\n\r\n"
        )
        (request,) = desk.asked
        assert (request.method, request.path) == ("GET", "/v1/models/org/name é/x")
        assert request.query == {"a": "1,2", "b": "x&y z", "c": "", "": "d"}
        assert request.headers == ((b"host", b"here"), (b"x-twice", b"1"), (b"x-twice", b"\xe9"))
        assert request.peer == "10.0.0.7"

    run(scenario)


def test_a_client_of_a_path_is_called_unix():
    async def scenario(server, desk: Desk, clock: Clock):
        await Client(server, peername="").send(GET)
        assert desk.asked[0].peer == "unix"

    run(scenario)


def test_what_every_answer_says():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(GET)
        (answer,) = client.answers()
        date = answer.headers.pop("date")
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)
        assert re.fullmatch("[0-9a-f]{16}", answer.headers.pop("x-request-id"))
        assert answer.headers == {
            "server": "mlxone-test",
            "content-type": "application/json",
            "content-length": "11",
        }
        assert len(client.transport.writes) == 1  # head and body together

    run(scenario)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"Abc-1.2_3", True),
        (b"x" * 64, True),
        (b"x" * 65, False),
        (b"a b", False),
        (b"a;b", False),
        (b"", False),
        (b"\xe9", False),
    ],
)
def test_a_well_formed_request_id_is_the_clients(given: bytes, kept: bool):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(b"GET / HTTP/1.1\r\nHost: here\r\nX-Request-Id: " + given + b"\r\n\r\n")
        (answer,) = client.answers()
        assert answer.headers["x-request-id"] == desk.asked[0].id
        assert (desk.asked[0].id == given.decode("latin-1")) is kept
        assert desk.asked[0].id

    run(scenario)


def test_made_ids_differ():
    async def scenario(server, desk: Desk, clock: Clock):
        await Client(server).send(GET * 50)
        assert len({r.id for r in desk.asked}) == 50

    run(scenario)


def test_pipelined_requests_are_answered_in_order_and_one_at_a_time():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(
            b"GET /wait/1 HTTP/1.1\r\nHost: here\r\n\r\n"
            + post(b"/echo", b"second")
            + chunked(b"/echo", b"3")
        )
        assert [r.path for r in desk.asked] == ["/wait/1"]
        desk.gate.set()
        await settled()
        assert [a.body for a in client.answers()] == [b'{"waited":true}', b"second", b"3"]

    run(scenario)


def test_what_is_pipelined_meanwhile_is_bounded():
    """Were reading paused for it instead, nobody would notice that the client left."""

    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(b"GET /wait HTTP/1.1\r\nHost: here\r\n\r\n")
        room = GET * (1024 // len(GET))
        await client.send(room)
        assert not client.transport.reading_paused and desk.cancelled == []
        await client.send(GET)
        assert client.transport.aborted and desk.cancelled == ["/wait"]

    run(scenario, header_bytes=1024)


@pytest.mark.parametrize("form", [post, chunked])
def test_what_came_with_the_request_does_not_hide_that_its_client_left(form):
    async def scenario(server, desk: Desk, clock: Clock):
        desk.answers["/read"] = read_and_wait(desk)
        client = Client(server)
        await client.send(form(b"/read", b"{}") + GET * 100)
        assert desk.bodies == [b"{}"] and not client.transport.reading_paused
        await client.end()
        assert desk.cancelled == ["/read"]

    run(scenario, header_bytes=1024)


def read_and_wait(desk: Desk):
    async def answer(request):
        desk.bodies.append(await request.read())
        return await desk.wait(request)

    return answer


def test_who_sends_much_at_once_is_still_answered_if_nothing_waits():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await settled()
        client.protocol.data_received(GET * 100)
        await settled(2)
        assert client.transport.reading_paused  # between two requests nobody has to be watched
        await settled(400)
        assert len(client.answers()) == 100 and not client.transport.reading_paused

    run(scenario, header_bytes=1024)


def test_many_pipelined_requests_leave_others_their_turn():
    async def scenario(server, desk: Desk, clock: Clock):
        greedy, other = Client(server), Client(server)
        await settled()
        greedy.protocol.data_received(GET * 1000)
        await other.send(GET)
        assert len(other.answers()) == 1
        assert len(greedy.answers()) < 500
        await settled(2000)
        assert len(greedy.answers()) == 1000

    run(scenario)


def test_head_is_get_without_its_body():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(HEAD + GET)
        first, second = client.answers("HEAD")
        assert (first.body, second.body) == (b"", b'{"ok":true}')
        assert first.headers["content-length"] == second.headers["content-length"] == "11"
        assert [r.method for r in desk.asked] == ["HEAD", "GET"]

    run(scenario)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_malformed_head_request_gets_no_body_either(version: str):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(f"HEAD /%zz HTTP/{version}\r\nHost: here\r\nX-Request-Id: mine\r\n\r\n".encode())
        (answer,) = client.answers("HEAD")
        assert answer.status == 400 and answer.body == b"" and int(answer.headers["content-length"]) > 20
        assert answer.headers["x-request-id"] == "mine"
        assert client.closed

    run(scenario)


def test_head_of_a_stream_closes_its_iterator():
    async def scenario(server, desk: Desk, clock: Clock):
        closed = asyncio.Event()

        class Chunks:
            def __aiter__(self):
                return self

            async def __anext__(self):
                raise AssertionError("nobody asked for a body")

            async def aclose(self):
                closed.set()

        async def answer(request):
            return Response(body=Chunks())

        desk.answers["/chunks"] = answer
        client = Client(server)
        await client.send(HEAD.replace(b"/health", b"/chunks") + GET)
        assert closed.is_set()
        assert [a.body for a in client.answers("HEAD")] == [b"", b'{"ok":true}']

    run(scenario)


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: here\r\nConnection: keep-alive\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: here\r\nConnection: x, CLOSE\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", False),
    ],
)
def test_the_connection_stays_unless_the_client_says_otherwise(head: bytes, stays: bool):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(head + b"\r\n")
        (answer,) = client.answers()
        assert client.closed is not stays
        assert answer.headers.get("connection") == (None if stays else "close")
        assert client.sent.startswith(b"HTTP/1.1 200 OK\r\n")

    run(scenario)


def test_an_upgrade_that_is_not_taken_changes_nothing():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        head = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
        await client.send(head + GET)
        assert [a.status for a in client.answers()] == [200, 200]

    run(scenario)


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(status: int):
    async def scenario(server, desk: Desk, clock: Clock):
        async def empty(request):
            return Response(status=status)

        desk.answers["/empty"] = empty
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/empty") + GET)
        first, second = client.answers()
        assert first.status == status and second.status == 200
        assert not {"content-length", "transfer-encoding", "content-type"} & set(first.headers)

    run(scenario)


# Handlers that go wrong.


def test_a_bug_is_a_500_in_the_log_and_the_connection_goes_on(caplog: pytest.LogCaptureFixture):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/bug") + GET)
        first, second = client.answers()
        assert first.status == 500 and second.status == 200
        assert "ZeroDivision" not in first.body.decode() and "a bug" not in first.body.decode()
        assert first.json["error"]["code"] == "internal"
        (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert first.headers["x-request-id"] in record.getMessage()

    run(scenario)


def test_a_cancellation_that_nobody_asked_for_is_a_bug_too(caplog: pytest.LogCaptureFixture):
    async def scenario(server, desk: Desk, clock: Clock):
        async def careless(request):
            dropped = asyncio.get_running_loop().create_future()
            dropped.cancel()
            return await dropped

        desk.answers["/careless"] = careless
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/careless") + GET)
        assert [a.status for a in client.answers()] == [500, 200]

    run(scenario)


def test_an_error_of_http_is_answered_as_what_it_is():
    async def scenario(server, desk: Desk, clock: Clock):
        async def nothing(request):
            raise NoSuchRoute("no such place")

        desk.answers["/nothing"] = nothing
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/nothing"))
        (answer,) = client.answers()
        assert answer.status == 404 and answer.json["error"]["message"] == "no such place"

    run(scenario)


INJECTIONS = [
    [("x-a", "b\r\nset-cookie: c")],
    [("x-a", "b\nc")],
    [("x-a", "b\rc")],
    [("x-a", "b\x00c")],
    [("x-a\r\nb", "c")],
    [("x a", "b")],
    [("", "b")],
    [("x-a", "\u2028")],
    [("é", "b")],
    [("content-length", "3")],
    [("Transfer-Encoding", "chunked")],
    [("connection", "keep-alive")],
]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("headers", INJECTIONS)
def test_headers_that_would_break_the_message_are_never_sent(headers, streams: bool, caplog):
    async def scenario(server, desk: Desk, clock: Clock):
        async def answer(request):
            body = desk._chunks(request) if streams else b"{}"
            return Response(body=body, headers=list(headers))

        desk.answers["/inject"] = answer
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/inject") + GET)
        first, second = client.answers()
        assert first.status == 500 and second.status == 200
        assert not set(first.headers) & {"x-a", "set-cookie"}
        assert "cannot be sent" in caplog.text

    run(scenario)


def test_a_media_type_cannot_inject_either(caplog: pytest.LogCaptureFixture):
    async def scenario(server, desk: Desk, clock: Clock):
        async def answer(request):
            return Response(body=b"", media_type="text/plain\r\nx-a: b")

        desk.answers["/inject"] = answer
        client = Client(server)
        await client.send(GET.replace(b"/health", b"/inject"))
        assert client.answers()[0].status == 500

    run(scenario)


# Compression.

LARGE = json.dumps({"data": list(range(1000))}).encode()


def packed(accepts: bytes | None, response: Response) -> Answer:
    found: list[Answer] = []

    async def scenario(server, desk: Desk, clock: Clock):
        async def answer(request):
            return response

        desk.answers["/large"] = answer
        client = Client(server)
        header = b"" if accepts is None else b"Accept-Encoding: " + accepts + b"\r\n"
        await client.send(b"GET /large HTTP/1.1\r\nHost: here\r\n" + header + b"\r\n")
        while not client.sent:
            await asyncio.sleep(0.001)  # a thread is at work
        found.extend(client.answers())

    run(scenario)
    return found[0]


@pytest.mark.parametrize("size", [3_000, 1_000_000])
def test_large_json_is_compressed_when_asked(size: int):
    body = b'"%s"' % (b"abc" * (size // 3))
    answer = packed(b"br, gzip", Response(body=body))
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "accept-encoding"
    assert len(answer.body) < size / 10
    assert gzip.decompress(answer.body) == body


@pytest.mark.parametrize(("size", "aside"), [(3_000, False), (1_000_000, True)])
def test_what_takes_long_to_compress_is_compressed_aside(monkeypatch, size: int, aside: bool):
    threads = []

    def observed(body: bytes) -> bytes:
        threads.append(threading.get_ident())
        return b""

    monkeypatch.setattr(compress, "_gzip", observed)
    packed(b"gzip", Response(body=b"x" * size))
    assert [thread != threading.get_ident() for thread in threads] == [aside]


def test_a_response_that_is_used_again_is_not_changed():
    response = Response(body=LARGE, headers=[("Vary", "origin")])
    assert packed(b"gzip", response).headers["vary"] == "origin, accept-encoding"
    assert response == Response(body=LARGE, headers=[("Vary", "origin")])


@pytest.mark.parametrize("accepts", [None, b"", b"br", b"identity", b"gzip;q=0", b"*;q=0"])
def test_otherwise_it_is_not_but_caches_are_told(accepts: bytes | None):
    answer = packed(accepts, Response(body=LARGE))
    assert answer.body == LARGE
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize(
    "response",
    [
        Response(body=b"[]"),
        Response(body=LARGE, media_type="text/html"),
        Response(body=LARGE, headers=[("Content-Encoding", "br")]),
    ],
)
def test_some_answers_are_never_compressed(response: Response):
    body = response.body
    answer = packed(b"gzip", response)
    assert answer.body == body and "vary" not in answer.headers


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip ; q=1.000", True),
        ("x-gzip", True),
        ("*", True),
        ("*;q=0.1", True),
        ("gzip;q=0, *", False),
        ("gzip;q=0.0", False),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("gzip;q=2", False),
        ("gzip;q=x", False),
        ("gzip;level=9", False),
        ("gzippy", False),
        (",,", False),
    ],
)
def test_what_accept_encoding_says(header: str, wanted: bool):
    assert accepts_gzip(header) is wanted
