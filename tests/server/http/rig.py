"""The real server without a network: a transport that remembers, a clock that is set by hand.

Requests are byte literals. Answers are read back by h11 in the client's role.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import h11

from mlxone.core.errors import MlxoneError
from mlxone.server.connection import Connection
from mlxone.server.http import HttpServer
from mlxone.server.limits import Limits
from mlxone.server.messages import Request, Response


def malformed(error: MlxoneError, request_id: str) -> bytes:
    said = {"message": str(error), "code": error.code, "request_id": request_id}
    return json.dumps({"error": said}).encode()


GET = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"


class Transport(asyncio.Transport):
    """Takes what is written. `stuck` is a client that reads nothing."""

    def __init__(self, protocol: asyncio.Protocol, peername: Any = ("10.0.0.7", 4000)) -> None:
        super().__init__({"peername": peername})
        self.protocol = protocol
        self.sent = bytearray()
        self.writes: list[bytes] = []
        self.waiting = 0  # bytes that the client did not take
        self.high = 65_536
        self.stuck = self.reading_paused = self.closing = self.aborted = self.eof_written = False
        self.lost = asyncio.get_running_loop().create_future()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "written after closing"
        self.writes.append(bytes(data))
        if not self.stuck:
            self.sent += data
            return
        before, self.waiting = self.waiting, self.waiting + len(data)
        if before <= self.high < self.waiting:
            self.protocol.pause_writing()

    def take(self, count: int) -> None:
        """The client reads some of what waits."""
        before, self.waiting = self.waiting, self.waiting - count
        if before > self.high >= self.waiting:
            self.protocol.resume_writing()

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof_written = True

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False

    def close(self) -> None:
        if not self.waiting:
            self._lose(None)
        self.closing = True

    def abort(self) -> None:
        self.aborted = True
        self.closing = False
        self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self.closing and not self.lost.done():
            self.closing = True
            self.lost.set_result(None)
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)

    def reset(self) -> None:
        self._lose(ConnectionResetError("the client is gone"))


class Client:
    """One client of the server, at the end of such a transport."""

    def __init__(self, server: HttpServer, peername: Any = ("10.0.0.7", 4000)) -> None:
        self.protocol: Connection = server.connection()
        self.transport = Transport(self.protocol, peername)
        self.protocol.connection_made(self.transport)

    async def send(self, data: bytes, *, bytewise: bool = False) -> None:
        for piece in [data[i : i + 1] for i in range(len(data))] if bytewise else [data]:
            if self.transport.closing:
                return
            self.protocol.data_received(piece)
            await settled(3 if bytewise else 40)
        await settled()

    async def end(self) -> None:
        """Close the sending side only."""
        if not self.protocol.eof_received():
            self.transport.close()
        await settled()

    async def reset(self) -> None:
        self.transport.reset()
        await settled()

    @property
    def sent(self) -> bytes:
        return bytes(self.transport.sent)

    @property
    def closed(self) -> bool:
        """Nothing more can come: closed, or ended while the rest of the client's bytes is thrown away."""
        return self.transport.closing or self.transport.eof_written

    def answers(self, *methods: str) -> list[Answer]:
        return read_answers(self.sent, methods, self.closed)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_answers(data: bytes, methods: tuple[str, ...] = (), closed: bool = False) -> list[Answer]:
    """All answers in these bytes. A byte that does not belong to one is a failure."""
    found: list[Answer] = []
    while data:
        client = h11.Connection(h11.CLIENT)
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        answer = _read_one(client, closed)
        if answer is None:
            break
        found.append(answer)
        data, _ = client.trailing_data
    return found


def _read_one(client: h11.Connection, closed: bool) -> Answer | None:
    answer: Answer | None = None
    while True:
        event = client.next_event()
        if isinstance(event, h11.InformationalResponse):
            continue
        if isinstance(event, h11.Response):
            pairs = [(n.decode(), v.decode("latin-1")) for n, v in event.headers]
            assert len(dict(pairs)) == len(pairs), f"a header is given twice: {pairs}"
            answer = Answer(event.status_code, dict(pairs), b"")
        elif isinstance(event, h11.Data):
            answer.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return answer
        elif event is h11.NEED_DATA and closed and client.their_http_version is not None:
            try:
                client.receive_data(b"")
                event = client.next_event()
            except h11.RemoteProtocolError:
                event = None
            if answer is not None:
                answer.whole = isinstance(event, h11.EndOfMessage)
            return answer
        else:
            return answer


async def settled(turns: int = 40) -> None:
    """Let everything run that can run without anything new happening."""
    for _ in range(turns):
        await asyncio.sleep(0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A handler that remembers what it was asked, and answers what the path says."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.bodies: list[bytes] = []
        self.cancelled: list[str] = []
        self.closed: list[str] = []
        self.made = 0  # chunks
        self.refused: list[int] = []  # statuses that the loop counted
        self.gate: asyncio.Event | None = None
        self.answers: dict[str, Callable[[Request], Awaitable[Response]]] = {}

    async def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        if (answer := self.answers.get(request.path)) is not None:
            return await answer(request)
        return await getattr(self, request.path.strip("/").split("/")[0] or "health", self.health)(request)

    async def health(self, request: Request) -> Response:
        return Response(body=b'{"ok":true}')

    async def echo(self, request: Request) -> Response:
        self.bodies.append(await request.read())
        return Response(body=self.bodies[-1], media_type="text/plain")

    async def bug(self, request: Request) -> Response:
        raise ZeroDivisionError("a bug")

    async def wait(self, request: Request) -> Response:
        """Until the test opens the gate."""
        self.gate = self.gate or asyncio.Event()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request.path)
            raise
        return Response(body=b'{"waited":true}')

    async def stream(self, request: Request) -> Response:
        return Response(body=self._chunks(request), media_type="text/event-stream")

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        """`?count=3&wait=1`: so many chunks, and after each, or none, a wait for the gate."""
        self.gate = self.gate or asyncio.Event()
        size = int(request.query.get("size", "5"))
        try:
            for number in range(int(request.query.get("count", "3"))):
                self.made += 1
                yield b"%d" % (number % 10) * size
                if "wait" in request.query:
                    await self.gate.wait()
        finally:
            self.closed.append(request.path)


def run(scenario: Callable[..., Awaitable[None]], **limits: Any) -> None:
    """A scenario gets a server, its desk and its clock; afterwards nothing may be left of any connection."""

    async def whole() -> None:
        desk, clock = Desk(), Clock()
        server = HttpServer(
            desk,
            limits=Limits(**limits),
            server_name="mlxone-test",
            malformed=malformed,
            refused=desk.refused.append,
            clock=clock,
        )
        async with asyncio.timeout(60):  # a hang is a failure like any other
            await scenario(server, desk, clock)
            await server.close(0.0)
        assert server.open_connections == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(whole())


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = (b"POST " + path + b" HTTP/1.1", b"Host: here", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join((*lines, b"", body))


def chunked(path: bytes, *chunks: bytes) -> bytes:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
