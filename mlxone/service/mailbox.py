"""Events on their way from the thread that makes them to the event loop that reads them.

One mailbox for all the answers to one request. It holds so many events and no more; whoever fills it
asks `stalled` first. It also keeps the promise that an answer ends in exactly one terminal event: the
first one counts, whoever sends it, and nothing comes after it. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from mlxone.core.words import Event, Failed, Finished

BOUND = 256  # events; the terminal one of each answer may come on top


class Mailbox:
    def __init__(
        self,
        answers: int,
        *,
        bound: int = BOUND,
        room: Callable[[], None] = lambda: None,
        ended: Callable[[Event | None], None] = lambda event: None,
    ) -> None:
        """Made in the event loop that will read. `room` is called when a full one is half empty again.

        `ended` hears of each answer once, before its reader does: its terminal event, or None where
        nobody waited for it.
        """
        self._loop = asyncio.get_running_loop()
        self._bound, self._room, self._ended = bound, room, ended
        self._events: deque[tuple[int, Event]] = deque()
        self._open = set(range(answers))  # answers without their terminal event
        self._sleeper: asyncio.Future[None] | None = None
        self._lock = threading.Lock()
        self._full = False  # and not half empty since
        self.closed = False  # nobody reads any more

    # The side that makes events; any thread ----------------------------------------------

    @property
    def stalled(self) -> bool:
        """Its reader is behind. One whose loop was closed is not behind but gone: the next `put` tells."""
        return self._full and not self._loop.is_closed()

    def is_open(self, number: int) -> bool:
        return number in self._open

    def put(self, number: int, event: Event) -> bool:
        """False where that answer has ended already, or nobody reads."""
        with self._lock:
            if number not in self._open:
                return False
            if isinstance(event, Finished | Failed):
                self._open.discard(number)
                self._ended(event)
            self._events.append((number, event))
            self._full = self._full or len(self._events) >= self._bound
            sleeper, self._sleeper = self._sleeper, None
        if self._loop.is_closed() or (sleeper is not None and not self._call(sleeper)):
            self.close()
        return True

    def fail(self, error: Exception) -> None:
        """Ends all that have not ended."""
        for number in sorted(self._open):
            self.put(number, Failed(error))

    def close(self) -> None:
        """Nobody will read."""
        with self._lock:
            for _ in self._open:
                self._ended(None)
            self._open.clear()
            self.closed, self._full = True, False
            self._events.clear()
            sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            self._call(sleeper)

    def _call(self, sleeper: asyncio.Future[None]) -> bool:
        try:
            self._loop.call_soon_threadsafe(_wake, sleeper)
        except RuntimeError:  # the loop was closed, and its readers with it
            return False
        return True

    # The side that reads; the loop's thread -----------------------------------------------

    @property
    def held(self) -> int:
        return len(self._events)

    async def take(self) -> tuple[int, Event] | None:
        """The next event; None after the last one, or once it was closed."""
        while True:
            with self._lock:
                if self._events:
                    taken = self._events.popleft()
                    has_room = self._full and len(self._events) <= self._bound // 2
                    self._full = self._full and not has_room
                    break
                if not self._open:
                    return None
                sleeper = self._sleeper = self._sleeper or self._loop.create_future()
            # Shielded: a reader that gives up waiting must not take the others' wake-up with it.
            await asyncio.shield(sleeper)
        if has_room:
            self._room()
        return taken


def _wake(sleeper: asyncio.Future[None]) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        sleeper.set_result(None)
