"""How busy this process and its GPU are, where that can be asked for next to nothing.

Not covered: the GPU on macOS, which tells only those with rights that a server should not have, and there
the memory of the process, of which only the peak is told cheaply.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NVML = "libnvidia-ml.so.1"  # what nvidia-smi asks, without starting it


@dataclass(frozen=True, slots=True)
class Load:
    """None is what cannot be read here."""

    cpu: float | None = None  # percent of one core
    resident_bytes: int | None = None
    gpu: int | None = None  # percent


class ProcessLoad:
    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_seconds: Callable[[], float] = lambda: _cpu_seconds(),
        gpu: Callable[[], int | None] | None = None,
    ) -> None:
        self._clock, self._cpu_seconds = clock, cpu_seconds
        self._gpu = gpu_percent() if gpu is None else gpu
        self._last = clock(), cpu_seconds()

    def read(self) -> Load:
        """Of the time since the last look."""
        now, used = self._clock(), self._cpu_seconds()
        then, used_then = self._last
        self._last = now, used
        cpu = 100 * (used - used_then) / (now - then) if now > then else None
        return Load(cpu, resident_bytes(), self._gpu())


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int | None:
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def gpu_percent(library: str = NVML) -> Callable[[], int | None]:
    """A question that answers None for ever where there is no such GPU."""
    if sys.platform != "linux":
        return _unknown
    try:
        nvml = ctypes.CDLL(library)
        handle = ctypes.c_void_p()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
            return _unknown
    except (OSError, AttributeError):
        return _unknown

    def ask() -> int | None:
        percents = (ctypes.c_uint * 2)()  # of the GPU, of its memory's bandwidth
        return None if nvml.nvmlDeviceGetUtilizationRates(handle, percents) else percents[0]

    return ask


def _unknown() -> None:
    return None


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
