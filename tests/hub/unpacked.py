"""Runtimes as the launcher leaves them, made up, and a process that runs from one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlxone.core import about
from mlxone.hub import places

NAME = "1.2.3-0123456789abcdef"
ZIPAPP = f"mlxone-cp311.pyz_{'ab' * 32}"
BYTES = 100

HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_EX if sys.argv[2] == "alone" else fcntl.LOCK_SH))
print("held", flush=True)
sys.stdin.read()
"""


def folder() -> Path:
    return places.home() / "runtime"


def refuge(tmp: Path) -> Path:
    return tmp / f"mlxone-{os.geteuid()}"


def unpacked(path: Path | str = NAME, origin: Path | str = "/nowhere/mlxone") -> Path:
    """A runtime of BYTES and its stamp; a name alone lies in the home of this test."""
    place = folder() / path
    (place / "_internal").mkdir(parents=True)
    (place / "_internal" / "library.so").write_bytes(b"x" * BYTES)
    (place / "stamp").write_text(f"origin {origin}\nend 0\n")
    return place


def running_from(runtime: Path, monkeypatch: pytest.MonkeyPatch, inner: str = "_internal") -> None:
    """This process is taken for a packed program that was unpacked there."""
    package = runtime / inner / "mlxone"
    package.mkdir(parents=True)
    kind = "full" if inner == "_internal" else "zipapp"
    (package / "build.json").write_text(json.dumps({"kind": kind}))
    monkeypatch.setattr(about, "PACKAGE", package)


@contextmanager
def held(path: Path, how: str = "shared") -> Iterator[None]:
    """Another process has a lock on it."""
    command = [sys.executable, "-c", HOLDER, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()
