"""The models on this machine: kept in a database, checked against the disk at every question.

The disk is the truth and the database only remembers it, so a database that is damaged or cannot be
written costs time and a line in `notices`, never an answer. Usable from several threads and processes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mlxone.core.errors import DamagedModel, MlxoneError, UsageError
from mlxone.formats.config import read_json
from mlxone.hub import places, snapshots, sources
from mlxone.hub.entry import CAPABILITIES, INCOMPLETE, Entry
from mlxone.hub.query import as_path
from mlxone.hub.resolve import choose, matching, one_per_repo
from mlxone.hub.scan import ScanReport, walk
from mlxone.hub.schema import Damaged, Database, Places, Unusable
from mlxone.hub.stamps import Place

T = TypeVar("T")
Judge = Callable[[Mapping[str, Any]], str]
Entries = list[Entry]  # inside the class, `list` is the method

BATCH = 256  # folders read between two savings: what a killed scan loses at most
_LOG = logging.getLogger(__name__)


def _recent(entry: Entry) -> float:
    try:
        return -os.stat(entry.path).st_mtime
    except OSError:
        return 0.0


# Names from a to z, everything else with the most of it first.
SORTS: Mapping[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.repo.lower(),
    "size": lambda entry: -entry.size_bytes,
    "params": lambda entry: -(entry.facts.parameters if entry.facts else -1),
    "context": lambda entry: -((entry.facts and entry.facts.context_length) or -1),
    "recent": _recent,
}


class Registry:
    def __init__(
        self,
        path: Path | None = None,
        *,
        folders: Sequence[str | Path] = (),
        judge: Judge | None = None,
    ) -> None:
        """`folders` hold models besides the usual places; `judge` says of a config why it cannot run here,
        or nothing."""
        self.notices: list[str] = []
        self.sources = sources.sources(folders)
        self._judge = judge
        self._database: Database | None = Database(path or places.home() / "registry.sqlite")
        self._held: dict[sources.Source, Places] = {}  # as the last look found it
        self._lock = threading.RLock()
        for source in self.sources:
            if source.name == "model-dir" and not os.path.isdir(source.folder):
                self._notice(f"model folder {source.folder} is not there")

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open between calls; only what was kept in memory goes."""
        with self._lock:
            self._held.clear()

    def scan(self, full: bool = False) -> ScanReport:
        """Brings the registry up to date; `full` reads everything anew."""
        start = time.monotonic()
        with self._lock:
            self._use(lambda database: database.forget(lambda root: not os.path.isdir(root)))
            report = self._refresh(full)
            entries = self._judged(list(report.entries))
        return replace(report, entries=tuple(entries), seconds=time.monotonic() - start)

    def refresh(self) -> Entries:
        """Every model on disk as of now, all revisions; only what changed is read."""
        with self._lock:
            return self._judged(list(self._refresh(False).entries))

    def list(
        self,
        query: str = "",
        *,
        capabilities: Collection[str] = (),
        max_size: float | None = None,
        supported: bool = False,
        all_revisions: bool = False,
        sort: str = "name",
        among: Entries | None = None,
    ) -> Entries:
        """What matches the words and has all that is asked for; sizes in bytes.

        `among` is what `refresh` or `scan` said a moment ago, for who has more than one question.
        """
        unknown = [name for name in capabilities if name not in CAPABILITIES]
        if unknown:
            raise UsageError(f"no such capability: {unknown[0]}", hint="one of " + ", ".join(CAPABILITIES))
        if sort not in SORTS:
            raise UsageError(f"cannot sort by {sort!r}", hint="one of " + ", ".join(SORTS))
        entries = self.refresh() if among is None else among
        chosen = entries if all_revisions else one_per_repo(entries)
        if query.strip():
            chosen = matching(query.strip(), chosen)
        wanted = frozenset(capabilities)
        chosen = [
            entry
            for entry in chosen
            if wanted <= entry.capabilities
            and (max_size is None or entry.size_bytes <= max_size)
            and not (supported and (entry.support != "" or entry.problem))
        ]
        return sorted(sorted(chosen, key=SORTS["name"]), key=SORTS[sort])

    def resolve(self, query: str) -> Entry:
        """The one model the query means: a path, a repo id, a short name or words that match one repo."""
        found = self.match(query)
        if found.problem and found.problem.startswith(INCOMPLETE):
            from mlxone.hub import missing

            raise missing.half_there(found)
        if found.problem:
            raise DamagedModel(f"{found.repo} cannot be used: {found.problem}")
        return found

    def match(self, query: str, *, among: Entries | None = None) -> Entry:
        """As `resolve`, but what has a problem is an answer, too. `among` as in `list`."""
        from mlxone.hub import missing, single  # with all that reads models, which few commands need

        query = query.strip()
        if not query:
            raise UsageError("the model's name is empty")
        at_path = single.read_one(query)
        entries = self.refresh() if among is None else among
        if at_path:
            return _at(at_path.path, entries) or self._judged_alone(at_path)
        found = _starter(entries) if query == sources.STARTER else choose(query, entries, _commit_of)
        if found:
            return found
        path = as_path(query)
        if os.path.exists(path):
            return self._judged_alone(single.at(path))
        raise missing.not_found(query, [entry.repo for entry in one_per_repo(entries)])

    def get(self, path: str | Path) -> Entry | None:
        """The model at exactly this place."""
        return _at(Path(path), self.refresh())

    def _refresh(self, full: bool) -> ScanReport:
        entries: Entries = []
        read = removed = 0
        seen: set[str] = set()  # a folder can lie in two sources
        for source in self.sources:
            known = self._known(source)
            now = self._walk(source, known, full)
            fresh = [place for path, place in now.items() if known.get(path) is not place]
            stale = [place for path, place in known.items() if now.get(path) is not place]
            read += sum(len(place.entries) for place in fresh)
            removed += len(_paths(stale) - _paths(fresh))
            entries += [e for path, place in now.items() if path not in seen for e in place.entries]
            seen.update(now)
        return ScanReport(len(entries), read, removed, 0.0, tuple(entries))

    def _walk(self, source: sources.Source, known: Places, full: bool) -> Places:
        now: Places = {}
        unsaved: list[Place] = []
        for place, is_new in walk(source, known, full=full, complain=self._notice):
            now[place.path] = place
            if is_new and not _is_the_same(place, known.get(place.path)):
                unsaved.append(place)
            if len(unsaved) == BATCH:
                self._save(source, unsaved)
                unsaved = []
        self._save(source, unsaved, known.keys() - now.keys())
        self._held[source] = now
        return now

    def _judged(self, entries: Entries) -> Entries:
        """With `support` said of every model of which it is not known yet."""
        open_ones = {e.path for e in entries if e.support is None and not e.problem}
        if self._judge is None or not open_ones:
            return entries
        verdicts = {path: self._verdict(path) for path in open_ones}
        for source in self.sources:
            changed = []
            for place in self._held[source].values():
                if any(entry.path in verdicts for entry in place.entries):
                    judged = tuple(_with(entry, verdicts) for entry in place.entries)
                    changed.append(replace(place, entries=judged))
            self._save(source, changed)
            self._held[source] |= {place.path: place for place in changed}
        return [_with(entry, verdicts) for entry in entries]

    def _judged_alone(self, entry: Entry) -> Entry:
        if self._judge is None or entry.support is not None or entry.problem:
            return entry
        return replace(entry, support=self._verdict(entry.path))

    def _verdict(self, folder: Path) -> str:
        assert self._judge is not None
        try:
            return self._judge(read_json(folder / "config.json"))
        except MlxoneError as error:
            return error.message

    def _known(self, source: sources.Source) -> Places:
        known = self._use(lambda database: database.load(source))
        return self._held.get(source, {}) if known is None else known

    def _save(self, source: sources.Source, changed: Collection[Place], gone: Collection[str] = ()) -> None:
        if changed or gone:
            self._use(lambda database: database.save(source, changed, gone))

    def _use(self, work: Callable[[Database], T]) -> T | None:
        """Asks the database; one that is damaged is replaced once, one that refuses is done without."""
        for is_last in (False, True):
            if self._database is None:
                return None
            try:
                return work(self._database)
            except Damaged as reason:
                self._replace(reason, is_last)
            except Unusable as reason:
                self._do_without(reason)
        return None

    def _replace(self, reason: Exception, is_last: bool) -> None:
        assert self._database is not None
        try:
            if is_last:
                raise Unusable(f"damaged again: {reason}")
            self._database.replace()
        except Unusable as error:
            self._do_without(error)
        else:
            self._notice(f"{self._database.path} was damaged and is made anew ({reason})")

    def _do_without(self, reason: Exception) -> None:
        assert self._database is not None
        self._notice(f"{self._database.path} cannot be used ({reason}): models are looked up without it")
        self._database = None

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)
        _LOG.info(text)


def _paths(places: Collection[Place]) -> set[Path]:
    return {entry.path for place in places for entry in place.entries}


def _is_the_same(place: Place, held: Place | None) -> bool:
    """Looked at again and unchanged: nothing to write. Young folders are looked at more than once."""
    if held is None or len(held.entries) != len(place.entries):
        return False
    pairs = zip(held.entries, place.entries, strict=True)
    return place == replace(held, entries=tuple(replace(h, scanned_at=p.scanned_at) for h, p in pairs))


def _with(entry: Entry, verdicts: Mapping[Path, str]) -> Entry:
    return replace(entry, support=verdicts[entry.path]) if entry.path in verdicts else entry


def _at(path: Path, entries: Sequence[Entry]) -> Entry | None:
    """By name before by place: one blob can be a file of several snapshots."""
    said, place = Path(os.path.abspath(path)), os.path.realpath(path)
    named = next((entry for entry in entries if entry.path == said), None)
    return named or next((entry for entry in entries if os.path.realpath(entry.path) == place), None)


def _starter(entries: Sequence[Entry]) -> Entry | None:
    """The prepared folder before the repo it was made from."""
    prepared = next((entry for entry in entries if entry.source == sources.STARTER), None)
    return prepared or choose(snapshots.STARTER_REPO, entries, _commit_of)


def _commit_of(entry: Entry, revision: str) -> str:
    repo = next((above.parent for above in entry.path.parents if above.name == "snapshots"), None)
    return snapshots.commit_of(repo, revision) if entry.revision and repo else revision
