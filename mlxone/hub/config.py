"""The config file: what a user sets once. Precedence is flag, environment, this file, default."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from mlxone.core.errors import StorageError, UsageError
from mlxone.core.settings import SERVE_SETTINGS
from mlxone.hub import places

KNOWN = ("model", "model_dirs", "serve")


def load_config() -> dict[str, Any]:
    """The file as it stands; no file is an empty one."""
    path = places.config_file()
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as e:  # TOMLDecodeError and UnicodeDecodeError among them
        raise UsageError(f"{path}: {e}", hint="correct the file, or remove it") from e
    except OSError as e:
        raise StorageError(f"{path}: cannot be read: {e.strerror or e}") from e
    for name in found:
        if name not in KNOWN:  # a key under a misspelled [serve] would guard nothing
            raise UsageError(
                f"{path}: there is no {name!r}, only {', '.join(KNOWN[:-1])} and the table [{KNOWN[-1]}]",
                hint=_meant(name),
            )
    return found


def text_setting(key: str) -> str | None:
    value = load_config().get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UsageError(f"{places.config_file()}: {key} must be a text, not {value!r}")
    return value


def folders_setting(key: str) -> list[Path]:
    """Whole paths, `~` among them: a relative one would mean another folder each time."""
    value = load_config().get(key, [])
    texts = isinstance(value, list) and all(isinstance(v, str) for v in value)
    if not texts or not all(v.strip() and "\0" not in v for v in value):
        raise UsageError(f"{places.config_file()}: {key} must be a list of folders, not {value!r}")
    folders = [os.path.expanduser(v) for v in value]
    relative = next((v for v in folders if not os.path.isabs(v)), None)
    if relative is not None:
        raise UsageError(f"{places.config_file()}: {key} names {relative!r}, which is not a whole path")
    return [Path(v) for v in folders]


def table_setting(key: str) -> dict[str, Any]:
    value = load_config().get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"{places.config_file()}: {key} must be a table, as under [{key}], not {value!r}")
    return value


def _meant(name: str) -> str:
    if name.replace("-", "_") in {setting.name for setting in SERVE_SETTINGS}:
        return "what the server is set to stands under [serve]"
    near = difflib.get_close_matches(name.replace("-", "_"), KNOWN, n=1)
    return f"did you mean {near[0]}?" if near else ""
