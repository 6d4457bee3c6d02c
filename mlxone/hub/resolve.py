"""Which of the models on disk a query means. Pure: entries in, one entry or a clear error out.

A query is a repo id, a short name, or words that match one repo; `@` and a revision may follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from mlxone.core.errors import AmbiguousModel
from mlxone.hub.contents import usability
from mlxone.hub.entry import Entry
from mlxone.hub.match import is_name, match
from mlxone.hub.names import repo_of
from mlxone.hub.snapshots import SHORTEST_COMMIT

SHOWN = 8  # candidates in a message
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
    shown = [f"{entry.repo} ({size_in_words(entry.size_bytes)})" for entry in chosen[:SHOWN]]
    more = len(chosen) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def size_in_words(size: int) -> str:
    for unit, amount in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= amount:
            return f"{size / amount:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _one(query: str, entries: Sequence[Entry]) -> Entry | None:
    by_name = {entry.repo: entry for entry in entries}
    short = repo_of(query)
    exact = next((by_name[name] for name in (query, short) if name in by_name), None)
    if exact or short:  # another size of the same family is not what a short name asks for
        return exact
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
    found = [
        entry
        for entry in entries
        if entry.repo == meant.repo and entry.revision and entry.revision.startswith(commit)
    ]
    return found[0] if len(found) == 1 and len(commit) >= SHORTEST_COMMIT else None


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
