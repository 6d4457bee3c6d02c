"""A repo from the Hub onto this machine: what would be fetched, then fetching it.

Several files at once, each in several ranges, each checked before it appears under its name.
config.json comes last, so a download that was cut off is not mistaken for a model; what it left is
gone on from. `repo` asks the Hub, `layout` knows the places, `transfer` the network.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from mlxone.core.amounts import in_words
from mlxone.core.errors import HubError, StorageError
from mlxone.hub import partial
from mlxone.hub.client import Damaged, Stopped
from mlxone.hub.crew import Crew
from mlxone.hub.in_use import in_use
from mlxone.hub.layout import Busy, Store, free_bytes, store_for
from mlxone.hub.partial import Partial
from mlxone.hub.repo import CONFIG, File, Plan, plan
from mlxone.hub.transfer import CONNECTIONS, Transfer
from mlxone.hub.trouble import explained
from mlxone.hub.verify import damage
from mlxone.hub.watch import State, Watch

__all__ = ["File", "Plan", "State", "Watch", "fetch", "plan"]

FILES_AT_ONCE = 4
SPARE = 64 << 20  # bytes of disk to leave free
TICK = 0.1  # seconds between two looks at how far it is
GRACE = 2.0  # seconds that threads get to end after a failure


def fetch(plan: Plan, watch: Watch | None = None, *, to: Path | None = None, verify: bool = False) -> Path:
    """Downloads what is missing and returns the folder: the snapshot's in the cache, or `to`.

    With `verify` what is there is read, too, and fetched again where its hash differs.
    """
    watch = watch or Watch()
    store = store_for(plan, to, verify)
    with in_use(store.folder, what="get"), explained(plan.repo, plan.revision):
        left = {file: store.remaining(file) for file in plan.files if not store.has(file)}
        _check_space(plan, store, left)
        watch.begin(plan, {file.name: file.size - left.get(file, 0) for file in plan.files})
        fetched = _fetch_in_order(plan, store, list(left), watch)
        # Whatever else tidies the cache may not know that we are at it.
        fetched += _fetch_in_order(plan, store, _gone(plan, store), watch)
        for file in _gone(plan, store):
            raise StorageError(
                f"{store.folder / file.path} was deleted during the download", hint="try again"
            )
        store.finish()
    watch.end(fetched)
    return store.folder


def _gone(plan: Plan, store: Store) -> list[File]:
    return [file for file in plan.files if not store.shows(file)]


def _check_space(plan: Plan, store: Store, left: Mapping[File, int]) -> None:
    needed = store.room(left)
    free = free_bytes(store.folder)
    if needed and free < needed + SPARE:
        raise StorageError(
            f"{plan.repo} needs {in_words(needed)} and {in_words(SPARE)} to spare, "
            f"and {store.folder} has {in_words(free)} free",
            hint=f"free some space, or choose a folder on another disk with {store.chosen_with}",
        )


def _fetch_in_order(plan: Plan, store: Store, files: Sequence[File], watch: Watch) -> int:
    """What makes a folder a model comes after all else."""
    fetched = 0
    for is_last in (False, True):
        chosen = [file for file in files if (file.name == CONFIG) is is_last]
        fetched += _fetch_all(plan, store, chosen, watch)
    return fetched


def _fetch_all(plan: Plan, store: Store, files: Sequence[File], watch: Watch) -> int:
    """Bytes that came over the network."""
    stop = threading.Event()
    with Crew(min(FILES_AT_ONCE, len(files))) as crew, Crew(CONNECTIONS if files else 0) as connections:
        jobs = [_Job(plan, store, file, connections, stop) for file in files]
        running = {crew.submit(job.run): job for job in jobs}
        try:
            while running:
                done, _ = wait(running, timeout=TICK, return_when=FIRST_COMPLETED)
                for job in jobs:
                    job.report(watch)
                for ended in done:
                    _conclude(ended, running, crew)
        except BaseException:  # an interrupt included
            stop.set()
            wait(running, timeout=GRACE)
            raise
    return sum(job.fetched for job in jobs)


def _conclude(ended: Future[None], running: dict[Future[None], _Job], crew: Crew) -> None:
    job = running.pop(ended)
    try:
        ended.result()
    except Busy:  # behind all others, so that these are done meanwhile
        running[crew.submit(job.run)] = job
    except Stopped:
        _raise_cause(running)
        raise


def _raise_cause(running: Collection[Future[None]]) -> None:
    """Who was stopped has no news; the one that failed by itself has."""
    for ended in wait(running, timeout=GRACE).done:
        error = ended.exception()
        if error is not None and not isinstance(error, (Stopped, Busy)):
            raise error


class _Job:
    """One file, from nothing or a part of it to its place."""

    def __init__(
        self, plan: Plan, store: Store, file: File, connections: Crew, stop: threading.Event
    ) -> None:
        self._plan, self._store, self._file = plan, store, file
        self._connections, self._stop = connections, stop
        self._state: State | None = None
        self._partial: Partial | None = None
        self._reported = False
        self.fetched = 0

    def run(self) -> None:
        if self._stop.is_set():
            raise Stopped
        with explained(self._plan.repo, self._plan.revision, self._file.name):
            try:
                with self._store.lock(self._file):
                    self._fetch()
            except Busy:
                self._state = State.WAITING
                raise
        self._state = State.DONE

    def report(self, watch: Watch) -> None:
        state, partial = self._state, self._partial
        if state is None or self._reported:
            return
        self._reported = state is State.DONE
        is_whole = self._reported or (state is State.CHECKING and partial is None)
        held = self._file.size if is_whole else partial.held if partial else 0
        watch.file(self._file, state, held)

    def _fetch(self) -> None:
        if self._store.shows(self._file):
            self._state = State.CHECKING
        if self._store.adopt(self._file):
            return
        for _ in range(2):  # what is damaged is fetched once more
            reason = self._attempt()
            if reason is None:
                self._store.place(self._file)
                return
            partial.discard(self._store.partial(self._file))
        raise HubError(f"{self._file.name} of {self._plan.repo} arrived damaged ({reason})", hint="try again")

    def _attempt(self) -> str | None:
        """What is wrong with what arrived, in a few words."""
        path = self._store.partial(self._file)
        with Partial(path, self._file.size) as self._partial:
            held = self._partial.held
            self._state = State.FETCHING
            transfer = Transfer(self._plan, self._file, self._connections, self._stop)
            try:
                transfer.fetch(self._partial)
            except Damaged as e:
                return str(e)
            finally:
                self.fetched += self._partial.held - held
            self._state = State.CHECKING
            reason = damage(path, self._file)
            if reason is None:
                self._partial.sync()
            return reason
