"""Small models on a disk: folders, and repos as the Hub's client lays them out; and time that passes."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlxone.hub import places
from mlxone.hub.entry import Entry
from mlxone.hub.registry import Registry
from tests.sparse import Tensor, write_shard

CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}  # fmt: skip
_STEPS = itertools.count(1)
LONG_AGO = 1_000_000_000


def model(folder: Path, *, parameters: int = 1000, files: Any = (), **config: Any) -> Path:
    """One hole of a tensor; `files` are further names and texts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    write_shard(folder / "model.safetensors", {"model.norm.weight": Tensor("BF16", (parameters,))})
    for name, text in dict(files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def repo_folder(repo: str) -> Path:
    return places.hf_cache() / ("models--" + repo.replace("/", "--"))


def repo(
    name: str, commit: str = "c" * 40, *, main: bool = True, parameters: int = 1000, **config: Any
) -> Path:
    """A snapshot whose files are links to blobs, and `main` pointing to it."""
    folder = repo_folder(name)
    snapshot = folder / "snapshots" / commit
    blobs = folder / "blobs"
    for place in (snapshot, blobs, folder / "refs"):
        place.mkdir(parents=True, exist_ok=True)
    texts = model(folder / "made", parameters=parameters, **config)
    for file in list(texts.iterdir()):
        file.rename(blobs / f"{file.name}-{commit[:8]}")
        (snapshot / file.name).unlink(missing_ok=True)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}-{commit[:8]}")
    texts.rmdir()
    if main:
        (folder / "refs" / "main").write_text(commit)
    return snapshot


def settle(*roots: Path) -> None:
    """As if time had passed since the last change: what was just touched gets a time of its own, long ago."""
    then = LONG_AGO + next(_STEPS)
    for root in roots:
        for folder, _, files in os.walk(root):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                if not os.path.islink(path) and os.stat(path).st_mtime > LONG_AGO + 1_000_000:
                    os.utime(path, (then, then))


def without_times(entries: Iterable[Entry]) -> list[Entry]:
    return sorted((replace(e, scanned_at=0.0) for e in entries), key=lambda e: str(e.path))


def names(entries: Iterable[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def afresh(tmp_path: Path) -> list[Entry]:
    """What a registry with no memory says."""
    path = tmp_path / f"fresh-{next(_STEPS)}.sqlite"
    with Registry(path) as registry:
        found = registry.list(all_revisions=True)
        assert registry.notices == []
    return without_times(found)
