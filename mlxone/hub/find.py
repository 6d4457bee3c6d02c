"""From what a user typed to a model folder: a path, `starter`, a repo id, a short name or a query."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mlxone.core.errors import AmbiguousModel, DamagedModel, ModelNotFound, UnsupportedModel, UsageError
from mlxone.hub import config, snapshots, starter
from mlxone.hub.match import match, nearest
from mlxone.hub.names import repo_of
from mlxone.hub.starter import STARTER

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SHOWN = 8  # candidates in a message


@dataclass(frozen=True, slots=True)
class Found:
    path: Path
    name: str  # what to call it
    repo: str | None = None  # its id on the Hub, where it has one


def find(query: str) -> Found:
    """The one model the query means, or an error that says what to type instead."""
    query = query.strip()
    if not query:
        raise UsageError("the model's name is empty")
    path = _path(query)
    if snapshots.is_model(path) or _is_plainly_a_path(query):
        return _at_path(path)
    if query == STARTER:
        return Found(starter.starter(), STARTER)
    found = _on_disk(query)
    if found is None and os.path.exists(path):
        return _at_path(path)
    if found is None:
        raise _not_found(query)
    return found


def looks_like_model(word: str) -> bool:
    """Whether a lone word on the command line names a model rather than being the prompt."""
    if os.path.exists(_path(word)):
        return bool(word)
    if not word or any(c.isspace() for c in word):
        return False
    if word == STARTER or repo_of(word) or REPO_ID.fullmatch(word.partition("@")[0]):
        return True
    return bool(match(word, snapshots.on_disk()))


def default_model() -> str:
    """What a command uses when no model is named: never a guess."""
    return os.environ.get("MLXONE_MODEL", "").strip() or config.text_setting("model") or STARTER


def repo_for(query: str) -> str | None:
    """The repo that would be downloaded for a model that is not here: its id, or a short name's."""
    query = query.strip()
    if query == STARTER:
        return starter.REPO
    return repo_of(query) or (query if REPO_ID.fullmatch(query) and not _is_plainly_a_path(query) else None)


def _is_plainly_a_path(query: str) -> bool:
    return query.startswith(("/", "./", "../", "~", ".\\")) or query.endswith(".gguf") or query in (".", "..")


def _path(query: str) -> Path:
    # `os.path` and not `Path` here and below: it has no exceptions for odd names and long prompts.
    return Path(os.path.expanduser(query))


def _at_path(path: Path) -> Found:
    if not os.path.exists(path):
        raise ModelNotFound(f"{path} does not exist")
    if path.suffix == ".gguf":
        raise UnsupportedModel(
            f"{path}: GGUF files are not run directly yet", hint="name an MLX model's folder"
        )
    if not os.path.isdir(path):
        raise ModelNotFound(f"{path} is a file", hint="name the model's folder, where config.json is")
    if not snapshots.is_model(path):
        raise DamagedModel(f"{path} is not a model folder: it has no config.json")
    return Found(path, path.resolve().name)


def _on_disk(query: str) -> Found | None:
    repo, _, revision = query.partition("@")
    if revision:
        path = snapshots.snapshot_of(repo, revision)
        return Found(path, repo, repo) if path else None
    held = snapshots.on_disk()
    short = repo_of(query)
    exact = next((name for name in (query, short) if name in held), None)
    if short and not exact:  # another size of the same family is not what was asked for
        return None
    candidates = [exact] if exact else match(query, held)
    if len(candidates) > 1:
        raise AmbiguousModel(
            f"{query!r} matches {len(candidates)} models: {_listed(candidates)}", hint="say more of the name"
        )
    return Found(held[candidates[0]].path, candidates[0], candidates[0]) if candidates else None


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _not_found(query: str) -> ModelNotFound:
    repo, _, revision = query.partition("@")
    known = repo_for(repo)
    if known:
        at = f" --revision {revision}" if revision else ""
        return ModelNotFound(
            f"{query} is not on this machine"
            if known == repo
            else f"{query} ({known}) is not on this machine",
            hint=f"download it with `mlxone get {known}{at}`" + ("" if revision else ", or add --pull"),
        )
    held = list(snapshots.on_disk())
    close = nearest(query, held)
    if close:
        hint = f"near it: {_listed(close)}"
    elif held:
        hint = f"on this machine: {_listed(held)}"
    else:
        hint = "no model is on this machine yet; `mlxone get ORG/REPO` downloads one"
    return ModelNotFound(f"no model on this machine matches {query!r}", hint=hint)
