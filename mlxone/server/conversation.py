"""What is said on one connection: requests taken off it with h11, answers put onto it, one after another.

A handler runs in the connection's own task. It is cancelled when the client goes away, resets, or does not
read, and when the server's grace is over. A client that only ends its own side (`printf ... | nc`) is still
answered where the answer is at hand: a safe method's within two seconds, any other's if it is made without
waiting. Whatever else is being made then, a stream above all, is given up at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator

import h11

from mlxone.core.errors import MlxoneError, ShuttingDown
from mlxone.server import reply
from mlxone.server.body import Incoming
from mlxone.server.compress import packed
from mlxone.server.connection import Common, Connection
from mlxone.server.errors import HttpError, TooSlow
from mlxone.server.gate import HeadGate, framing, malformed
from mlxone.server.messages import ENDING, Handler, Headers, Request, Response
from mlxone.server.refusals import Refusals, new_id
from mlxone.server.target import read_target

log = logging.getLogger(__name__)

_SAFE = (b"GET", b"HEAD", b"OPTIONS")
_AT_HAND = 2.0  # seconds in which their answers are there
_BREATHER = 32  # chunks of a stream that never waits, before others get their turn
_id = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Conversation:
    __slots__ = (
        *("_common", "_gate", "_handler", "_name", "_protocol", "_refusals", "_wire"),
        *("_bodiless", "_id"),
    )

    def __init__(
        self, wire: Connection, common: Common, handler: Handler, name: bytes, refusals: Refusals
    ) -> None:
        limits = common.limits
        self._wire = wire
        self._common = common
        self._handler = handler
        self._name = name
        self._refusals = refusals
        self._gate = HeadGate(limits.header_bytes)
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._id = ""  # of the present request
        self._bodiless = False  # its answer has only a head

    async def run(self) -> bool:
        """Until the connection's end. True: the client may still be sending."""
        try:
            while (asked := await self._next()) is not None:
                if not await self._exchange(asked):
                    return self._protocol.their_state is h11.SEND_BODY or bool(self._wire.inbox)
                self._protocol.start_next_cycle()
                self._wire.next_request()
                if self._wire.out.full:
                    # A client that asks much and reads nothing gets no further answers made.
                    await self._wire.out.drain()
                elif self._wire.inbox:
                    await asyncio.sleep(0)  # nor does one that sends much at once have the loop for itself
            return False
        except HttpError as error:
            self._refuse(error)
            return True

    async def _next(self) -> h11.Request | None:
        """The next request's head; None where there is none."""
        wire = self._wire
        if self._common.stopping:
            return None
        self._id, self._bodiless = "", False
        wire.idle = True
        wire.allow(self._common.limits.idle_seconds)
        begun = False
        while (head := self._gate.take(wire.inbox)) is None:
            if wire.ended and wire.inbox:
                raise HttpError("the request ended before its headers did")
            if wire.ended:
                return None
            if wire.inbox and not begun:
                begun = True
                wire.allow(self._common.limits.read_seconds)  # for all of it, however it dribbles in
            try:
                await wire.more()
            except TooSlow:
                if begun:
                    raise
                return None
        wire.idle = False
        self._protocol.receive_data(head)
        try:
            asked = self._protocol.next_event()
        except h11.RemoteProtocolError as error:
            raise malformed(error) from None
        assert type(asked) is h11.Request
        return asked

    async def _exchange(self, asked: h11.Request) -> bool:
        """One request and its answer. Whether another may follow."""
        headers = tuple(asked.headers)
        self._id, self._bodiless = _id_of(headers), asked.method == b"HEAD"
        body = Incoming(self._wire, self._protocol, framing(asked), self._common)
        try:
            request = self._request(asked, headers, body)
            self._wire.watch(_AT_HAND if asked.method in _SAFE else 0)
            return await self._answer(request, body)
        finally:
            body.release()

    async def _answer(self, request: Request, body: Incoming) -> bool:
        response = await self._ask(request)
        try:
            return await self._deliver(response, request, body)
        finally:
            self._wire.watch(math.inf)
            await _release(response)

    def _request(self, asked: h11.Request, headers: Headers, body: Incoming) -> Request:
        method = asked.method.decode("ascii")
        path, query = read_target(method, asked.target.decode("ascii"))
        return Request(method, path, query, headers, self._id, self._wire.peer, body.read)

    async def _ask(self, request: Request) -> Response:
        """The handler's answer, or one in its place."""
        try:
            return await self._handler(request)
        except HttpError as error:
            return self._failure(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if not task.cancelling():  # by nobody out here: the handler let go something that it waited for
                return self._bug(request)
            if self._wire.gone or not self._common.stopping:
                raise
            # By the server's end, not by the client's: there is somebody to tell.
            task.uncancel()
            return self._failure(ShuttingDown(ENDING))
        except Exception:  # noqa: BLE001  the boundary of one request; it is logged
            return self._bug(request)

    def _bug(self, request: Request) -> Response:
        log.exception("request %s failed", request.id)
        return self._failure(MlxoneError("an internal error; the server's log says more"))

    def _failure(self, error: MlxoneError) -> Response:
        return self._refusals.response(error, self._id)

    async def _deliver(self, response: Response, request: Request, body: Incoming) -> bool:
        if self._wire.gone:
            return False
        streams = not isinstance(response.body, bytes)
        self._wire.watch(0 if streams else math.inf)
        if not streams:
            response = await packed(response, request.header(b"accept-encoding"))
        elif self._wire.ended:
            return False
        keep = body.over() and not self._common.stopping
        head, response = self._head(response, request, close=not keep)
        await self._send(head, response)
        if keep:
            await body.skip()
        return self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE

    def _head(self, response: Response, request: Request, close: bool) -> tuple[bytes, Response]:
        """Head bytes and the response they are of: another one if the handler's cannot be said in HTTP."""
        try:
            said = reply.head(response, self._name, request.id, close)
        except (ValueError, h11.LocalProtocolError):
            log.exception("request %s was answered with headers that cannot be sent", request.id)
            response = self._failure(MlxoneError("an internal error; the server's log says more"))
            said = reply.head(response, self._name, request.id, close)
        return self._protocol.send(said), response

    async def _send(self, head: bytes, response: Response) -> None:
        if self._bodiless or response.status in reply.BODILESS:
            self._wire.out.write(head + self._protocol.send(h11.EndOfMessage()))
        elif isinstance(response.body, bytes):
            await self._send_whole(head, response.body)
        else:
            self._wire.out.write(head)
            await self._send_stream(response.body)

    async def _send_whole(self, head: bytes, body: bytes) -> None:
        """A small answer in one write; a large one in pieces, the next when there is room for it."""
        out, size = self._wire.out, self._common.limits.unsent_bytes
        if len(body) <= size:
            data = self._protocol.send(h11.Data(data=body))
            out.write(head + data + self._protocol.send(h11.EndOfMessage()))
            return
        out.write(head)
        for start in range(0, len(body), size):
            out.write(self._protocol.send(h11.Data(data=body[start : start + size])))
            if out.full:
                await out.drain()
        self._protocol.send(h11.EndOfMessage())

    async def _send_stream(self, chunks: AsyncIterator[bytes]) -> None:
        """If it breaks off, so does the connection: the client has to see that it did not get all."""
        try:
            if await self._send_chunks(chunks):
                self._wire.out.write(self._protocol.send(h11.EndOfMessage()))
        except Exception:  # the boundary of one request
            log.exception("the stream of request %s broke off", self._id)

    async def _send_chunks(self, chunks: AsyncIterator[bytes]) -> bool:
        out = self._wire.out
        count = 0
        async for chunk in chunks:
            if self._wire.gone:  # it was told, and went on
                return False
            out.write(self._protocol.send(h11.Data(data=chunk)))
            count += 1
            if out.full:
                await out.drain()
            elif count % _BREATHER == 0:
                await asyncio.sleep(0)
        return not self._wire.gone

    def _refuse(self, error: HttpError) -> None:
        """What is no request, or came too slowly. Nothing can follow on this connection."""
        if self._wire.gone or self._protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        self._id = self._id or new_id()
        self._refusals.note(error, self._id, self._wire.peer)
        response = self._failure(error)
        self._wire.out.write(
            reply.last(self._protocol, response, self._name, self._id, bodiless=self._bodiless)
        )


def _id_of(headers: Headers) -> str:
    """The client's own, where it can be shown as it is."""
    for name, value in headers:
        if name == b"x-request-id" and _id.fullmatch(value):
            return value.decode("ascii")
    return new_id()


async def _release(response: Response) -> None:
    """Whatever happened to the client: its iterator is told that nobody listens any more."""
    close = getattr(response.body, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except Exception:  # the answer is over
        log.exception("the body of a response could not be closed")
