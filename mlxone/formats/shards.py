"""Which safetensors files a model folder's weights are in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel
from mlxone.formats.config import read_json

INDEX = "model.safetensors.index.json"


def shard_paths(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.exists():
        return _indexed(folder, index)
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise DamagedModel(f"{folder} holds no model*.safetensors", hint=DOWNLOAD_AGAIN)
    return paths


def indexed_names(index: Mapping[str, Any], source: str) -> list[str]:
    """The files that an index names."""
    files = index.get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
        raise DamagedModel(f"{source} has no weight_map")
    names = sorted(set(files.values()))
    for name in names:
        if Path(name).name != name:
            raise DamagedModel(f"{source} names a file outside its folder: {name[:80]!r}")
    return names


def _indexed(folder: Path, index: Path) -> list[Path]:
    names = indexed_names(read_json(index), str(index))
    for name in names:
        if not os.path.exists(folder / name):  # Path's own raises for a name that is too long
            raise DamagedModel(f"{index} names {name[:80]!r}, which is missing", hint=DOWNLOAD_AGAIN)
    return [folder / name for name in names]
