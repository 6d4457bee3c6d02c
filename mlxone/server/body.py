"""A request's body, taken from the connection when the handler asks for it, and never more than may be."""

from __future__ import annotations

import asyncio
import math

import h11

from mlxone.server.connection import Common, Connection
from mlxone.server.errors import HttpError, TooLarge, TooManyBodies
from mlxone.server.gate import Chunked, Counted, malformed

_SKIP = 65_536  # of a body that nobody reads: a longer one is not worth keeping the connection for


class Incoming:
    __slots__ = (
        *("_common", "_data", "_error", "_gate", "_held", "_limit", "_patience", "_protocol", "_size"),
        *("_wire", "complete"),
    )

    def __init__(
        self, wire: Connection, protocol: h11.Connection, gate: Counted | Chunked, common: Common
    ) -> None:
        self._wire = wire
        self._protocol = protocol
        self._gate = gate
        self._common = common
        self._limit = common.limits.body_bytes
        self._patience = common.limits.read_seconds
        self._data: bytearray | bytes | None = bytearray()  # None: nobody will read it
        self._size = 0
        self._held = 0  # bytes, as the server counts those of all bodies
        self._error: HttpError | None = None
        self.complete = False
        if gate.left == 0:
            self._collect()

    async def read(self) -> bytes:
        if self._data is None:
            raise RuntimeError("the body of a request that is answered cannot be read any more")
        if not self.complete:
            await self._take()
        self._data = bytes(self._data)
        return self._data

    def over(self) -> bool:
        """Nobody will read it from here on. Whether another request may follow on the connection."""
        self.release()
        self._limit = self._size + _SKIP
        if self.complete:
            return True
        if self._error is not None or self._awaits_leave:
            return False
        try:
            self._advance()
        except HttpError:
            return False
        return self.complete or (self._gate.left is not None and self._gate.left <= _SKIP)

    def release(self) -> None:
        self._data = None
        self._common.body_bytes -= self._held
        self._held = 0

    async def skip(self) -> None:
        """The rest that nobody read, if `over` found it small."""
        await self._take()

    async def _take(self) -> None:
        if self._error is not None:
            raise self._error
        after_end = self._wire.after_end
        self._wire.watch(math.inf)  # a client that ends when it has sent all is as it should be
        try:
            await self._take_all()
        except HttpError as error:
            self._error = error
            raise
        finally:
            self._wire.watch(after_end)

    async def _take_all(self) -> None:
        self._check(self._gate.left or 0)
        if self._awaits_leave and not self.complete:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._wire.out.write(self._protocol.send(go_on))
        while not self.complete:
            if self._advance():
                if not self.complete:
                    await asyncio.sleep(0)  # others have requests too
            elif self._wire.ended:
                raise HttpError("the request ended before its body did")
            else:
                self._wire.allow(self._patience)
                await self._wire.more()

    @property
    def _awaits_leave(self) -> bool:
        """The client said `Expect: 100-continue`, and does wait for it."""
        return self._protocol.they_are_waiting_for_100_continue and not self._wire.inbox

    def _advance(self) -> bool:
        """Go through what has come, or a good part of it. Whether there was anything."""
        piece = self._gate.admit(self._wire.inbox)
        if piece:
            self._protocol.receive_data(piece)
            self._collect()
        return bool(piece)

    def _collect(self) -> None:
        try:
            while True:
                event = self._protocol.next_event()
                if type(event) is h11.Data:
                    self._check(len(event.data))
                    self._size += len(event.data)
                    if self._data is not None:
                        self._hold(len(event.data))
                        self._data += event.data
                elif type(event) is h11.EndOfMessage:
                    self.complete = True
                    self._wire.all_came()
                    return
                else:
                    return
        except h11.RemoteProtocolError as error:
            raise malformed(error) from None

    def _hold(self, coming: int) -> None:
        common = self._common
        if common.body_bytes + coming > common.limits.all_body_bytes:
            raise TooManyBodies("too many large requests are being read at once", hint="try again later")
        self._held += coming
        common.body_bytes += coming

    def _check(self, coming: int) -> None:
        if self._size + coming > self._limit:
            raise TooLarge(
                f"a request body of more than {self._limit} bytes",
                hint="send less, or have the server's operator raise the limit",
                details={"limit_bytes": self._limit},
            )
