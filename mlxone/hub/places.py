"""Where things live. The environment is read at each call, so a test or a command can move them."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Our own state: the starter, the chat history, later the registry and KV files."""
    return _folder("MLXONE_HOME") or Path(os.path.expanduser("~/.cache/mlxone"))


def config_file() -> Path:
    base = _folder("XDG_CONFIG_HOME") or Path(os.path.expanduser("~/.config"))
    return base / "mlxone" / "config.toml"


def starter_folder() -> Path:
    return home() / "starter"


def hf_cache() -> Path:
    """The Hugging Face cache, by the Hub client's own rules."""
    named = _folder("HF_HUB_CACHE") or _folder("HUGGINGFACE_HUB_CACHE")
    base = _folder("XDG_CACHE_HOME") or Path(os.path.expanduser("~/.cache"))
    return named or (_folder("HF_HOME") or base / "huggingface") / "hub"


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return Path(os.path.expanduser(os.path.expandvars(value))) if value else None
