"""A few threads that do what they are handed, first come, first served.

Daemons, unlike those of the standard library's pools: a process that was told to stop does not wait
for a server that has gone silent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType

Task = Callable[[], None]


class Crew:
    def __init__(self, size: int) -> None:
        self._tasks: SimpleQueue[tuple[Task, Future[None]] | None] = SimpleQueue()
        self._size = size
        for _ in range(size):
            threading.Thread(target=self._work, daemon=True).start()

    def submit(self, task: Task) -> Future[None]:
        future: Future[None] = Future()
        self._tasks.put((task, future))
        return future

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was handed over before is still done, or refused by the tasks themselves."""
        for _ in range(self._size):
            self._tasks.put(None)

    def _work(self) -> None:
        while (order := self._tasks.get()) is not None:
            task, future = order
            try:
                task()
            except BaseException as e:  # noqa: BLE001 - whoever asked for it gets it
                future.set_exception(e)
            else:
                future.set_result(None)
            del task, future, order  # nothing is kept alive while waiting
