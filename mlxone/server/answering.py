"""From a parsed call to a response, in any dialect: one body at the end, or a stream of pieces.

What refuses a request as a whole is raised before the response begins and becomes a proper status. Once
a stream has begun, a failure is the dialect's own event and the stream still ends as it should. Whoever
stops listening closes the answers, which cancels their work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from mlxone import __version__
from mlxone.core.errors import MlxoneError
from mlxone.core.words import Asked, Event, Failed, Finished, Progress
from mlxone.server.exchange import Exchange
from mlxone.server.messages import Response
from mlxone.server.protocols.dialect import About, Call, Streaming
from mlxone.service.context import Answers

log = logging.getLogger(__name__)

AHEAD = 256  # events that may wait for a slow client; the rest waits where it is made
# Proxies would otherwise collect a stream before they pass it on.
UNBUFFERED = [("cache-control", "no-cache"), ("x-accel-buffering", "no")]


async def respond(exchange: Exchange, call: Call) -> Response:
    exchange.ignores(call.ignored)
    answers = await exchange.shared.context.answer(call.asked)
    about = About(exchange.request.id, int(time.time()), answers.model, __version__)
    if call.streams:
        streaming = call.streaming(about)
        return Response(
            body=Stream(exchange, answers, streaming, call.asked),
            media_type=streaming.media_type,
            headers=[*UNBUFFERED],
        )
    collecting, due = call.collecting(about), answers_to(call.asked)
    async with answers:
        async for choice, event in answers:
            if isinstance(event, Failed):
                raise event.error
            collecting.event(choice, event)
            if isinstance(event, Finished):
                exchange.spend(event.stats, shares_prompt=choice % call.asked.choices > 0)
                due -= 1
    if due:
        raise cut_short()
    return Response(body=collecting.body())


def answers_to(asked: Asked) -> int:
    return len(asked.requests) * asked.choices


def cut_short() -> MlxoneError:
    return MlxoneError("an answer ended without its last event")


def told(error: BaseException, request_id: str) -> MlxoneError:
    """What a client may hear of a failure. What is no error of ours goes to the log, whole."""
    if isinstance(error, MlxoneError) and error.code != MlxoneError.code:
        if error.status in (500, 502, 507):  # the operator's to mend; the others are how a busy server is
            log.warning("%s: %s", request_id, error)
        return error
    log.error("%s: failed inside", request_id, exc_info=error)
    return error if isinstance(error, MlxoneError) else MlxoneError("failed inside")


class Stream:
    """The bytes of a stream: what is there at once is one piece, and silence is broken now and then.

    A task of its own reads the events, so that waiting for the next one can be given up at any time
    without disturbing it.
    """

    def __init__(self, exchange: Exchange, answers: Answers, streaming: Streaming, asked: Asked) -> None:
        self._exchange, self._streaming = exchange, streaming
        self._answers: Answers | None = answers  # None: closed
        self._choices, self._due = asked.choices, answers_to(asked)  # due: answers that have not ended yet
        self._events: deque[tuple[int, Event]] = deque()
        self._reader: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._waiting: asyncio.Future[bool] | None = None
        self._more_read = False  # of the prompt, than the client was told
        self._ended = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._reader is None and self._answers is not None:
            self._reader = asyncio.create_task(self._read(self._answers))
            if begun := self._streaming.begin():
                return begun
        sent = time.monotonic()
        while not (piece := self._take()) and not self._ended:
            if await self._news(sent + self._patience() - time.monotonic()):
                continue
            if alive := self._streaming.keep_alive():
                self._more_read = False
                return alive
            sent = time.monotonic()
        if self._ended:
            await self.aclose()  # nobody's work need wait until the last piece is sent
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._ended = True
        reader, self._reader = self._reader, None
        try:
            if reader is not None:
                reader.cancel()
                await asyncio.wait({reader})
                _ = reader.cancelled() or reader.exception()  # looked at, or asyncio would complain
        finally:
            answers, self._answers = self._answers, None
            if answers is not None:
                await answers.aclose()

    def _patience(self) -> float:
        pace = self._exchange.shared.pace
        return pace.progress if self._more_read else pace.quiet

    def _take(self) -> bytes:
        """What the events that are there have to say, and the end after the last of them."""
        pieces = []
        try:
            while self._events and not self._ended:
                pieces.append(self._say(*self._events.popleft()))
            if not self._ended and self._reader is not None and self._reader.done():
                self._check_end(self._reader)
        except Exception as error:  # noqa: BLE001  the response has begun: whatever it is, it ends in the dialect's words
            pieces.append(self._fail(error))
        self._room.set()
        return b"".join(pieces)

    def _say(self, choice: int, event: Event) -> bytes:
        if isinstance(event, Failed):
            return self._fail(event.error)
        said = self._streaming.event(choice, event)
        if isinstance(event, Progress):
            self._more_read = not said and event.done < event.total
        elif isinstance(event, Finished):
            self._exchange.spend(event.stats, shares_prompt=choice % self._choices > 0)
            self._due -= 1
            if not self._due:
                self._ended = True
                said += self._streaming.end()
        return said

    def _fail(self, error: BaseException) -> bytes:
        self._ended = True
        self._exchange.error = told(error, self._exchange.request.id)
        return self._streaming.fail(self._exchange.error)

    def _check_end(self, reader: asyncio.Task[None]) -> None:
        """No event is left and none will come, though an answer has not ended."""
        raise reader.exception() or cut_short()

    async def _read(self, answers: Answers) -> None:
        try:
            async for numbered in answers:
                self._events.append(numbered)
                self._wake(True)
                while len(self._events) >= AHEAD:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._wake(True)

    async def _news(self, seconds: float) -> bool:
        """Waits until something happened to the answers, or until the time is over: then False."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._wake, False)
        try:
            return await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def _wake(self, news: bool) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(news)
