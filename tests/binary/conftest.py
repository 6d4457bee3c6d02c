"""The files that `make dist` makes, and places to try them in. `make test-binary` runs what is here."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.binary.empty_root import EmptyRoot, refusal
from tests.binary.shipped import Owner, Shipped


def _built(kind: str) -> Shipped:
    found = Shipped(kind)
    for needed in (found.file, found.manifest_file):
        if not needed.exists():
            pytest.fail(f"there is no {needed}: run `make dist` first", pytrace=False)
    return found


@pytest.fixture(scope="session")
def full() -> Shipped:
    return _built("full")


@pytest.fixture(scope="session")
def slim() -> Shipped:
    return _built("slim")


@pytest.fixture(scope="session", params=["full", "slim"])
def shipped(request: pytest.FixtureRequest) -> Shipped:
    return _built(request.param)


@pytest.fixture
def owner() -> Iterator[Owner]:
    with tempfile.TemporaryDirectory(prefix="mlxone-binary-") as folder:
        (Path(folder) / "tmp").mkdir()
        yield Owner(Path(folder))


@pytest.fixture(scope="session")
def _may_have_roots() -> None:
    """Where there are no empty roots the proofs that need one are left out, but never by accident in CI:
    of Linux it is known that it can."""
    if why := refusal():
        leave_out = pytest.fail if os.environ.get("CI") and sys.platform == "linux" else pytest.skip
        leave_out(f"no empty root: {why}")


@pytest.fixture
def empty_root(_may_have_roots: None) -> Iterator[EmptyRoot]:
    """A new one."""
    with tempfile.TemporaryDirectory(prefix="mlxone-root-") as folder:
        yield EmptyRoot(Path(folder))


@pytest.fixture(scope="module")
def lived_in(_may_have_roots: None) -> Iterator[EmptyRoot]:
    """One for all the tests of a file."""
    with tempfile.TemporaryDirectory(prefix="mlxone-root-") as folder:
        yield EmptyRoot(Path(folder))
