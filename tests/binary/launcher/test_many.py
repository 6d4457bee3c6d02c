"""Many starts at once, and starts that are killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.binary.launcher import tiny as tinies
from tests.binary.launcher.tiny import (
    ECHO,
    Home,
    Said,
    Tiny,
    contents,
    ended,
    flip,
    names,
    works,
)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """30 MB in 200 files: long enough to be met while it unpacks."""
    return tinies.make(tmp_path_factory.mktemp("big"), files=200)


@pytest.mark.parametrize("before", ["nothing", "damage", "a killed start"])
def test_20_at_once_unpack_once(home: Home, big: Tiny, before: str):
    if before == "damage":
        works(home, big)
        (home.runtimes / big.name / "_internal" / "0.bin").unlink()
    elif before == "a killed start":
        (home.runtimes / ".unpack-1-1" / "_internal").mkdir(parents=True)
        home.runtimes.chmod(0o700)
    report = ["sh", "-c", "ls -id ${0%/*}; echo $MLXONE_EXECUTABLE", str(home.runtimes / big.name / "mlxone")]
    said = [ended(child) for child in [home.start(big, *report) for _ in range(20)]]
    assert said == [Said(0, said[0].out, "")] * 20
    works(home, big)


def test_8_at_once_where_nobody_can_lock(home: Home, tmp_path: Path):
    """All unpack, one is the first, and the others start what that one made."""
    big = tinies.strange(tmp_path, files=200)
    home.env["DISK"] = "no locks"
    said = [ended(child) for child in [home.start(big, *ECHO, "hello") for _ in range(8)]]
    assert said == [Said(0, "hello\n", "")] * 8
    works(home, big)


def _staged(home: Home) -> int:
    """How many files are written so far; -1 before anybody has begun."""
    folders = home.runtimes.glob(".unpack-*")  # walked, as a walk passes over what is renamed meanwhile
    return max((sum(len(files) for _, _, files in os.walk(path)) for path in folders), default=-1)


@pytest.mark.parametrize("before", ["nothing", "damage"])
def test_killed_at_20_moments(home: Home, big: Tiny, before: str):
    works(home, big)
    whole = contents(home.runtimes / big.name)
    unfinished = 0
    for part in range(20):
        if before == "nothing":
            shutil.rmtree(home.runtimes / big.name)
        else:
            flip(home.runtimes / big.name / "_internal" / "0.bin")
        child = home.start(big, "true")
        while child.poll() is None and _staged(home) < len(whole) * part / 20:
            time.sleep(0.0005)
        child.kill()
        ended(child)
        unfinished += any(name.startswith(".unpack-") for name in names(home.runtimes))
        assert home.run(big, *ECHO, "hello") == Said(0, "hello\n", "")
        assert contents(home.runtimes / big.name) == whole
    # Killed between its last rename and the end, it leaves what it set aside to whoever unpacks next.
    (home.runtimes / big.name / "stamp").unlink()
    works(home, big)
    assert unfinished >= 3, "it was killed too late nearly each time"


def test_who_waits_for_another_start_says_so_at_a_terminal(home: Home, tiny: Tiny):
    home.runtimes.mkdir(parents=True)
    home.runtimes.chmod(0o700)
    ours, theirs = os.openpty()
    with (home.runtimes / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = home.start(tiny, *ECHO, "hello", stderr=theirs)
        assert (
            os.read(ours, 1000)
            .decode()
            .startswith("mlxone: waiting for another start that is unpacking into ")
        )
        assert names(home.runtimes) == []
    assert ended(child).out == "hello\n"
    os.close(theirs)
    os.close(ours)


@pytest.mark.parametrize("gone", ["the lock", "its folder"])
def test_a_lock_that_is_deleted_while_one_waits_for_it_counts_no_more(home: Home, tiny: Tiny, gone: str):
    """As `mlxone uninstall` does; and another start may hold a new one."""

    def waits() -> None:
        assert os.read(ours, 1000).startswith(b"mlxone: waiting for another start")

    home.runtimes.mkdir(parents=True)
    home.runtimes.chmod(0o700)
    lock = home.runtimes / ".lock"
    ours, theirs = os.openpty()
    with lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        child = home.start(tiny, *ECHO, "hello", stderr=theirs)
        waits()
        lock.unlink()
        if gone == "its folder":
            home.runtimes.rmdir()
            home.runtimes.mkdir(mode=0o700)
        with lock.open("w") as second:
            fcntl.flock(second, fcntl.LOCK_EX)
            first.close()
            waits()
            assert names(home.runtimes) == []
    assert ended(child).out == "hello\n"
    assert names(home.runtimes) == [tiny.name]
    os.close(theirs)
    os.close(ours)


def test_a_place_that_is_removed_while_one_waits_for_it_is_made_anew(home: Home, tiny: Tiny):
    home.runtimes.mkdir(parents=True)
    home.runtimes.chmod(0o700)
    ours, theirs = os.openpty()
    with (home.runtimes / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = home.start(tiny, *ECHO, "hello", stderr=theirs)
        os.read(ours, 1000)
        shutil.rmtree(home.place)
    assert ended(child).out == "hello\n"
    works(home, tiny)
    os.close(theirs)
    os.close(ours)
