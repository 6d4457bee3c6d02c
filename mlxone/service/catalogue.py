"""Which names answer: the models an operator named, or else all that the registry knows.

A name that comes with a request is compared with names and never tried as a path: nothing on the disk
is opened because of it. What the operator named may be a path, an id or words. Asks the disk and
nothing else; all but `at_hand` and `offers` belong off the event loop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxone.core.amounts import first_of
from mlxone.core.errors import AmbiguousModel, DamagedModel, ModelNotFound, UnsupportedModel, UsageError
from mlxone.hub import find, missing, single
from mlxone.hub.entry import INCOMPLETE, Entry
from mlxone.hub.find import Found
from mlxone.hub.match import match, nearest
from mlxone.hub.resolve import choose
from mlxone.hub.sources import STARTER
from mlxone.service.figures import ModelCard
from mlxone.service.registry import Registry

LONGEST_NAME = 300  # letters; no model's id has as many
SHOWN = 60  # of a name that is none


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that may be asked for, and where it is."""

    id: str
    path: Path
    card: ModelCard
    key: str  # the same for the same files, whatever they are called

    @property
    def found(self) -> Found:
        return Found(self.path, self.id)


class Catalogue:
    def __init__(self, models: Sequence[str | Path] = (), folders: Sequence[str | Path] = ()) -> None:
        self._models, self._folders = tuple(models), tuple(folders)
        self._named: list[Offer] | None = None
        self._listed: list[Offer] = []
        self._default: Offer | None = None
        self._registry: Registry | None = None
        self._lock = threading.Lock()

    @property
    def is_named(self) -> bool:
        """Whether the operator named models; then no others answer."""
        return bool(self._models)

    def look(self) -> list[Offer]:
        """What is there as of now."""
        with self._lock:
            if self.is_named:
                self._named = self._named or self._resolve()
            else:
                self._listed = [_offer(entry) for entry in self._known().list(among=self._entries())]
        return self.offers

    @property
    def offers(self) -> list[Offer]:
        """As of the last look."""
        return list(self._named or ()) if self.is_named else list(self._listed)

    def at_hand(self, name: str | None) -> Offer | None:
        """The model that is meant, where that can be said without asking the disk."""
        if not self._named:
            return self._default if not name and not self.is_named else None
        if len(self._named) == 1 or not name:
            return self._named[0]
        offers = {offer.id: offer for offer in self._named}
        if name in offers:
            return offers[name]
        meant = match(name, offers) if len(name) <= LONGEST_NAME else []
        if len(meant) > 1:
            raise AmbiguousModel(
                f"{name!r} matches {len(meant)} models: {first_of(sorted(meant))}",
                hint="say more of the name",
                param="model",
            )
        if not meant:
            raise _not_found(name, list(offers))
        return offers[meant[0]]

    def find(self, name: str | None) -> Offer:
        known = self.at_hand(name)
        if known is None and self.is_named:
            self.look()
            known = self.at_hand(name)
        if known is not None:
            return known
        with self._lock:
            if not name:
                self._default = self._default or self._usual()
                return self._default
            return _offer(self._meant(name))

    def _usual(self) -> Offer:
        """The default model, called as it is listed."""
        offer = _of_operator(find.default_model(), self._folders)
        listed = self._known().get(offer.path)
        return _offer(listed) if listed else offer

    def _meant(self, name: str) -> Entry:
        entries = self._entries()
        ids = [entry.repo for entry in entries if entry.canonical]
        if len(name) > LONGEST_NAME:
            raise _not_found(name, ids)
        entry = next((e for e in entries if name == STARTER and e.source == STARTER), None)
        try:
            # Branches and tags would be looked up on the disk: after an @ only a commit counts here.
            entry = entry or choose(name, entries, lambda entry, revision: revision)
        except AmbiguousModel as error:
            error.param = "model"
            raise
        if entry is None:
            raise _not_found(name, ids)
        return _usable(entry)

    def _entries(self) -> list[Entry]:
        return self._known().refresh()

    def _known(self) -> Registry:
        self._registry = self._registry or Registry(folders=self._folders)
        return self._registry

    def _resolve(self) -> list[Offer]:
        found: dict[str, Offer] = {}
        for source in self._models:
            offer = _of_operator(str(source), self._folders)
            other = found.setdefault(offer.id, offer)
            if other.key != offer.key:
                raise UsageError(
                    f"two models would be called {offer.id}: {other.path} and {offer.path}",
                    hint="rename one of the folders",
                )
        return list(found.values())


def _of_operator(query: str, folders: Sequence[str | Path]) -> Offer:
    found = find.find(query, folders)
    return _offer(single.at(found.path), found.name)


def _offer(entry: Entry, id: str | None = None) -> Offer:
    name = id or entry.name
    card = ModelCard(
        id=name,
        created=_created(entry.path),
        context_length=entry.facts.context_length if entry.facts else None,
        size_bytes=entry.size_bytes,
        problem=entry.problem or entry.support or None,
        capabilities=tuple(sorted(entry.capabilities)),
    )
    return Offer(name, entry.path, card, os.path.realpath(entry.path))


def _created(path: Path) -> int:
    try:
        return int(os.stat(path).st_mtime)
    except OSError:
        return 0


def _usable(entry: Entry) -> Entry:
    if entry.problem and entry.problem.startswith(INCOMPLETE):
        raise missing.half_there(entry)
    if entry.problem:
        raise DamagedModel(f"{entry.name} cannot be used: {entry.problem}", param="model")
    if entry.support:
        raise UnsupportedModel(f"{entry.name} cannot run here: {entry.support}", param="model")
    return entry


def _not_found(name: str, there: Sequence[str]) -> ModelNotFound:
    close = nearest(name, there) if len(name) <= LONGEST_NAME else []
    names = sorted(close or there)
    says = "near it" if close else "there are"
    shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}…"
    return ModelNotFound(
        f"no model here is called {shown!r}",
        hint=f"{says}: {first_of(names)}" if names else "no model is on this machine yet",
        param="model",
    )
