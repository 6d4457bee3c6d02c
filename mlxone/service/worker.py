"""The one thread that does the models' work: answers in the order they came, a step at a time.

Whatever else needs MLX (loading, unloading, its figures) is a message that is read between two steps,
and so is a cancellation. The oldest answer that can go on goes on: one whose reader is behind is left
where it is until half of what waits for it was read, and one for which there is no memory yet until
something has ended. Knows nothing of models: an answer is a generator of events.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from mlxone.core.errors import MlxoneError, ShuttingDown
from mlxone.core.words import Event, Failed, Finished
from mlxone.service.mailbox import Mailbox

log = logging.getLogger(__name__)

OFTEN = 1.0  # seconds: how late chores may come while there is work, and a look at readers that are behind

T = TypeVar("T")
Events = Generator[Event, None, None]


class Turn(Protocol):
    """What an answer does when its turn comes; all of it on the worker's thread."""

    def begin(self) -> Events | None:
        """Its events, of which the first is asked for at once; None: there is no room yet."""

    def end(self) -> None:
        """Called once, after the events are closed, and also where it never began."""


class Job:
    """One answer on its way to its reader."""

    __slots__ = ("blocked", "events", "mail", "number", "since", "turn")

    def __init__(self, turn: Turn, mail: Mailbox, number: int) -> None:
        self.turn, self.mail, self.number = turn, mail, number
        self.events: Events | None = None  # None: it has not begun
        self.blocked = False  # there was no room when it was asked last
        self.since: float | None = None  # when the step it is in began

    @property
    def wanted(self) -> bool:
        return self.mail.is_open(self.number)

    def time_left(self, now: float, timeout: float) -> float:
        """Until it is overdue. Only a step takes time: neither its turn nor its reader counts."""
        since = self.since
        return timeout if since is None else since + timeout - now


class Worker:
    def __init__(
        self,
        *,
        chores: Callable[[], float | None] = lambda: None,
        last: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`chores` are done when nothing else is and now and then between two steps, and say in how
        many seconds there will be more. `last` is what the thread does before it ends, when nothing
        can be sent to it any more.

        The thread starts with the first message to it.
        """
        self._chores, self._last, self._clock = chores, last, clock
        self._chores_at = clock()  # when they were done last
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: list[Job] = []  # in the order they came
        self._drained: list[Future[None]] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # over being closed: nothing is sent to a thread that has left
        self._stopping = self._closed = False

    # For every thread -------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Answers that have begun, those whose readers are behind included."""
        return sum(job.events is not None for job in list(self._jobs))

    @property
    def waiting(self) -> int:
        return sum(job.events is None for job in list(self._jobs))

    @property
    def alive(self) -> bool:
        return self._thread is not None and not self._closed

    def submit(self, job: Job) -> None:
        """From now on it waits for its turn, also while a step takes long."""
        self._send(_nothing, job)

    def wake(self) -> None:
        """Something has changed that a waiting answer may have waited for."""
        self._tell(self._look_again)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Runs it on this thread, between two steps."""
        future: Future[T] = Future()
        self._send(partial(self._answer, future, work))
        return future

    def drained(self) -> Future[None]:
        """Done when no answer is left."""
        future: Future[None] = Future()
        self._send(partial(self._drained.append, future))
        return future

    def stop(self) -> None:
        """Ends what is left, and the thread; one that has not started never will.

        Calls that still wait are refused.
        """
        with self._lock:
            self._stopping = True
            self._closed = self._closed or self._thread is None
            self._inbox.put(_nothing)

    def join(self, timeout: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    def _send(self, message: Callable[[], None], job: Job | None = None) -> None:
        with self._lock:
            if self._closed:
                raise ShuttingDown("the models were put away")
            if self._thread is None:
                self._thread = threading.Thread(target=self._live, name="mlxone-models", daemon=True)
                self._thread.start()
            if job is not None:
                self._jobs.append(job)
            self._inbox.put(message)

    def _tell(self, message: Callable[[], None]) -> None:
        """As `_send`, where nobody minds that there is no thread."""
        with self._lock:
            if self._thread is not None and not self._closed:
                self._inbox.put(message)

    # Its own thread ---------------------------------------------------------------------

    def unblock(self) -> None:
        """Memory was given back."""
        for job in self._jobs:
            job.blocked = False

    def _live(self) -> None:
        try:
            while not self._stopping:
                job = self._next()
                if job is not None:
                    self._step(job)
                    if self._clock() - self._chores_at >= OFTEN:
                        self._do_chores()
                self._read(wait=job is None)
        finally:
            self._leave()

    def _next(self) -> Job | None:
        return next((job for job in self._jobs if not (job.blocked or job.mail.stalled)), None)

    def _step(self, job: Job) -> None:
        if not job.wanted:
            self._end(job)
            return
        job.since = self._clock()
        try:
            if job.events is None:
                job.events = job.turn.begin()
            if job.events is None:
                job.blocked = True
                return
            event = next(job.events)
        except StopIteration:
            event = Failed(MlxoneError("an answer ended without its last event"))
        except BaseException as error:  # noqa: BLE001 - the boundary of one step: its answer fails, the others go on
            event = Failed(_as_ours(error))
        finally:
            job.since = None
        if isinstance(event, Finished | Failed):
            self._end(job)  # first: whoever reads the last event finds everything in order
        if isinstance(event, Failed):
            _empty_frames(event.error)
        job.mail.put(job.number, event)

    def _end(self, job: Job) -> None:
        self._jobs.remove(job)
        try:
            try:
                if job.events is not None:
                    job.events.close()
            finally:
                job.turn.end()
        except BaseException as error:
            log.error("an answer did not end well", exc_info=error)
        job.events = None
        self.unblock()

    def _read(self, *, wait: bool) -> None:
        """All messages that are there. Without work to do, waits for one, or until there are chores."""
        if wait:
            self._settle_drained()
            soon = self._do_chores()
            if self._jobs:  # a reader may be gone without a word, and its loop with it
                soon = OFTEN if soon is None else min(soon, OFTEN)
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=soon)()
        while not self._inbox.empty():
            self._inbox.get()()

    def _do_chores(self) -> float | None:
        self._chores_at = self._clock()
        try:
            return self._chores()
        except Exception as error:
            log.error("tidying up failed", exc_info=error)
            return None

    def _look_again(self) -> None:
        self.unblock()
        for job in [job for job in self._jobs if not job.wanted]:
            self._end(job)

    def _settle_drained(self) -> None:
        while self._drained and not self._jobs:
            future = self._drained.pop()
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def _answer(self, future: Future[T], work: Callable[[], T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            if self._stopping:
                raise ShuttingDown("the models were put away")
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever called hears of it
            future.set_exception(error)

    def _leave(self) -> None:
        with self._lock:
            self._closed = True
        while not self._inbox.empty():  # calls that nobody else would refuse
            self._inbox.get()()
        for job in list(self._jobs):
            self._end(job)
            job.mail.put(job.number, Failed(ShuttingDown("the models were put away")))
        self._settle_drained()
        try:
            self._last()
        except BaseException as error:
            log.error("the models were not put away well", exc_info=error)


def _nothing() -> None: ...


def _empty_frames(error: BaseException) -> None:
    """Whoever keeps the error would keep the model and its states by what the frames it went through hold.

    Where it was raised stays to be read.
    """
    left, seen = list[BaseException | None]([error]), set[int]()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            left += [one.__cause__, one.__context__]


def _as_ours(error: BaseException) -> Exception:
    if isinstance(error, MlxoneError):
        return error
    ours = MlxoneError(f"an answer failed: {type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours
