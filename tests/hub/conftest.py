from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

from mlxone.hub import client, places
from tests.hub.fake_hub import FakeHub, serving


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A running Hub of one's own; the client talks to it, does not wait between retries and has no token."""
    monkeypatch.setattr(client, "PATIENCE", replace(client.PATIENCE, pause=lambda stop, seconds: None))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # read once, at its import
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving(FakeHub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
        nothing_damaged_is_visible(hub)


def nothing_damaged_is_visible(hub: FakeHub) -> None:
    """What must hold at any moment, whatever went wrong: a file that has its name is whole and right."""
    for path in places.hf_cache().glob("*--*/snapshots/*/**/*"):
        if path.is_dir():
            continue
        content = path.read_bytes()
        if path.is_symlink():
            assert path.resolve().name in hashes(content), path
        else:
            name = path.relative_to(places.hf_cache()).parts[0].removeprefix("models--").replace("--", "/")
            repo = hub.repos.get(name)  # None: put there by the test itself
            assert repo is None or content in repo.files.values(), path


def hashes(content: bytes) -> set[str]:
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {git, hashlib.sha256(content).hexdigest()}


@pytest.fixture
def cached() -> Callable[..., Path]:
    """Puts a repo into the cache of this test, as the Hub's client would lay it out."""

    def put(
        repo: str,
        commit: str = "c" * 40,
        *,
        main: str | None = None,
        config: bool = True,
        weights: bool = True,
    ) -> Path:
        folder = places.hf_cache() / ("models--" + repo.replace("/", "--"))
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "tokenizer.json").write_text("{}")
        if config:
            (snapshot / "config.json").write_text("{}")
        if weights:
            (snapshot / "model.safetensors").write_bytes(b"")
        if main is not None:
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs" / "main").write_text(main)
        return snapshot

    return put
