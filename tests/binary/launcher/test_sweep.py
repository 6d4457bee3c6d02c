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
    names,
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


LEFTOVERS = (".unpack-1-2", ".unpack-12345-2fa0b1c", ".old-3-0", ".old-99-0a1b2c3d")
STRANGERS = (
    "notes",
    "0.9-x123456789abcdef",
    "0.9-0123456789ABCDEF",
    "my-0123456789abcdef",
    ".hidden",
    ".old-photos",
    ".old-2024-01",
    "build-0123456789abcdef",
    ".old-1",
    ".old-1-",
    ".old--1",
    ".old-1-2-3",
    ".old-a-1",
    ".old-1-0A",
    ".unpack-me",
    ".unpack-1-g",
    ".unpack-1-2.zip",
)


def test_leftovers_and_useless_runtimes_go_and_strange_things_stay(home: Home, tiny: Tiny):
    precious = home.root / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    for name in (*LEFTOVERS, *STRANGERS, "0.9-0123456789abcdef", "0.8-0123456789abcdef"):
        part = "deep" if name in STRANGERS else "_internal"
        inside = home.runtimes / name / part / "er"
        inside.mkdir(parents=True)
        (inside / "file").touch()
        (inside / "away").symlink_to(precious)
        (inside.parent / "away").symlink_to("/")
        inside.parent.chmod(0)
    (home.runtimes / "0.9-0123456789abcdef" / "manifest.json").touch()
    (home.runtimes / "build-0123456789abcdef" / "manifest.json").touch()
    (home.runtimes / "0.8-0123456789abcdef" / "stamp").write_text("origin /nowhere/mlxone\n")
    (home.runtimes / "my-0123456789abcdef" / "stamp").write_text("of 1840, one penny\n")
    (home.runtimes / "my-0123456789abcdef" / "manifest.json").mkdir()
    (home.runtimes / ".unpack-5-1").symlink_to(precious)
    (home.runtimes / ".old-5-1").touch()
    (home.runtimes / "1.1-0123456789abcdef").symlink_to(precious)
    (home.runtimes / "file").touch()
    home.runtimes.chmod(0o700)
    works(home, tiny, *STRANGERS, ".unpack-5-1", ".old-5-1", "1.1-0123456789abcdef", "file")
    assert (precious / "file").read_text() == "mine"
    for name in STRANGERS:
        assert (home.runtimes / name / "deep").stat().st_mode & 0o777 == 0
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


def test_where_nobody_can_lock_leftovers_go_after_a_day(home: Home, strange: Tiny, versions: list[Tiny]):
    """A day since they became leftovers, whatever the times in an archive say."""
    home.env["DISK"] = "no locks"
    home.runtimes.mkdir(parents=True)
    home.runtimes.chmod(0o700)
    for name in LEFTOVERS:
        (home.runtimes / name).mkdir()
        os.utime(home.runtimes / name, (0, 0))
    works(home, strange, *LEFTOVERS)
    home.env["DISK"] += ", two days later"
    (home.runtimes / strange.name / "stamp").unlink()
    assert home.run(strange, "true").code == 0
    assert not {*LEFTOVERS} & {*names(home.runtimes)}


def test_nothing_is_done_through_a_link_that_cannot_be_removed(home: Home, tiny: Tiny):
    user = 65534 if os.geteuid() == 0 else None
    precious = home.root / "precious"
    precious.mkdir(mode=0o755)
    home.runtimes.mkdir(parents=True)
    (home.runtimes / ".lock").touch()
    (home.runtimes / ".old-1-1").symlink_to(precious)
    home.runtimes.chmod(0o500)
    if user is not None:
        for path in (home.root, *home.root.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)
    assert home.run(tiny.copied(home.root / "tiny"), "true", user=user).code == 0
    assert (home.runtimes / ".old-1-1").is_symlink()
    assert precious.stat().st_mode & 0o777 == 0o755
    home.runtimes.chmod(0o700)
