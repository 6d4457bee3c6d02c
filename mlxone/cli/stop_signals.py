"""Ctrl-C and SIGTERM for a server: the first asks it to stop, the second ends it where it stands."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from mlxone.cli.failures import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def die(number: int) -> None:
    """At once, whatever threads are busy with, and so that whoever waits for us sees why."""
    if number == signal.SIGINT:
        os._exit(INTERRUPTED)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class StopSignals:
    """`exit_code` is what a clean stop ends with: 0, and after Ctrl-C what it always means."""

    def __init__(self, insist: Callable[[int], None] = die) -> None:
        self.told = asyncio.Event()
        self.exit_code = 0
        self._insist = insist

    def __enter__(self) -> StopSignals:
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._come, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            self._loop.remove_signal_handler(number)

    def _come(self, number: int) -> None:
        if self.told.is_set():
            self._insist(number)
        self.exit_code = INTERRUPTED if number == signal.SIGINT else 0
        self.told.set()

    async def unless_told(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether the work was done; it is given up as soon as the first signal comes."""
        working, telling = asyncio.create_task(work), asyncio.create_task(self.told.wait())
        try:
            await asyncio.wait({working, telling}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            telling.cancel()
            if not working.done():
                working.cancel()
        if self.told.is_set() and not working.done():
            await asyncio.wait({working})
        if working.cancelled():
            return False
        working.result()
        return True
