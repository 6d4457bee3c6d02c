"""The HTTP server: listens, gives each client a connection, and ends in good order.

Between asyncio's transports and h11 there is nothing but `connection` (bytes and patience), `gate` (what h11
would forgive) and `conversation` (one request after another). Routes and the API's errors are the handler's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable

import h11

from mlxone.server import listening, reply
from mlxone.server.connection import Common, Connection
from mlxone.server.conversation import Conversation
from mlxone.server.errors import TooManyConnections
from mlxone.server.limits import Limits
from mlxone.server.messages import Handler
from mlxone.server.refusals import Malformed, Refusals, new_id, uncounted

_BACKLOG = 1024
_LAST_WORDS = 1.0  # seconds for what was cancelled to say so
_FILES = 256  # that may be open beside connections
_COARSEST = 1.0  # seconds between two looks at everybody's patience


class HttpServer:
    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits,
        server_name: str,
        malformed: Malformed,
        refused: Callable[[int], None] = uncounted,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`malformed` says what the loop itself refuses, `refused` counts it by its status."""
        self._name = server_name.encode("latin-1")
        self._handler = handler
        self._refusals = Refusals(malformed, refused)
        self._common = Common(limits, self._too_many, clock)
        self._common.empty.set()
        self._listeners: list[asyncio.Server] = []
        self._addresses: list[str] = []
        self._paths: dict[str, tuple[int, int] | None] = {}
        self._tick: asyncio.TimerHandle | None = None

    async def listen(
        self,
        *,
        host: str | None = None,
        port: int = 0,
        uds: str | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        """On a host's addresses (this machine's own, if none is given), a path, or a bound socket."""
        if sock is not None:
            sockets = [sock]
        elif uds is not None:
            sockets = [listening.unix_socket(uds)]
            self._paths[uds] = listening.inode(uds)
        else:
            sockets = await listening.tcp_sockets(host or "127.0.0.1", port)
        listening.allow_open_files(_FILES + 2 * self._common.limits.connections)
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._addresses.append(listening.address(each))
            listener = await loop.create_server(
                self.connection, sock=each, backlog=_BACKLOG, start_serving=False
            )
            self._listeners.append(listener)  # known before it begins, so that no cancellation can lose it
            await listener.start_serving()
        if self._tick is None:
            self._look()

    @property
    def addresses(self) -> list[str]:
        """`http://127.0.0.1:8090`, `unix:/path`, as they were listened on."""
        return list(self._addresses)

    @property
    def open_connections(self) -> int:
        return len(self._common.connections)

    async def close(self, grace: float) -> None:
        """No new connections or requests; what is being made may be finished within so many seconds.

        Then it is cancelled: a handler that has not answered yet is answered for with 503. A stream that
        catches its CancelledError may still say its last words; any other breaks off, so that its client
        notices.
        Called again meanwhile, the shorter grace wins.
        """
        common = self._common
        common.stopping = True
        self._stop_listening()
        for connection in list(common.connections):
            connection.retire()
        if not await self._emptied(grace):
            for connection in list(common.connections):
                connection.stop()
            if not await self._emptied(_LAST_WORDS):
                for connection in list(common.connections):
                    connection.abort()
                await self._emptied(_LAST_WORDS)
        if self._tick is not None:
            self._tick.cancel()

    def connection(self) -> Connection:
        """The protocol of one more client; what asyncio asks for when somebody connects."""
        return Connection(self._common, self._talk)

    async def _talk(self, connection: Connection) -> bool:
        talk = Conversation(connection, self._common, self._handler, self._name, self._refusals)
        return await talk.run()

    def _too_many(self, peer: str) -> bytes:
        error = TooManyConnections("too many connections", hint="close some, or try again later")
        id = new_id()
        self._refusals.note(error, id, peer)
        response = self._refusals.response(error, id)
        return reply.last(h11.Connection(h11.SERVER), response, self._name, id)

    def _look(self) -> None:
        """One timer for all connections: arming one for each request would cost more than it is worth."""
        now = self._common.clock()
        for connection in list(self._common.connections):
            connection.check(now)
        limits = self._common.limits
        shortest = min(limits.idle_seconds, limits.read_seconds, limits.write_seconds)
        pause = max(0.01, min(_COARSEST, shortest / 4))
        self._tick = asyncio.get_running_loop().call_later(pause, self._look)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        for path, inode in self._paths.items():
            # Another server may have put its own there meanwhile.
            if inode is not None and listening.inode(path) == inode:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self._listeners, self._paths = [], {}

    async def _emptied(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._common.empty.wait(), seconds)
        return not self._common.connections
