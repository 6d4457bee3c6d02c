"""An App without sockets: requests as values, responses read to their end as the HTTP loop would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlxone.server.app import App
from mlxone.server.exchange import Pace, Phase, Watched
from mlxone.server.guard import Guard
from mlxone.server.messages import Request, Response
from tests.fakes import FakeContext

JSON_TYPE = {"content-type": "application/json"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
SLOW = Pace(3600.0, 3600.0)  # no keep-alive comes by itself in a test


def request(
    method: str,
    path: str,
    body: Any = b"",
    headers: Mapping[str, str] | None = None,
    *,
    query: Mapping[str, str] | None = None,
    id: str = "req-1",
) -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"host": "127.0.0.1:8090", **(JSON_TYPE if data else {}), **(headers or {})}

    async def read() -> bytes:
        return data

    pairs = tuple((name.encode(), value.encode("latin-1")) for name, value in given.items() if value)
    return Request(method, path, dict(query or {}), pairs, id, "127.0.0.1", read)


def app(
    context: FakeContext | None = None, *, guard: Guard | None = None, pace: Pace = SLOW, phase: Phase = "ok"
) -> App:
    made = App(context or FakeContext(), guard=guard, pace=pace)
    made.enter(phase)
    return made


@dataclass
class Answer:
    status: int
    body: bytes
    media_type: str
    headers: dict[str, str]
    pieces: list[bytes]  # as they would be sent

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json()["error"]

    @property
    def chunks(self) -> list[Any]:
        """The JSON of a stream's events, without comments and the last `[DONE]`."""
        return [json.loads(data) for data in self.data if data != "[DONE]"]

    @property
    def data(self) -> list[str]:
        return events(self.body)


def events(body: bytes) -> list[str]:
    """What an event stream's reader is given: strict about form, comments passed over."""
    assert body == b"" or body.endswith(b"\n\n")
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        assert block.startswith((":", "data: ")) and "\n" not in block
        if not block.startswith(":"):
            found.append(block.removeprefix("data: "))
    return found


async def whole(response: Response) -> Answer:
    pieces = [piece async for piece in chunks(response)]
    return Answer(response.status, b"".join(pieces), response.media_type, dict(response.headers), pieces)


async def chunks(response: Response) -> AsyncIterator[bytes]:
    if isinstance(response.body, bytes):
        yield response.body
        return
    try:
        async for piece in response.body:
            assert piece
            yield piece
    finally:
        await response.body.aclose()  # type: ignore[attr-defined]


async def stream(server: App, *args: Any, **more: Any) -> Watched:
    """The body of a streamed response, not yet begun."""
    body = (await server(request(*args, **more))).body
    assert isinstance(body, Watched)
    return body


async def ask_async(server: App, *args: Any, **more: Any) -> Answer:
    async with asyncio.timeout(60):  # a hang is a failure like any other
        return await whole(await server(request(*args, **more)))


def ask(server: App, *args: Any, **more: Any) -> Answer:
    return asyncio.run(ask_async(server, *args, **more))
