"""The starter: the small model every first answer comes from, and where to get it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mlxone.core import about
from mlxone.core.errors import HubError, ModelNotFound
from mlxone.hub import download, places, snapshots

STARTER = "starter"
REPO = snapshots.STARTER_REPO
MANIFEST = "starter.json"
REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def starter(watch: download.Watch | None = None) -> Path:
    """The one inside the program, else the prepared folder, else the repo on disk, else from the Hub."""
    held = at_hand()
    if held is not None:
        return held
    cached = snapshots.snapshot_of(REPO)
    if cached is not None:
        return cached
    try:
        return download.fetch(download.plan(REPO), watch)
    except (HubError, ModelNotFound) as e:
        raise ModelNotFound(
            f"the starter model is not in {places.starter_folder()} and could not be downloaded: {e.message}",
            hint=way_to_get_it(),
        ) from e


def at_hand() -> Path | None:
    """The folder of a starter that is here and whole, the one that came with the program first."""
    folders = (places.bundled_starter(), places.starter_folder())
    return next((folder for folder in folders if is_whole(folder)), None)


def way_to_get_it() -> str:
    online = f"with a network `mlxone get {REPO}`"
    if about.kind() == "source":
        return f"run `make starter`, or {online}"
    return f"{online}, or use the `mlxone` that has the starter inside" if about.is_packed() else online


def is_whole(folder: Path) -> bool:
    """True when every file the manifest lists is there in its size, and none that is needed is unlisted."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        sizes = {name: (folder / name).stat().st_size for name in files}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return sizes == files and set(REQUIRED) <= set(files)


def write_manifest(folder: Path, source: str) -> None:
    """Seals a finished folder: what is in it, in which size, and where it came from."""
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"source": source, "files": files}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
