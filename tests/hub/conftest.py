from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from mlxone.hub import places
from tests.hub.fake_hub import FakeHub, serving


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A running Hub of one's own; the client talks to it, does not wait between retries and has no token."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # read once, at its import
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving(FakeHub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


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
