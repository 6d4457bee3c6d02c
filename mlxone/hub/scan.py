"""Walks a source's folders, reading only those that are not as they were. Knows no database."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mlxone.hub.entry import Entry
from mlxone.hub.sources import Source
from mlxone.hub.stamps import Place, current

MOST_FOLDERS = 50_000  # of one source


@dataclass(frozen=True, slots=True)
class ScanReport:
    found: int  # models on disk, every revision
    read: int  # of them, read anew
    removed: int  # known before and not there any more
    seconds: float
    entries: tuple[Entry, ...] = ()  # what was found


def walk(
    source: Source, known: Mapping[str, Place], *, full: bool, complain: Callable[[str], None]
) -> Iterator[tuple[Place, bool]]:
    """Every folder of the source, and whether it was looked at; from the top down."""
    waiting = deque([(str(source.folder), 0)])
    count = 0
    while waiting:
        folder, depth = waiting.popleft()
        if count == MOST_FOLDERS:
            complain(f"{source.folder} has more than {MOST_FOLDERS:,} folders: the rest was passed by")
            return
        count += 1
        held = None if full else known.get(folder)
        if held is None or not held.stamp or current(folder, held.watches) != held.stamp:
            yield (place := _looked_at(source, folder, depth)), True
        else:
            place = held
            yield place, False
        waiting.extend((f"{folder}/{name}", depth + 1) for name in place.children)


def _looked_at(source: Source, folder: str, depth: int) -> Place:
    from mlxone.hub.contents import look  # with all that reads models: mostly nothing has changed

    return look(source, folder, depth)
