"""What is not quite HTTP: refused with the right status, the connection closed, nothing after it executed.

Each case is fed whole, byte by byte, and with a good request behind it that must never be run.
"""

from __future__ import annotations

import logging

import pytest

from tests.server.http.rig import GET, Client, Clock, Desk, run

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: here\r\n\r\n"


def get(line: bytes = b"GET / HTTP/1.1", *headers: bytes) -> bytes:
    return b"\r\n".join((line, *(headers or (b"Host: here",)), b"", b""))


def upload(*headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /echo HTTP/1.1", b"Host: here", *headers, b"", body))


CHUNKED = b"Transfer-Encoding: chunked"

MALFORMED: dict[str, tuple[int, bytes]] = {
    # The request line.
    "TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n"),
    "a version to come": (400, get(b"GET / HTTP/1.2")),
    "no version": (400, get(b"GET / HTTP")),
    "lower case http": (400, get(b"GET / http/1.1")),
    "two blanks": (400, get(b"GET  / HTTP/1.1")),
    "a tab": (400, get(b"GET\t/ HTTP/1.1")),
    "blank in the target": (400, get(b"GET /a b HTTP/1.1")),
    "blank at the line's end": (400, get(b"GET / HTTP/1.1 ")),
    "blank before": (400, get(b" GET / HTTP/1.1")),
    "bytes in the target": (400, get(b"GET /\xc3\xa9 HTTP/1.1")),
    "NUL in the target": (400, get(b"GET /\x00 HTTP/1.1")),
    "a strange method": (400, get(b"G(T / HTTP/1.1")),
    "two empty lines first": (400, b"\r\n\r\n" + GET),
    "absolute form": (400, get(b"GET http://here/ HTTP/1.1")),
    "another's absolute form": (400, get(b"GET http://there/ HTTP/1.1")),
    "no slash": (400, get(b"GET health HTTP/1.1")),
    "star": (400, get(b"GET * HTTP/1.1")),
    "CONNECT": (400, get(b"CONNECT there:443 HTTP/1.1")),
    "CONNECT a path": (400, get(b"CONNECT / HTTP/1.1")),
    "fragment": (400, get(b"GET /a#b HTTP/1.1")),
    "stray percent": (400, get(b"GET /a%zz HTTP/1.1")),
    "half an escape": (400, get(b"GET /a%2 HTTP/1.1")),
    "no UTF-8": (400, get(b"GET /%ff HTTP/1.1")),
    "overlong UTF-8": (400, get(b"GET /%c0%af HTTP/1.1")),
    "a surrogate": (400, get(b"GET /%ed%a0%80 HTTP/1.1")),
    "escaped NUL": (400, get(b"GET /a%00b HTTP/1.1")),
    "escaped line end": (400, get(b"GET /a%0d%0ab HTTP/1.1")),
    "stray percent in the query": (400, get(b"GET /?a=%g1 HTTP/1.1")),
    # Line ends.
    "bare LF everywhere": (400, b"GET / HTTP/1.1\nHost: here\n\n"),
    "bare LF after the request line": (400, b"GET / HTTP/1.1\nHost: here\r\n\r\n"),
    "bare LF after a header": (400, get(b"GET / HTTP/1.1", b"Host: here\nX: y")),
    "bare LF as the empty line": (400, b"GET / HTTP/1.1\r\nHost: here\r\n\n"),
    "bare CR in a header": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X: a\rb")),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\nHost: here\r\r\n\r\n"),
    # Headers.
    "folded": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X: a", b" b")),
    "folded with a tab": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X: a", b"\tb")),
    "folded at once": (400, get(b"GET / HTTP/1.1", b" Host: here")),
    "NUL in a value": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X: a\x00b")),
    "escape in a value": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X: a\x1b[1mb")),
    "DEL in a value": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X: a\x7f")),
    "vertical tab": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X: \x0ba")),
    "blank before the colon": (400, get(b"GET / HTTP/1.1", b"Host : here")),
    "blank in a name": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X y: z")),
    "no name": (400, get(b"GET / HTTP/1.1", b"Host: here", b": z")),
    "no colon": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X")),
    "bytes in a name": (400, get(b"GET / HTTP/1.1", b"Host: here", b"X\xe9: z")),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, get(b"GET / HTTP/1.1", b"Host: here", b"Host: there")),
    "two hosts of an old client": (400, get(b"GET / HTTP/1.0", b"Host: here", b"Host: there")),
    "a list of hosts": (400, get(b"GET / HTTP/1.1", b"Host: here, there/x")),
    "a host with a path": (400, get(b"GET / HTTP/1.1", b"Host: here/x")),
    "a host with a user": (400, get(b"GET / HTTP/1.1", b"Host: me@here")),
    "a host with blanks": (400, get(b"GET / HTTP/1.1", b"Host: here there")),
    "a line too long": (431, get(b"GET /" + b"a" * 3000 + b" HTTP/1.1")),
    "a header too long": (431, get(b"GET / HTTP/1.1", b"Host: here", b"X: " + b"a" * 3000)),
    "a line without end": (431, b"G" * 3000),
    "too many headers": (431, get(b"GET / HTTP/1.1", b"Host: here", *[b"X:"] * 300)),
    # Lengths.
    "both lengths": (400, upload(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n")),
    "both lengths, turned": (400, upload(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n")),
    "two lengths": (400, upload(b"Content-Length: 5", b"Content-Length: 6", body=b"hello")),
    "a list of lengths": (400, upload(b"Content-Length: 5, 6", body=b"hello")),
    "a negative length": (400, upload(b"Content-Length: -5", body=b"hello")),
    "a signed length": (400, upload(b"Content-Length: +5", body=b"hello")),
    "a hex length": (400, upload(b"Content-Length: 0x5", body=b"hello")),
    "a length with a blank": (400, upload(b"Content-Length: 5 5", body=b"hello")),
    "a length of no digits": (400, upload(b"Content-Length: five", body=b"hello")),
    "an empty length": (400, upload(b"Content-Length:", body=b"hello")),
    "a length beyond counting": (400, upload(b"Content-Length: " + b"9" * 30, body=b"hello")),
    "chunks of an old client": (400, b"POST / HTTP/1.0\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n"),
    "a coding nobody knows": (501, upload(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "gzip, chunked": (501, upload(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "chunked, identity": (501, upload(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n")),
    "chunked twice": (501, upload(CHUNKED, CHUNKED, body=b"0\r\n\r\n")),
    "chunked before a vertical tab": (400, upload(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    # Chunks.
    "chunk: no digits": (400, upload(CHUNKED, body=b"x\r\nhello\r\n0\r\n\r\n")),
    "chunk: empty size": (400, upload(CHUNKED, body=b"\r\nhello\r\n0\r\n\r\n")),
    "chunk: 0x": (400, upload(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n")),
    "chunk: a sign": (400, upload(CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n")),
    "chunk: negative": (400, upload(CHUNKED, body=b"-5\r\nhello\r\n0\r\n\r\n")),
    "chunk: underscore": (400, upload(CHUNKED, body=b"0_5\r\nhello\r\n0\r\n\r\n")),
    "chunk: a blank before": (400, upload(CHUNKED, body=b" 5\r\nhello\r\n0\r\n\r\n")),
    "chunk: a blank behind": (400, upload(CHUNKED, body=b"5 \r\nhello\r\n0\r\n\r\n")),
    "chunk: too many digits": (400, upload(CHUNKED, body=b"0" * 17 + b"5\r\nhello\r\n0\r\n\r\n")),
    "chunk: bare LF": (400, upload(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n")),
    "chunk: bare LF behind the data": (400, upload(CHUNKED, body=b"5\r\nhello\n0\r\n\r\n")),
    "chunk: nothing behind the data": (400, upload(CHUNKED, body=b"5\r\nhello0\r\n\r\n")),
    "chunk: longer than it says": (400, upload(CHUNKED, body=b"5\r\nhello!\r\n0\r\n\r\n")),
    "chunk: a bare CR in an extension": (400, upload(CHUNKED, body=b"5;a\rb\r\nhello\r\n0\r\n\r\n")),
    "chunk: NUL in an extension": (400, upload(CHUNKED, body=b"5;a\x00\r\nhello\r\n0\r\n\r\n")),
    "chunk: a bare LF in an extension": (400, upload(CHUNKED, body=b"5;a\nb\r\nhello\r\n0\r\n\r\n")),
    "chunk: a line too long": (400, upload(CHUNKED, body=b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n")),
    "chunk: a line without end": (400, upload(CHUNKED, body=b"5" * 300)),
    "trailer: bare LF": (400, upload(CHUNKED, body=b"0\r\nA: b\n\n")),
    "trailer: bare LF inside": (400, upload(CHUNKED, body=b"0\r\nA: b\nC: d\r\n\r\n")),
    "trailer: folded": (400, upload(CHUNKED, body=b"0\r\nA: b\r\n c\r\n\r\n")),
    "trailer: NUL": (400, upload(CHUNKED, body=b"0\r\nA: \x00\r\n\r\n")),
    "trailer: no colon": (400, upload(CHUNKED, body=b"0\r\nA\r\n\r\n")),
    "trailer: too long": (431, upload(CHUNKED, body=b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n")),
}


@pytest.mark.parametrize("manner", ["whole", "bytewise", "followed"])
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused_and_ends_the_connection(name: str, manner: str):
    status, data = MALFORMED[name]

    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(data + (SMUGGLED if manner == "followed" else b""), bytewise=manner == "bytewise")
        (answer,) = client.answers("POST" if data.startswith(b"POST") else "GET")
        assert answer.status == status, answer.body
        assert answer.json["error"]["message"]
        assert answer.headers["connection"] == "close"
        assert answer.json["error"]["request_id"] == answer.headers["x-request-id"] != ""
        assert desk.refused == ([] if desk.asked else [status])  # a handler's own are its to count
        assert client.closed
        assert "/smuggled" not in [r.path for r in desk.asked]
        # Nothing that comes later is looked at either.
        if not client.transport.closing:
            client.protocol.data_received(SMUGGLED)
        assert client.answers()[1:] == []
        # The next client is served.
        other = Client(server)
        await other.send(GET)
        assert other.answers()[0].status == 200

    run(scenario, header_bytes=2048)


# Pairs that another reader would cut elsewhere. Whatever we make of the first, the second is none of ours.
PAIRS = {
    "CL.TE": b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n",
    "TE.CL": upload(CHUNKED, b"Content-Length: 4", body=b"2c\r\n"),
    "TE.TE": upload(CHUNKED, b"Transfer-Encoding: cow", body=b"0\r\n\r\n"),
    "CL.CL": upload(b"Content-Length: 0", b"Content-Length: 44"),
    "a hidden TE": upload(b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 44"),
    "a folded TE": upload(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 44"),
    "a TE with a blank": upload(b"Transfer-Encoding : chunked", b"Content-Length: 44"),
    "a chunk of LF": upload(CHUNKED, body=b"0\n\n"),
    "an extension": upload(CHUNKED, body=b"1;\n" + b"x" * 8 + b"\r\n"),
    "a length in chunks": upload(CHUNKED, body=b"5\r\nhello\rX0\r\n\r\n"),
    "NUL behind chunked": upload(b"Transfer-Encoding: chunked\x00", b"Content-Length: 44"),
}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("first", PAIRS.values(), ids=PAIRS)
def test_no_request_is_smuggled(first: bytes, bytewise: bool):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(first + SMUGGLED, bytewise=bytewise)
        assert "/smuggled" not in [r.path for r in desk.asked]
        assert [a.status // 100 for a in client.answers("POST")] in ([4], [5])
        assert client.closed

    run(scenario)


def test_the_body_of_a_get_is_no_request():
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        head = b"GET /health HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
        await client.send(head + SMUGGLED + GET)
        assert [r.path for r in desk.asked] == ["/health", "/health"]
        assert len(client.answers()) == 2

    run(scenario)


LENIENT = {
    "an empty line first": b"\r\n" + GET,
    "the same length twice": upload(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "any case": upload(b"TRANSFER-ENCODING: Chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "leading zeros": upload(CHUNKED, body=b"0005\r\nhello\r\n00\r\n\r\n"),
    "an extension": upload(CHUNKED, body=b"5;a=b\r\nhello\r\n0\r\n\r\n"),
    "a trailer": upload(CHUNKED, body=b"5\r\nhello\r\n0\r\nA: b\r\nC:\r\n\r\n"),
    "IPv6 host": get(b"GET / HTTP/1.1", b"Host: [::1]:8090"),
    "an empty host": get(b"GET / HTTP/1.1", b"Host:"),
    "blanks around a value": get(b"GET / HTTP/1.1", b"Host: \t here \t", b"X: \xe9 \x80"),
    "OPTIONS *": get(b"OPTIONS * HTTP/1.1"),
}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("data", LENIENT.values(), ids=LENIENT)
def test_what_the_standard_allows_is_taken(data: bytes, bytewise: bool):
    async def scenario(server, desk: Desk, clock: Clock):
        client = Client(server)
        await client.send(data + GET, bytewise=bytewise)
        assert [a.status for a in client.answers("POST")] == [200, 200]
        assert desk.bodies in ([], [b"hello"])
        assert not client.closed

    run(scenario)


def test_a_refusal_of_the_loop_is_one_line_with_the_clients_id(caplog: pytest.LogCaptureFixture):
    async def scenario(server, desk: Desk, clock: Clock):
        await Client(server).send(b"GET /%zz HTTP/1.1\r\nHost: here\r\nX-Request-Id: mine-7\r\n\r\n")

    with caplog.at_level(logging.INFO, "mlxone"):
        run(scenario)
    (record,) = caplog.records
    assert vars(record)["fields"] == {
        "id": "mine-7",
        "peer": "10.0.0.7",
        "status": 400,
        "error": "bad_request",
    }
    assert record.getMessage() == "mine-7 10.0.0.7 refused 400, bad_request"
    assert record.levelno == logging.INFO
