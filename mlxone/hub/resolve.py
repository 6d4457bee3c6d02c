"""Which of the models on disk a query means. Pure: entries in, one entry or a clear error out.

A query is a repo id, a short name, or words that match one repo; `@` and a revision may follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from mlxone.core.amounts import first_of, in_words
from mlxone.core.errors import AmbiguousModel
from mlxone.hub.entry import GGUF_SUPPORT, Entry, usability
from mlxone.hub.match import is_name, match
from mlxone.hub.names import repo_of
from mlxone.hub.snapshots import SHORTEST_COMMIT

NEAR = 0.1  # how far a model's real size may be from the one in its family's name

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bm])")
_BITS = re.compile(r"(\d+)[ -]?bits?")

CommitOf = Callable[[Entry, str], str]


def choose(query: str, entries: Sequence[Entry], commit_of: CommitOf) -> Entry | None:
    """The one model that is meant; None where none is. `entries` are all, upper sources first."""
    repos = one_per_repo(entries)
    exact = next((entry for entry in repos if entry.repo == query), None)  # an @ may be part of it
    if exact:
        return exact
    name, _, revision = query.partition("@")
    meant = _one(name, repos)
    if meant is None or not revision:
        return meant
    return _at_revision(meant, commit_of(meant, revision), entries)


def one_per_repo(entries: Iterable[Entry]) -> list[Entry]:
    """Without older snapshots; where two sources have a repo, the first one's that is of use."""
    best: dict[str, Entry] = {}
    for entry in entries:
        held = best.get(entry.repo)
        if entry.canonical and (held is None or usability(entry) > usability(held)):
            best[entry.repo] = entry
    return list(best.values())


def matching(query: str, entries: Sequence[Entry]) -> list[Entry]:
    """All that the words may mean, in the order given."""
    by_name = {entry.repo: entry for entry in entries}
    names = set(match(query, by_name, lambda name, words: _fits(by_name[name], words)))
    return [entry for entry in entries if entry.repo in names]


def with_sizes(entries: Sequence[Entry]) -> str:
    chosen = sorted(entries, key=lambda entry: entry.repo)
    return first_of([f"{entry.repo} ({in_words(entry.size_bytes)})" for entry in chosen])


def whole_repo(entries: Sequence[Entry]) -> Entry:
    """Several GGUF models of one repo as one: what the repo's own id means."""
    first = entries[0]
    folder = _folder_of(first)
    inside = [entry for entry in entries if _folder_of(entry) == folder]
    return replace(
        first,
        repo=first.repo_id,
        part="",
        path=folder,
        size_bytes=sum(entry.size_bytes for entry in inside),
        canonical=all(entry.canonical for entry in inside),
        capabilities=frozenset().union(*(entry.capabilities for entry in inside)),
        problem=None if any(not entry.problem for entry in inside) else first.problem,
        support=GGUF_SUPPORT,
        facts=None,
    )


def _folder_of(entry: Entry) -> Path:
    """The snapshot a GGUF file is in, or its folder outside the Hub's cache."""
    if not entry.revision:
        return entry.path.parent
    return next(folder for folder in entry.path.parents if folder.name == entry.revision)


def _one(query: str, entries: Sequence[Entry]) -> Entry | None:
    by_name = {entry.repo: entry for entry in entries}
    short = repo_of(query)
    exact = next((by_name[name] for name in (query, short) if name in by_name), None)
    # A bare short name does not mean another size of its family; one with a tag says what it means.
    if exact or (short and ":" not in query):
        return exact
    ids = (query.lower(), (short or query).lower())
    sharing = [entry for entry in entries if entry.part and entry.repo_id.lower() in ids]
    if sharing:
        return whole_repo(sharing)
    candidates = _candidates(query, entries)
    if len(candidates) > 1:
        raise AmbiguousModel(
            f"{query!r} matches {len(candidates)} models: {with_sizes(candidates)}",
            hint="say more of the name",
        )
    return candidates[0] if candidates else None


def _candidates(query: str, entries: Sequence[Entry]) -> list[Entry]:
    """The best group that has any: what can be used before what cannot, models before companions."""
    groups = [
        [e for e in entries if usability(e) == use and e.drafter == drafter]
        for use in (2, 1, 0)
        for drafter in (False, True)
    ]
    usable = [e for e in entries if usability(e) == 2]
    named = [e for e in usable if is_name(e.repo, query)]  # a companion can be asked for by its name
    return named or next((found for group in groups if (found := matching(query, group))), [])


def _at_revision(meant: Entry, commit: str, entries: Sequence[Entry]) -> Entry | None:
    if len(commit) < SHORTEST_COMMIT:
        return None
    there = [e for e in entries if e.revision and e.revision.startswith(commit)]
    found = [entry for entry in there if entry.repo == meant.repo]
    if found:
        return found[0] if len(found) == 1 else None
    sharing = [entry for entry in there if entry.repo_id == meant.repo]
    return whole_repo(sharing) if len({entry.revision for entry in sharing}) == 1 else None


def _fits(entry: Entry, words: str) -> bool:
    """Whether a size or a number of bits is really the model's, whatever it is called."""
    facts, words = entry.facts, words.strip().lower()
    if facts is None:
        return False
    if bits := _BITS.fullmatch(words):
        return facts.bits == int(bits[1])
    if size := _SIZE.fullmatch(words):
        stated = float(size[1]) * (1e9 if size[2] == "b" else 1e6)
        return abs(facts.parameters - stated) <= NEAR * stated
    return False
