"""Models on the disk of a test, for the verbs that list and remove them."""

from __future__ import annotations

from pathlib import Path

from mlxone.hub import places
from tests.hub.caches import Repo, commit
from tests.sparse import write_model


def cached(repo: str, name: str, n: int = 1, *, ref: str = "main") -> Path:
    """A model of true size in the Hugging Face cache."""
    place = Repo.make(places.hf_cache(), repo)
    folder = place.folder / "snapshots" / commit(n)
    folder.mkdir()
    write_model(folder, name)
    if ref:
        place.ref(ref, n)
    return folder


def refreshed(repo: str = "org/tiny") -> Repo:
    """Two snapshots of which the first is superseded; small files, laid out with links."""
    place = Repo.make(places.hf_cache(), repo)
    for n, weights in ((1, b"old weights"), (2, b"new weights!")):
        files = {"config.json": b'{"model_type": "llama"}', "model.safetensors": weights}
        place.snapshot(n, files, ref="main")
    return place


def rows(out: str) -> list[dict[str, str]]:
    head, *lines = out.splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


def quants(repo: str = "org/quants", **files: bytes) -> Repo:
    """A cached repo of several GGUF files; none of them is a real one, which makes no difference here."""
    place = Repo.make(places.hf_cache(), repo)
    files = files or {"m-Q4_0": b"four", "m-Q8_0": b"eight bits"}
    place.snapshot(1, {f"{name}.gguf": content for name, content in files.items()}, ref="main")
    return place
