"""Adapters on a loaded model: mounted and unmounted at any time, chosen by each request.

The base is never touched. What a request gets is another decoder over the same weights, made when it is
first chosen and kept while its adapters are mounted; whoever holds one goes on with it, whatever is
unmounted meanwhile. A mount is checked in full, and its weights are in memory, before anybody can choose
it. Knows nothing of budgets: who has one asks before `read` and before `add`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from mlxone.core.errors import AdapterMismatch
from mlxone.service.mounts import AND, Mount, MountedAdapter, Mounts, Wish, memory_of

if TYPE_CHECKING:
    from mlxone.backend.arrays import mx
    from mlxone.models.changes import Change, Changes
    from mlxone.models.decoder import Decoder
    from mlxone.service.model import Model

VIEWS = 16  # choices whose decoders are kept
WIDENED = 16  # bytes a weight: a DoRA's linear with what its norm is worked out from, as measured
# What may lie in an adapter's folder and decides what it computes; either name of the weights.
FILES = ("adapter_config.json", "adapters.safetensors", "adapter_model.safetensors")


@dataclass(eq=False)
class Part:
    """An adapter's weights; gone from memory with the last one who holds it."""

    mount: Mount
    changes: Changes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The decoder that a wish means. Other adapters or another order have another key; the base has none."""

    key: str
    decoder: Decoder
    parts: tuple[Part, ...] = ()


class AdapterManager:
    def __init__(self, model: Model, mounts: Mounts | None = None) -> None:
        """`mounts` may have been made with the same model before; they are read when they are chosen."""
        self._base = model.decoder
        self.mounts = mounts or Mounts()
        self._parts: dict[str, Part] = {}
        self._leaving: WeakSet[Part] = WeakSet()  # unmounted, and maybe still at work
        self._views: OrderedDict[str, Selection] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def mounted(self) -> tuple[MountedAdapter, ...]:
        return self.mounts.cards

    @property
    def memory_bytes(self) -> int:
        """Of all that are mounted, and of those that only an answer in flight still uses."""
        with self._lock:
            return memory_of(self._held())

    def more_with(self, part: Part) -> int:
        """Bytes beyond `memory_bytes` that it would take, were this one mounted, too."""
        with self._lock:
            held = self._held()
            return memory_of([*held, part.mount]) - memory_of(held)

    def _held(self) -> list[Mount]:
        return [*self.mounts.all, *(part.mount for part in self._leaving)]

    def mount(self, id: str, path: str | Path) -> MountedAdapter:
        with self._lock:
            self.add(self.read(id, path))
            return self.mounts.get(id).card

    def unmount(self, id: str) -> MountedAdapter:
        """Answers that use it go on with it; no other one can begin."""
        with self._lock:
            gone = self.mounts.remove(id)
            part = self._parts.pop(id, None)
            if part is not None:
                self._leaving.add(part)
                for key in [key for key, view in self._views.items() if part in view.parts]:
                    del self._views[key]
            return gone.card

    def select(self, wish: Wish = None) -> Selection:
        """`"a"`, `"a+b"` or a sequence of ids in the order they work; `"none"` and None are the base."""
        if wish is None:
            return Selection("", self._base)
        with self._lock:
            chosen = self.mounts.chosen(wish)
            if not chosen:
                return Selection("", self._base)
            key = AND.join(mount.print for mount in chosen)
            if key not in self._views:
                self._views[key] = self._view(key, tuple(self._part(mount) for mount in chosen))
                while len(self._views) > VIEWS:
                    self._views.popitem(last=False)
            self._views.move_to_end(key)
            return self._views[key]

    # In two steps, for who has to ask between them ------------------------------------------

    def read(self, id: str, path: str | Path, *, shown: str | None = None) -> Part:
        """In memory, and checked against the model to the last tensor."""
        from mlxone.models.adapters import Adapter

        self.mounts.check_free(id)
        folder = absolute(path)
        print = fingerprint(folder)
        adapter = Adapter.read(folder)
        changes = adapter.changes(self._base)
        card = MountedAdapter(
            id, shown or str(path), adapter.rank, float(adapter.scale), adapter.size_bytes, len(changes)
        )
        kinds = {path: type(own[0]).__name__ for path, own in changes.items()}
        size = sum(array.nbytes for array in _arrays(changes))
        return Part(Mount(card, folder, print, kinds, size, _working(kinds, self._base)), changes)

    def add(self, part: Part) -> None:
        with self._lock:
            self._bring_in(part)
            self.mounts.add(part.mount)
            self._parts[part.mount.id] = part

    def _part(self, mount: Mount) -> Part:
        """Of a model that was put away and came back, the adapters come back when they are asked for."""
        part = self._parts.get(mount.id)
        if part is None:
            from mlxone.models.adapters import Adapter

            part = Part(mount, Adapter.read(mount.folder).changes(self._base))
            self._bring_in(part)
            self._parts[mount.id] = part
        return part

    def _bring_in(self, part: Part) -> None:
        """Now and not at its first use: the files may be written anew at any time."""
        from mlxone.backend.arrays import lock, mx, on_stream

        with lock, on_stream():
            mx.eval(_arrays(part.changes))
        if fingerprint(part.mount.folder) != part.mount.print:
            raise AdapterMismatch(
                f"the files of adapter {part.mount.id} were written anew while they were in use",
                hint="unmount it, and mount it again when they are whole",
                param="adapter",
            )

    def _view(self, key: str, parts: tuple[Part, ...]) -> Selection:
        from mlxone.backend.arrays import lock, mx, on_stream
        from mlxone.models.changed import changed_decoder, leaves_of

        together: dict[str, tuple[Change, ...]] = {}
        for part in parts:
            for path, own in part.changes.items():
                together[path] = together.get(path, ()) + tuple(own)
        with lock, on_stream():
            self._base.materialize()  # first, and once: a view shares what the base has in memory
            decoder = changed_decoder(self._base, together)
            for linear in leaves_of(decoder).values():  # one by one: a DoRA's norm takes a multiple of it
                mx.eval(linear.arrays())
            mx.eval(decoder.arrays())
        return Selection(key, decoder, parts)


def weights_on_disk(folder: Path) -> int:
    """Bytes that reading an adapter takes; 0 where it is none, or none that can be looked at."""
    files = (folder / name for name in FILES if name.endswith(".safetensors"))
    try:
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0


def fingerprint(folder: Path) -> str:
    """Another one whenever the files are others: the config's text, and which file the weights are.

    A file that is written anew has another time, size or place on the disk, so its weights need not be
    read to know it.
    """
    seen = hashlib.sha256()
    for name in FILES:
        try:
            if not (folder / name).is_file():  # opening a pipe would wait for ever
                continue
            with open(folder / name, "rb") as file:
                about = os.fstat(file.fileno())
                said = file.read(1_000_000) if name.endswith(".json") else b""
        except OSError:  # not there, or not to be read: reading says so better
            continue
        seen.update(
            f"{name} {about.st_dev} {about.st_ino} {about.st_size} {about.st_mtime_ns} ".encode() + said
        )
    return seen.hexdigest()[:32]


def _working(kinds: Mapping[str, str], decoder: Decoder) -> int:
    """The largest linear that a DoRA changes, while it is widened and its rows are measured."""
    if "Dora" not in kinds.values():
        return 0
    from mlxone.models.changed import linears_of

    sizes = (facts.in_dims * facts.out_dims for path, facts in linears_of(decoder).items() if path in kinds)
    return WIDENED * max(sizes)


def absolute(path: str | Path) -> Path:
    """In full: whoever has it may work in another folder by the time that it is read again."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # a ~user that does not exist
        return Path(path).absolute()


def _arrays(changes: Changes) -> list[mx.array]:
    names = ("a", "b", "magnitude", "weight", "bias")
    held = (getattr(one, name, None) for own in changes.values() for one in own for name in names)
    return [array for array in held if array is not None]
