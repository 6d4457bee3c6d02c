"""One client's connection: bytes in, bytes out, patience. It knows no HTTP.

asyncio calls a Protocol at once when bytes, an end or a reset come, so no task has to sit and watch for them.
One task lives as long as the connection and runs the talk on it. Whatever ends the connection cancels that
task, and with it the handler that it is in.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from mlxone.server.errors import TooSlow
from mlxone.server.limits import Limits
from mlxone.server.messages import ENDING
from mlxone.server.outflow import Outflow

log = logging.getLogger(__name__)

# A client that is still sending has to be let finish, or the reset would take our last answer from it.
LINGER_SECONDS = 5.0
_LINGER_BODIES = 4  # as many times the largest body are thrown away meanwhile


@dataclass(slots=True)
class Common:
    """What all connections of a server share."""

    limits: Limits
    too_many: Callable[[str], bytes]  # the whole answer to a peer's connection beyond the limit
    clock: Callable[[], float] = time.monotonic
    connections: set[Connection] = field(default_factory=set)
    refused: set[Connection] = field(default_factory=set)  # those of them that are only being told so
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    body_bytes: int = 0  # that came, of all connections, and are not answered yet


Talk = Callable[["Connection"], Coroutine[Any, Any, bool]]
"""Runs on a connection until nothing more is to be said. True: the client may still be sending."""


class Connection(asyncio.Protocol):
    __slots__ = (
        *("_all_came", "_common", "_discard", "_lost", "_room", "_talk", "_task", "_transport", "_waiter"),
        *("after_end", "deadline", "ended", "gone", "idle", "inbox", "out", "peer"),
    )

    def __init__(self, common: Common, talk: Talk) -> None:
        self._common = common
        self._talk = talk
        self._room = common.limits.header_bytes  # a head always fits; bodies are taken as they come
        self._discard: int | None = None  # how many more bytes to throw away, once all is said
        self._lost = False
        self._all_came = False  # of the present request: what comes is of another one
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.inbox = bytearray()  # came, and was not looked at
        self.deadline = math.inf  # for what `more` waits for
        self.ended = False  # the client sends nothing more
        self.gone = False  # nobody is left to answer
        self.idle = True  # between two requests, and may be closed
        self.after_end = math.inf  # seconds that what is being made may go on when the client ended its side

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        limits = self._common.limits
        self.out = Outflow(self._transport, limits.unsent_bytes, limits.write_seconds, self._common.clock)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else "unix"
        common = self._common
        common.connections.add(self)
        common.empty.clear()
        served = len(common.connections) - len(common.refused)
        if served <= limits.connections and not common.stopping:
            self._task = asyncio.get_running_loop().create_task(self._live())
        elif len(common.refused) < limits.connections and not common.stopping:
            common.refused.add(self)
            self.out.write(common.too_many(self.peer))
            self._linger()
        else:
            self._transport.abort()  # not even a refusal may cost without limit

    def data_received(self, data: bytes) -> None:
        if self._discard is not None:
            self._discard -= len(data)
            if self._discard < 0:
                self._transport.abort()
            return
        self.inbox += data
        if len(self.inbox) > self._room:
            if self._all_came:
                self.abort()  # were reading paused now, nobody would notice that the client left
                return
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.ended = True
        if self._discard is not None:
            return False  # closes
        self._notice_end()
        return True  # there may be answers to send

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.leave()
        if self._task is None or self._task.done():
            self._depart()

    def pause_writing(self) -> None:
        self.out.pause()

    def resume_writing(self) -> None:
        self.out.resume()

    # The talk calls these.

    async def more(self) -> None:
        """Until something came, or the client's end; past the deadline a TooSlow."""
        if len(self.inbox) <= self._room:
            self._transport.resume_reading()
        if self.ended:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def all_came(self) -> None:
        """Of the present request. From here on only the client's end is waited for, so reading goes on."""
        self._all_came = True
        self._transport.resume_reading()

    def next_request(self) -> None:
        self._all_came = False
        if len(self.inbox) > self._room:
            self._transport.pause_reading()

    def allow(self, seconds: float) -> None:
        self.deadline = self._common.clock() + seconds

    def watch(self, seconds: float) -> None:
        """What is made from here on may go on for so long when the client ends its side."""
        self.after_end = seconds
        if self.ended and seconds:
            self.allow(seconds)
        elif self.ended:
            # It did already. What is made without waiting is there before this comes.
            asyncio.get_running_loop().call_soon(self._notice_end)

    # The server calls these.

    def check(self, now: float) -> None:
        """Patience has its limits; called every now and then."""
        if self.out.stalled(now):
            self.abort()
        elif now >= self.deadline:
            if self._discard is not None:
                self._transport.abort()
            elif self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(TooSlow("the request did not come in time"))
            elif self.ended and self.after_end < math.inf:
                self.leave()

    def retire(self) -> None:
        """No further requests. Whoever is in the middle of one goes on."""
        if self._task is None or self._task.done():
            if self.out.empty:
                self._transport.close()
        elif self.idle:
            self._transport.close()
            self._task.cancel()

    def stop(self) -> None:
        """The time to finish is over: what is being made is cancelled, and may say so."""
        if self._task is None or self._task.done():
            self._transport.abort()
        elif not self.gone:
            self._task.cancel(ENDING)

    def abort(self) -> None:
        self._transport.abort()
        self.leave()

    def leave(self) -> None:
        """Nobody wants anything more. Said once: a second cancellation would cut off the cleaning up."""
        if not self.gone and self._task is not None:
            self._task.cancel()
        self.gone = True

    # Between themselves.

    def _notice_end(self) -> None:
        if self._waiter is not None:
            self._wake()
        elif not self.after_end:
            self.leave()
        else:
            self.allow(self.after_end)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _live(self) -> None:
        sending = False
        try:
            sending = await self._talk(self)
        except Exception:  # one connection's bug is not the server's end
            log.exception("a connection of %s failed", self.peer)
        finally:
            self._close(sending)

    def _close(self, sending: bool) -> None:
        self.inbox.clear()
        if self._lost:
            self._depart()
        elif sending and not self.ended and not self.gone and not self._common.stopping:
            self._linger()
        else:
            self._transport.close()

    def _linger(self) -> None:
        self._discard = _LINGER_BODIES * self._common.limits.body_bytes
        self.idle = True
        self.allow(min(LINGER_SECONDS, self._common.limits.read_seconds))
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        self._transport.resume_reading()

    def _depart(self) -> None:
        self._common.connections.discard(self)
        self._common.refused.discard(self)
        if not self._common.connections:
            self._common.empty.set()
