"""Whether a model of this config can run here, said without loading it. Imports no MLX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxone.core.errors import MlxoneError
from mlxone.formats.config import Config
from mlxone.models.families.table import spec_of


def support(config: Mapping[str, Any]) -> str:
    """Nothing when it can, else the reason why not, in one line."""
    try:
        spec_of(Config(config))
    except MlxoneError as error:
        return error.message
    return ""
