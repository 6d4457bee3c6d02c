"""Which adapters a model has, and which of them a wish means; as values, without a single weight.

A server keeps this for as long as it runs, its models come and go: what was mounted on one is read anew
when the model is. Read from every thread, changed by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxone.core.amounts import first_of
from mlxone.core.errors import AdapterMismatch, AdapterNotFound, UsageError

BASE = "none"  # the wish for the model as it is
AND = "+"
MOST = 16  # adapters that one wish may name
SHOWN = 60  # of an id that is none
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Wish = str | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class MountedAdapter:
    """What anybody may know of a mounted adapter."""

    id: str
    path: str  # as whoever mounted it wrote it; of a server's operator in full
    rank: int  # the largest; 0 for whole weights
    scale: float
    size_bytes: int
    mounted_layers: int  # linears and norms that it changes


@dataclass(frozen=True, slots=True)
class Mount:
    card: MountedAdapter
    folder: Path
    print: str  # another one for other files
    changes: Mapping[str, str]  # by path of the linear or norm: the kind of change
    memory_bytes: int  # what it takes beside the base; of whole weights more than the file may hold
    working_bytes: int = 0  # and besides while it computes, as no other does at the same time

    @property
    def id(self) -> str:
        return self.card.id


class Mounts:
    def __init__(self) -> None:
        self._held: Mapping[str, Mount] = {}
        self.default: str | None = None  # what a request gets that names none; None is the base

    @property
    def all(self) -> tuple[Mount, ...]:
        """In the order they were mounted."""
        return tuple(self._held.values())

    @property
    def cards(self) -> tuple[MountedAdapter, ...]:
        return tuple(mount.card for mount in self.all)

    @property
    def memory_bytes(self) -> int:
        return memory_of(self.all)

    def add(self, mount: Mount) -> None:
        self.check_free(mount.id)
        self._held = {**self._held, mount.id: mount}

    def remove(self, id: str) -> Mount:
        found = self.get(id)
        self._held = {name: mount for name, mount in self._held.items() if name != id}
        if self.default is not None and id in ids_of(self.default):
            self.default = None
        return found

    def get(self, id: str) -> Mount:
        if id not in self._held:
            raise self._missing(id)
        return self._held[id]

    def check_free(self, id: str) -> None:
        """Whether that may be the id of one more."""
        check_id(id)
        if id in self._held:
            raise UsageError(
                f"an adapter {id!r} is mounted already",
                hint="unmount it first, or choose another id",
                param="id",
            )

    def chosen(self, wish: Wish) -> tuple[Mount, ...]:
        """The mounts that a wish names, in its order, all of which can work together."""
        found = tuple(self.get(id) for id in ids_of(wish))
        _check_together(found)
        return found

    def _missing(self, id: str) -> AdapterNotFound:
        shown = id if len(id) <= SHOWN else f"{id[:SHOWN]}…"
        there = f"mounted: {first_of(sorted(self._held))}" if self._held else "none is mounted"
        return AdapterNotFound(f"no adapter {shown!r} is mounted", hint=there, param="adapter")


def memory_of(mounts: Sequence[Mount]) -> int:
    return sum(each.memory_bytes for each in mounts) + max((each.working_bytes for each in mounts), default=0)


def ids_of(wish: Wish) -> tuple[str, ...]:
    """`"a+b"`, `("a", "b")`; no wish at all, an empty one and `"none"` are the base."""
    if wish is None or wish == "" or wish == BASE:
        return ()
    parts = tuple(wish.split(AND)) if isinstance(wish, str) else tuple(wish)
    if not all(isinstance(part, str) for part in parts):
        raise _wrong("an adapter is named by its id, a text")
    if len(parts) > MOST:
        raise _wrong(f"{len(parts)} adapters are named; {MOST} may be")
    for place, part in enumerate(parts):
        if part == BASE:
            raise _wrong(f"{BASE!r} means the model without adapters, and stands alone")
        if not part:
            raise _wrong(f"an adapter's id is missing beside a {AND}")
        if part in parts[:place]:
            raise _wrong(f"adapter {part[:SHOWN]!r} is named twice")
    return parts


def check_id(id: str) -> None:
    if not isinstance(id, str) or not _ID.fullmatch(id) or id.lower() == BASE:
        raise UsageError(
            f"an adapter cannot be called {str(id)[:SHOWN]!r}",
            hint=f"letters, digits, . _ and -, at most 64, the first a letter or digit; not {BASE!r}",
            param="id",
        )


def _check_together(mounts: Iterable[Mount]) -> None:
    """Low-rank changes add up; of a DoRA and of a whole weight a linear can only have one."""
    owners: dict[str, list[Mount]] = {}
    for mount in mounts:
        for path in mount.changes:
            owners.setdefault(path, []).append(mount)
    for path, own in owners.items():
        kinds = [mount.changes[path] for mount in own]
        if len(own) > 1 and ("Replaced" in kinds or kinds.count("Dora") > 1):
            names = " and ".join(mount.id for mount in own)
            raise AdapterMismatch(
                f"adapters {names} cannot work together: both say all of {path}",
                hint="choose one of them",
                param="adapter",
            )


def _wrong(what: str) -> UsageError:
    return UsageError(what, hint='adapter is "id", "a+b" or "none"', param="adapter")
