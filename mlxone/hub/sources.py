"""Where models may lie: a literal table of programs and settings, asked anew at each call.

A source is a folder and how deep below it models are. What is in the folders is `scan`'s business.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxone.core.errors import UsageError
from mlxone.hub import config, places

HUGGING_FACE, STARTER, MODEL_DIR = "huggingface", "starter", "model-dir"


@dataclass(frozen=True, slots=True)
class Source:
    name: str  # which row of the table below
    folder: Path
    depth: int = 4  # folders below it that are looked into


def hugging_face() -> Iterator[Path]:
    yield places.hf_cache()


def lm_studio() -> Iterator[Path]:
    home = places.user_folder()
    try:
        chosen = json.loads((home / ".lmstudio" / "settings.json").read_bytes())["downloadsFolder"]
        if isinstance(chosen, str) and os.path.isabs(chosen):
            yield Path(chosen)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # no settings of its own, or none that can be read: it uses the defaults then
    yield home / ".lmstudio" / "models"
    yield home / ".cache" / "lm-studio" / "models"  # until version 0.3.5


def mlx_serve() -> Iterator[Path]:
    yield places.user_folder() / ".mlx-serve" / "models"


def model_dirs() -> Iterator[Path]:
    """What the user set: the environment's folders, then the config file's."""
    named = os.environ.get("MLXONE_MODEL_DIR", "").split(os.pathsep)
    yield from (Path(os.path.expanduser(name)).absolute() for name in named if name.strip())
    yield from config.folders_setting("model_dirs")


def starter() -> Iterator[Path]:
    """The one that came with the program hides a prepared one: they are the same model."""
    bundled = places.bundled_starter()
    yield bundled if bundled.is_dir() else places.starter_folder()


# Name, its folders, how deep: where two hold the same repo, the upper one's is meant.
SOURCES: tuple[tuple[str, Callable[[], Iterator[Path]], int], ...] = (
    (HUGGING_FACE, hugging_face, 1),
    ("lmstudio", lm_studio, 3),
    ("mlx-serve", mlx_serve, 3),
    (MODEL_DIR, model_dirs, 4),
    (STARTER, starter, 0),
)


def sources(folders: Sequence[str | Path] = ()) -> list[Source]:
    """The table as it stands now, with `folders` besides; each folder once."""
    found: dict[str, Source] = {}
    for name, listed, depth in SOURCES:
        given = [_given(folder) for folder in folders] if name == MODEL_DIR else []
        for folder in (*given, *listed()):
            found.setdefault(os.path.realpath(folder), Source(name, folder, depth))
    return list(found.values())


def _given(folder: str | Path) -> Path:
    path = Path(os.path.expanduser(folder)).absolute()
    if not os.path.isdir(path):
        raise UsageError(f"{folder} is not a folder", hint="name a folder that holds models")
    return path
