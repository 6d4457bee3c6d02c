"""The layout of the Hugging Face cache, as far as one repo of it: refs, snapshots, which one is meant.

Looks at the disk itself: the starter is found here, without the registry.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from mlxone.formats.shards import INDEX
from mlxone.hub import places

PREFIX = "models--"  # of a cached repo's folder, where slashes are `--`
DATASETS = "datasets--"  # the same of a dataset
STARTER_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHORTEST_COMMIT = 7  # letters of a commit that are enough to name it


def is_model(folder: Path) -> bool:
    return os.path.isfile(folder / "config.json")


def is_whole(folder: Path) -> bool:
    """A model whose weights are all there, by name: what other tools leave may be its config alone."""
    if not is_model(folder):
        return False
    try:
        index = json.loads((folder / INDEX).read_bytes())
        return all((folder / name).is_file() for name in set(index["weight_map"].values()))
    except FileNotFoundError:
        return any(path.is_file() for path in folder.glob("*.safetensors"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def repo_folder(repo: str, prefix: str = PREFIX) -> Path:
    return places.hf_cache() / (prefix + repo.replace("/", "--"))


def snapshot_of(repo: str) -> Path | None:
    """A cached repo's folder: what `main` points to; where that is not whole, the one that came last."""
    folder = repo_folder(repo)
    whole = [path for path in _listed(folder / "snapshots") if is_whole(path)]
    main = ref(folder, "main")
    return max(whole, key=lambda p: (p.name == main, p.stat().st_mtime), default=None)


def commit_of(folder: Path, revision: str) -> str:
    """What a branch or tag of a cached repo points to; anything else is (the beginning of) a commit."""
    return ref(folder, revision) or revision


def ref(folder: Path, name: str) -> str | None:
    if ".." in name or name.startswith("/"):
        return None
    try:
        return (folder / "refs" / name).read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
