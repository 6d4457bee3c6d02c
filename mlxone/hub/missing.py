"""The errors for a model that is not there, or not whole: each with the way to get it."""

from __future__ import annotations

from collections.abc import Sequence

from mlxone.core.amounts import first_of
from mlxone.core.errors import ModelNotFound
from mlxone.hub.entry import INCOMPLETE, Entry
from mlxone.hub.match import nearest
from mlxone.hub.query import repo_for


def not_found(query: str, held: Sequence[str]) -> ModelNotFound:
    """`held` are the repos that are on this machine."""
    repo, _, revision = query.partition("@")
    known = repo_for(repo)
    if known:
        at = f" --revision {revision}" if revision else ""
        meant = query if known == repo else f"{query} ({known})"
        return ModelNotFound(
            f"{meant} is not on this machine",
            hint=f"download it with `mlxone get {known}{at}`" + ("" if revision else ", or add --pull"),
        )
    close = nearest(query, held)
    if close:
        hint = f"near it: {first_of(sorted(close))}"
    elif held:
        hint = f"on this machine: {first_of(sorted(held))}"
    else:
        hint = "no model is on this machine yet; `mlxone get ORG/REPO` downloads one"
    return ModelNotFound(f"no model on this machine matches {query!r}", hint=hint)


def half_there(entry: Entry) -> ModelNotFound:
    what = (entry.problem or "").removeprefix(INCOMPLETE)
    hint = f"`mlxone get {entry.repo_id}` fetches the rest" if entry.revision else "download it again"
    return ModelNotFound(f"{entry.name} is not whole on this machine: {what}", hint=hint)
