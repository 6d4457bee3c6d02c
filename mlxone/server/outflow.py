"""What waits for a client to take it: bounded, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Outflow:
    """Back-pressure of one connection.

    asyncio keeps what the kernel does not take. `full` says that this is more than the limit; whoever writes
    then waits in `drain`. `stalled` is asked from time to time and says that nothing was taken for too long.
    """

    __slots__ = ("_clock", "_queued", "_seconds", "_since", "_taken", "_transport", "_waiter", "full")

    def __init__(
        self, transport: asyncio.WriteTransport, limit: int, seconds: float, clock: Callable[[], float]
    ) -> None:
        transport.set_write_buffer_limits(high=limit)
        self._transport = transport
        self._seconds = seconds
        self._clock = clock
        self._queued = self._taken = 0  # bytes since the connection began
        self._since = 0.0  # when the client took something last, or had nothing to take
        self._waiter: asyncio.Future[None] | None = None
        self.full = False

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return  # its end is being told on another way
        if not self._transport.get_write_buffer_size():
            self._since = self._clock()
        self._queued += len(data)
        self._transport.write(data)

    async def drain(self) -> None:
        """Until there is room again. A connection that ends meanwhile cancels the task that waits here."""
        while self.full:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def pause(self) -> None:
        self.full = True

    def resume(self) -> None:
        self.full = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def empty(self) -> bool:
        return not self._transport.get_write_buffer_size()

    def stalled(self, now: float) -> bool:
        waiting = self._transport.get_write_buffer_size()
        taken = self._queued - waiting
        if not waiting or taken != self._taken:
            self._taken, self._since = taken, now
            return False
        return now - self._since >= self._seconds
