"""Adapters of a server's models: where they may come from, and that they fit beside all else that is there.

An adapter belongs to one model. What was mounted stays mounted while its model is put away and loaded
again; `mount` and `unmount` are the models' thread's, the class is for the event loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mlxone.core.amounts import in_words
from mlxone.core.errors import (
    AdapterMismatch,
    AdapterNotFound,
    MlxoneError,
    ModelOverBudget,
    NotPermitted,
    Overloaded,
    UsageError,
)
from mlxone.fitting.admission import Refusal
from mlxone.service.adapters import absolute, weights_on_disk
from mlxone.service.mounts import MountedAdapter
from mlxone.service.options import Options

if TYPE_CHECKING:
    from mlxone.service.catalogue import Offer
    from mlxone.service.shelf import Loaded, Shelf

log = logging.getLogger(__name__)

T = TypeVar("T")
LONGEST_PATH = 4_096


class Threads(Protocol):
    """What a context lends."""

    async def found(self, name: str | None) -> Offer:
        """The model that a request means."""

    async def on_shelf(self, work: Callable[[Shelf], T]) -> T:
        """On the models' thread."""

    def mounted(self) -> list[tuple[Offer, MountedAdapter]]:
        """Without waiting for anything."""

    def beside(self, work: Callable[[], T]) -> Awaitable[T]:
        """On a thread that nobody's answer waits for."""


class Mounting:
    def __init__(self, options: Options, threads: Threads) -> None:
        self._options, self._threads = options, threads

    async def listing(self, model: str | None = None) -> list[tuple[str, MountedAdapter]]:
        """Each with the id of its model; of one model, or of all."""
        offer = await self._threads.found(model) if model else None
        return [
            (own.id, card) for own, card in self._threads.mounted() if offer is None or own.key == offer.key
        ]

    async def mount(self, id: str, path: str, model: str | None = None) -> tuple[str, MountedAdapter]:
        """Loads its model, where that was put away."""
        root = self._options.adapter_dir
        if root is None:
            raise NotPermitted("adapters may not be mounted here", hint="start with --adapter-dir")
        await self._threads.beside(lambda: folder_under(Path(root), path))  # before a model is loaded for it
        offer = await self._threads.found(model)
        with _about("path", Path(root)):
            card = await self._threads.on_shelf(
                lambda shelf: mount(shelf, offer, id, lambda: folder_under(Path(root), path), path)
            )
        return offer.id, card

    async def unmount(self, id: str, model: str | None = None) -> tuple[str, MountedAdapter]:
        """Answers that use it go on to their end."""
        offer = await self._threads.found(model)
        may = self._options.adapter_dir is not None or self._options.allow_manage

        def work(shelf: Shelf) -> MountedAdapter:
            shelf.mounts_of(offer).get(id)
            if not may:
                raise NotPermitted("adapters may not be unmounted here", hint="start with --adapter-dir")
            return unmount(shelf, offer, id)

        return offer.id, await self._threads.on_shelf(work)


def mount_given(shelf: Shelf, offer: Offer, adapters: Mapping[str, str | Path]) -> None:
    """Those of the operator, at the start. One alone is what requests get that name none."""
    for id, path in adapters.items():
        shown = os.fsencode(absolute(path)).decode(errors="replace")
        mount(shelf, offer, id, partial(absolute, path), shown)
    if len(adapters) == 1:
        shelf.mounts_of(offer).default = next(iter(adapters))


def mount(shelf: Shelf, offer: Offer, id: str, place: Callable[[], Path], shown: str) -> MountedAdapter:
    """All or nothing: until its last line nobody can choose it, and no answer has changed.

    `place` says where it lies and that this is allowed. It is asked again when all is read: the files
    may have been put there since.
    """
    shelf.mounts_of(offer).check_free(id)
    loaded = shelf.bring_in(offer)
    manager, folder = loaded.model.adapters, place()
    try:
        _promise(shelf, loaded, id, weights_on_disk(folder))
        part = manager.read(id, folder, shown=shown)
        _promise(shelf, loaded, id, manager.more_with(part))
        if place() != folder:
            raise AdapterMismatch(f"adapter {id} was moved while it was read", hint="try again")
        manager.add(part)
    finally:
        loaded.weigh()
        shelf.ledger.settle()
    log.info("mounted adapter %s on %s: %s", id, offer.id, in_words(part.mount.memory_bytes))
    return part.mount.card


def unmount(shelf: Shelf, offer: Offer, id: str) -> MountedAdapter:
    loaded = shelf.at_hand(offer)
    if loaded is None:
        card = shelf.mounts_of(offer).remove(id).card
    else:
        card = loaded.model.adapters.unmount(id)
        loaded.weigh()
        shelf.ledger.settle()
    log.info("unmounted adapter %s from %s", id, offer.id)
    return card


def folder_under(root: Path, path: str) -> Path:
    """The folder that a client means, all links followed: neither it nor a file of it lies elsewhere."""
    outside = NotPermitted("the path is not under the folder that adapters may come from", param="path")
    missing = AdapterNotFound(f"there is no adapter at {path[:200]!r}", param="path")
    if not path or "\0" in path or len(path) > LONGEST_PATH:
        raise UsageError("path must name a folder", param="path")
    try:
        top = absolute(root).resolve(strict=True)
        folder = (top / path).resolve()
        if not folder.is_relative_to(top):
            raise outside
        if not folder.is_dir():
            raise missing
        if not all(file.resolve().is_relative_to(top) for file in folder.iterdir()):
            raise outside
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that is none, no right to look
        raise missing from None
    return folder


def _promise(shelf: Shelf, loaded: Loaded, id: str, size: int) -> None:
    """So much for one more adapter, whatever idle model or kept prompt must make room.

    An answer of some length has to fit beside it.
    """
    from mlxone.service.admission import SHORTEST  # with MLX, which the event loop's half does without

    loaded.weigh()
    admission = loaded.admission
    admission.mounted_bytes += size
    length = min(SHORTEST, admission.case.facts.context_length or SHORTEST)
    answer = shelf.admit(loaded, lambda: admission.admit(length, 0))
    if isinstance(answer, Refusal):
        raise _no_room(id, size, answer)
    shelf.give_back(answer)


def _no_room(id: str, size: int, refusal: Refusal) -> MlxoneError:
    what = (
        f"adapter {id} takes {in_words(size)}; with it {in_words(refusal.needed_bytes)} would be needed"
        f" and {in_words(refusal.budget_bytes)} may be used"
    )
    details = {
        "adapter_bytes": size,
        "needed_bytes": refusal.needed_bytes,
        "budget_bytes": refusal.budget_bytes,
    }
    if refusal.can_wait:
        return Overloaded(what, hint="it fits when others have finished", details=details)
    return ModelOverBudget(what, hint="unmount another, or raise --memory-budget", details=details)


@contextmanager
def _about(field: str, root: Path) -> Iterator[None]:
    """Whoever gave a path under `root` is told of it by that, and not where it lies."""
    try:
        yield
    except MlxoneError as error:
        error.param = error.param or field
        error.message = error.message.replace(f"{absolute(root).resolve()}{os.sep}", "")
        raise
