"""The launcher by itself, around payloads of a few small files. Like the rest of tests/binary it needs what
`make dist` leaves in build/: the compiled zstd."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.binary.launcher import tiny as tinies
from tests.binary.launcher.tiny import Home, Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tinies.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tinies.strange(tmp_path_factory.mktemp("strange"))


@pytest.fixture
def home() -> Iterator[Home]:
    """In /tmp itself: the folder around a fallback must let in whoever a test wants to be."""
    with tempfile.TemporaryDirectory(prefix="mlxone-tiny-") as folder:
        yield Home(Path(folder).resolve())


@pytest.fixture
def mounts() -> None:
    """Mounts of one's own: where they are forbidden the proofs are left out, but never by accident in CI."""
    if why := tinies.no_mounts():
        leave_out = pytest.fail if os.environ.get("CI") and sys.platform == "linux" else pytest.skip
        leave_out(f"no mounts of one's own here: {why}")
