"""The reader's end of a request: events of all its answers, numbered, and the right to stop them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from mlxone.core.errors import TimedOut
from mlxone.core.words import Event, Failed
from mlxone.service.mailbox import Mailbox
from mlxone.service.worker import Job, Worker

SOON = 0.01  # seconds: a timer is never set for less


class Answers:
    """The events of all answers to one request, numbered; each ends in one terminal event.

    Leaving early (`aclose`, or the context manager) cancels within one step.
    """

    model: str  # the id of the model that answers

    def __init__(
        self,
        model: str,
        mail: Mailbox,
        jobs: Sequence[Job],
        worker: Worker,
        *,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self._mail, self._jobs, self._worker = mail, jobs, worker
        self._timeout, self._clock = timeout, clock
        self._timer: asyncio.TimerHandle | None = None
        self._watch(timeout)

    def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        taken = await self._mail.take()
        if taken is None:
            self._forget_timer()
            raise StopAsyncIteration
        return taken

    async def aclose(self) -> None:
        self._forget_timer()
        if self.is_open:
            self._mail.close()
            self._worker.wake()

    async def __aenter__(self) -> Answers:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def is_open(self) -> bool:
        """Whether any of them has not ended."""
        return any(job.wanted for job in self._jobs)

    def fail(self, error: Exception) -> None:
        """Ends whatever has not ended, from outside."""
        self._mail.fail(error)
        self._worker.wake()

    def look_at_the_clock(self) -> None:
        """Ends an answer whose step takes longer than the operator allows."""
        if self._timeout is None:
            return
        now, next_look = self._clock(), self._timeout
        for job in self._jobs:
            left = job.time_left(now, self._timeout)
            if left > 0:
                next_look = min(next_look, left)
            else:
                late = TimedOut(f"no new token for {self._timeout:g} s", hint="try again, or ask for less")
                self._mail.put(job.number, Failed(late))
        self._worker.wake()
        self._watch(next_look)

    def _watch(self, seconds: float | None) -> None:
        self._forget_timer()
        if seconds is not None and self.is_open:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(SOON, seconds), self.look_at_the_clock)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
