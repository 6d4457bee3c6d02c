"""`mlxone.load_context`: a context for programs that embed a server, or answer many at once themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxone.service.context import Context
from mlxone.service.options import Options


def load_context(*models: str | Path, folders: Sequence[str | Path] = (), **options: Any) -> Context:
    """The models that will answer, loaded as far as they fit together: paths, repo ids or queries.

    Without any, whatever the registry knows is loaded when it is asked for. `options` are those of
    `mlxone serve`: `memory_budget` in decimal GB, `ctx_size`, `timeout`, ….
    """
    context = Context(models, folders=folders, options=Options(**options))
    context.start_now()
    return context
