"""Reads the small text files of a model folder: bounded, and every damage is one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel, StorageError

# The largest published tokenizer.json is about 35 MB; a config or a template is far below one.
TOKENIZER_LIMIT = 512 * 1024 * 1024
CONFIG_LIMIT = 64 * 1024 * 1024


def read_bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise DamagedModel(f"{path} is larger than {limit // 1024**2} MB", hint=DOWNLOAD_AGAIN)
    return data


def read_text(path: Path, limit: int = CONFIG_LIMIT) -> str:
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedModel(f"{path} is not UTF-8 text", hint=DOWNLOAD_AGAIN) from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an absent file is an empty one."""
    if not path.is_file():
        return {}
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise DamagedModel(f"{path} is not valid JSON: {reason}", hint=DOWNLOAD_AGAIN) from error
    if not isinstance(value, dict):
        raise DamagedModel(f"{path} holds no JSON object", hint=DOWNLOAD_AGAIN)
    return value
