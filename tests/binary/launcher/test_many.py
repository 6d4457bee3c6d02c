"""Many starts at once, and starts that are killed."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import time

import pytest

from tests.binary.launcher import tiny as tinies
from tests.binary.launcher.tiny import (
    ECHO,
    Home,
    Said,
    Tiny,
    contents,
    ended,
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


def test_killed_at_20_random_moments(home: Home, big: Tiny):
    began = time.monotonic()
    works(home, big)
    seconds, whole, chance = time.monotonic() - began, contents(home.runtimes / big.name), random.Random(5)
    unfinished = 0
    for part in range(20):
        shutil.rmtree(home.runtimes / big.name)
        child = home.start(big, "true")
        time.sleep(seconds * (part + chance.random()) / 20)
        child.kill()
        ended(child)
        unfinished += not (home.runtimes / big.name).exists()
        works(home, big)
        assert contents(home.runtimes / big.name) == whole
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
