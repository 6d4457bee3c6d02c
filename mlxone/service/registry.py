"""The library's `Registry`: the models on this machine, each with whether it can run here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlxone.hub import registry
from mlxone.models.support import support


class Registry(registry.Registry):
    def __init__(self, path: Path | None = None, *, folders: Sequence[str | Path] = ()) -> None:
        super().__init__(path, folders=folders, judge=support)
