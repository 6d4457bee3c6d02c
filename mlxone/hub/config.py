"""The config file: what a user sets once. Precedence is flag, environment, this file, default."""

from __future__ import annotations

import tomllib
from typing import Any

from mlxone.core.errors import StorageError, UsageError
from mlxone.hub import places


def load_config() -> dict[str, Any]:
    """The file as it stands; no file is an empty one."""
    path = places.config_file()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as e:  # TOMLDecodeError and UnicodeDecodeError among them
        raise UsageError(f"{path}: {e}", hint="correct the file, or remove it") from e
    except OSError as e:
        raise StorageError(f"{path}: cannot be read: {e.strerror or e}") from e


def text_setting(key: str) -> str | None:
    value = load_config().get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UsageError(f"{places.config_file()}: {key} must be a text, not {value!r}")
    return value
