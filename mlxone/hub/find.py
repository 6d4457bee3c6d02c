"""From what a user typed to a model folder: a path, `starter`, a repo id, a short name or a query."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxone.core.errors import UnsupportedModel, UsageError
from mlxone.hub import config, missing, single, snapshots, starter
from mlxone.hub.entry import GGUF_SUPPORT, INCOMPLETE
from mlxone.hub.names import repo_of
from mlxone.hub.query import REPO_ID, as_path, is_plainly_a_path
from mlxone.hub.query import repo_for as repo_for
from mlxone.hub.registry import Registry
from mlxone.hub.resolve import matching, one_per_repo
from mlxone.hub.sources import HUGGING_FACE
from mlxone.hub.starter import STARTER


@dataclass(frozen=True, slots=True)
class Found:
    path: Path
    name: str  # what to call it
    repo: str | None = None  # its id on the Hub, where it has one


def find(query: str, folders: Sequence[str | Path] = ()) -> Found:
    """The one model the query means, or an error that says what to type instead.

    `folders` are more places with models, as the registry takes them.
    Neither a path nor the starter needs the registry. A model whose files are all there is found even
    if something is wrong with them: whoever reads it can say it better.
    """
    query = query.strip()
    if not query:
        raise UsageError("the model's name is empty")
    path = as_path(query)
    if snapshots.is_model(path) or is_plainly_a_path(query):
        return _at_path(path)
    if query == STARTER:
        return Found(starter.starter(), STARTER)
    with Registry(folders=folders) as registry:
        entry = registry.match(query)
    if entry.format == "gguf":
        raise _gguf(entry.path)
    if entry.problem and entry.problem.startswith(INCOMPLETE):
        raise missing.half_there(entry)
    from_hub = entry.source in (HUGGING_FACE, STARTER)
    return Found(entry.path, entry.repo, entry.repo if from_hub else None)


def looks_like_model(word: str) -> bool:
    """Whether a lone word on the command line names a model rather than being the prompt."""
    if os.path.exists(as_path(word)):
        return bool(word)
    if not word or any(c.isspace() for c in word):
        return False
    if word == STARTER or repo_of(word) or REPO_ID.fullmatch(word.partition("@")[0]):
        return True
    with Registry() as registry:
        return bool(matching(word, one_per_repo(registry.refresh())))


def default_model() -> str:
    """What a command uses when no model is named: never a guess."""
    return os.environ.get("MLXONE_MODEL", "").strip() or config.text_setting("model") or STARTER


def _at_path(path: Path) -> Found:
    single.check(path)
    if path.suffix == ".gguf":
        raise _gguf(path)
    return Found(path, path.resolve().name)


def _gguf(path: Path) -> UnsupportedModel:
    return UnsupportedModel(f"{path}: {GGUF_SUPPORT}", hint="name an MLX model's folder")
