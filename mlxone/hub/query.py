"""What a typed model name is, before any disk is asked: a path, a repo id, or words."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlxone.hub.names import repo_of
from mlxone.hub.snapshots import STARTER_REPO
from mlxone.hub.sources import STARTER

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_plainly_a_path(query: str) -> bool:
    return query.startswith(("/", "./", "../", "~", ".\\")) or query.endswith(".gguf") or query in (".", "..")


def as_path(query: str) -> Path:
    # Callers ask `os.path` and not `Path` about it: that has no exceptions for odd names and long prompts.
    return Path(os.path.expanduser(query))


def repo_for(query: str) -> str | None:
    """The repo that would be downloaded for a model that is not here: its id, or a short name's."""
    query = query.strip()
    if query == STARTER:
        return STARTER_REPO
    return repo_of(query) or (query if REPO_ID.fullmatch(query) and not is_plainly_a_path(query) else None)
