"""Ctrl-C and SIGTERM while a model trains: the first asks it to save and stop, the second ends it at once.

Armed with the first step: until then nothing is lost, and both do what they always do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from mlxone.cli.stop_signals import SIGNALS, die


class StopRequest:
    def __init__(self, told: Callable[[], object], insist: Callable[[int], None] = die) -> None:
        """`told` is called once, by whoever asks first whether to stop: a handler may not draw."""
        self.number: int | None = None
        self._told, self._insist = told, insist
        self._said = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def arm(self) -> None:
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._come) for number in SIGNALS}

    def __call__(self) -> bool:
        """Whether to stop."""
        if self.number is not None and not self._said:
            self._said = True
            self._told()
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """What a shell makes of a process that the signal ended."""
        return 0 if self.number is None else 128 + self.number

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            with contextlib.suppress(OSError):
                os.write(2, b"\n")  # the panel's last line stays whole
            self._insist(number)
        self.number = number
