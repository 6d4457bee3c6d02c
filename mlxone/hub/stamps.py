"""How a scan knows that a folder is as it was: the times, sizes and numbers of what it watches."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from mlxone.hub.entry import Entry

# A file system's clock ticks in steps, of two seconds at worst: a change right after the look may
# leave no trace in the time. So what is younger than this is looked at once more.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """One folder as it was when it was looked at."""

    path: str
    stamp: str  # empty: look again next time, whatever the times say
    watches: tuple[str, ...] = ()  # names below it, the empty one for itself
    children: tuple[str, ...] = ()  # folders to look into
    entries: tuple[Entry, ...] = ()


def current(folder: str, watches: Iterable[str]) -> str:
    """What `stamp` would say now, young or not."""
    marks = []
    for name in watches:
        try:
            found = os.stat(f"{folder}/{name}")
        except (OSError, ValueError):
            marks.append("-")
        else:
            marks.append(f"{found.st_mtime_ns} {found.st_size} {found.st_ino}")
    return ",".join(marks)


def stamp(folder: str, watches: Iterable[str], certain: bool = True) -> str:
    watches = tuple(watches)
    marks = current(folder, watches)
    return marks if certain and _has_settled(marks) else ""


def _has_settled(marks: str) -> bool:
    now = time.time_ns()
    times = (int(mark.partition(" ")[0]) for mark in marks.split(",") if mark != "-")
    return all(abs(now - then) >= SETTLED_NS for then in times)
