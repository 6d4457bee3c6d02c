"""What the launcher removes, and what it leaves alone."""

from __future__ import annotations

import fcntl
import os

import pytest

from tests.binary.launcher import tiny as tinies
from tests.binary.launcher.tiny import (
    Home,
    Tiny,
    ended,
    running,
    works,
)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Tiny]:
    return [tinies.make(tmp_path_factory.mktemp("tiny"), version=f"{number}.0") for number in (2, 3, 4)]


def test_an_upgrade_in_place_removes_what_it_replaced(home: Home, tiny: Tiny, versions: list[Tiny]):
    works(home, tiny.copied(home.root / "mlxone"))
    for version in versions:
        works(home, version.copied(home.root / "mlxone"))


def test_a_runtime_in_use_goes_with_the_upgrade_after(home: Home, tiny: Tiny, versions: list[Tiny]):
    child = running(home, tiny.copied(home.root / "mlxone"))
    works(home, versions[0].copied(home.root / "mlxone"), tiny.name)
    works(home, versions[1].copied(home.root / "mlxone"), tiny.name)
    assert (home.runtimes / tiny.name / "mlxone").exists()
    ended(child)
    works(home, versions[2].copied(home.root / "mlxone"))


def test_the_runtime_of_another_executable_stays_while_that_is_there(
    home: Home, tiny: Tiny, versions: list[Tiny]
):
    first = tiny.copied(home.root / "first")
    works(home, first)
    works(home, versions[0].copied(home.root / "second"), tiny.name)
    works(home, first, versions[0].name)
    first.file.unlink()
    works(home, versions[0], tiny.name)  # nothing to unpack, so nobody looks
    works(home, versions[1].copied(home.root / "second"))


def test_leftovers_and_useless_runtimes_go_and_strange_things_stay(home: Home, tiny: Tiny):
    precious = home.root / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    for name in (
        ".unpack-1-2",
        ".old-3-0",
        "0.9-0123456789abcdef",
        "notes",
        "0.9-x123456789abcdef",
        ".hidden",
    ):
        inside = home.runtimes / name / "deep" / "er"
        inside.mkdir(parents=True)
        (inside / "file").touch()
        (inside / "away").symlink_to(precious)
        (inside.parent / "away").symlink_to("/")
        inside.parent.chmod(0)
    (home.runtimes / ".unpack-link").symlink_to(precious)
    (home.runtimes / ".old-file").touch()
    (home.runtimes / "1.1-0123456789abcdef").symlink_to(precious)
    (home.runtimes / "file").touch()
    home.runtimes.chmod(0o700)
    works(home, tiny, "notes", "0.9-x123456789abcdef", ".hidden", "1.1-0123456789abcdef", "file")
    assert (precious / "file").read_text() == "mine"
    for name in ("notes", "0.9-x123456789abcdef", ".hidden"):
        (home.runtimes / name / "deep").chmod(0o700)  # for who cleans up behind the test


def test_a_half_made_runtime_of_one_at_work_stays(home: Home, tiny: Tiny):
    """Whoever unpacks holds a lock on it, should two ever get past the other lock."""
    staging = home.runtimes / ".unpack-1-2"
    staging.mkdir(parents=True)
    home.runtimes.chmod(0o700)
    at_work = os.open(staging, os.O_RDONLY)
    fcntl.flock(at_work, fcntl.LOCK_SH)
    works(home, tiny, ".unpack-1-2")
    os.close(at_work)
