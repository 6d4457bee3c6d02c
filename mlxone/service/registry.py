"""The library's `Registry`: the models on this machine, each with whether it can run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxone.hub import registry


class Registry(registry.Registry):
    def __init__(self, path: Path | None = None, *, folders: Sequence[str | Path] = ()) -> None:
        super().__init__(path, folders=folders, judge=_support)


def _support(config: Mapping[str, Any]) -> str:
    from mlxone.models.support import support  # mostly every model on disk has been judged before

    return support(config)
