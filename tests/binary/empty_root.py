"""A root folder with the C library and nothing else, and programs in it: no shell, no Python, no /etc.

Whoever runs in there is an ordinary user of a machine without a network (jail.py). /proc is there if wanted.
Only Linux has such roots (`refusal`), but this module can be imported on every system.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.binary import jail

PATIENCE = 240.0  # seconds for what takes two or three: the machine may be busy
HOME = "/home/me"
PROC = "/proc"
LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}
# The C library, and the names that parts of it had before 2.34. Not libstdc++, not libgcc_s: those we bring.
FRIENDS = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1")
DEVICES = ("/dev/null", "/dev/urandom")
_JAIL = str(Path(jail.__file__))


@dataclass(frozen=True, slots=True)
class Said:
    code: int
    out: str
    err: str


class EmptyRoot:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for place in (*FOLDERS, HOME):
            self.at(place).mkdir(parents=True)
        self.at("/tmp").chmod(0o1777)
        for device in DEVICES:
            self.at(device).touch()
        for place in self.libraries():
            self.at(place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(place), self.at(place))

    @staticmethod
    def libraries() -> list[str]:
        """All the code there is. Of FRIENDS some systems have the first two only."""
        folder = c_library_folder()
        places = [LOADERS[platform.machine()], *(f"{folder}/{name}" for name in FRIENDS)]
        return [place for place in places if Path(place).exists()]

    def at(self, place: str) -> Path:
        """Where a path of the inside is outside."""
        return self.folder / place.lstrip("/")

    def give(self, file: Path, place: str) -> str:
        """Puts a program at a place inside."""
        self.at(place).parent.mkdir(parents=True, exist_ok=True)
        self.at(place).unlink(missing_ok=True)
        shutil.copy(file, self.at(place))
        return place

    def files(self) -> list[str]:
        """All files in there, as paths of the inside."""
        return sorted("/" + str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())

    def start(
        self,
        *argv: str,
        path: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        binds: Sequence[str] = (PROC,),
        tmpfs: Mapping[str, str] | None = None,
        read_only: Sequence[str] = (),
        stdin: Any = subprocess.DEVNULL,
        listing: Path | None = None,
    ) -> subprocess.Popen[str]:
        """A program with this environment and no other; its process id is known out here, too.

        `tmpfs` are disks of its own by place, with mount's options; `listing` is told what it left on them.
        """
        wish = {
            "root": str(self.folder), "path": path or argv[0], "argv": argv, "cwd": cwd,
            "env": {"HOME": HOME} if env is None else dict(env),
            "binds": [*DEVICES, *binds], "tmpfs": dict(tmpfs or {}), "read_only": list(read_only),
        }  # fmt: skip
        if listing:
            wish["listing"] = str(listing)
        return _begin(wish, stdin)

    def run(self, *argv: str, input: str | None = None, **how: Any) -> Said:
        child = self.start(*argv, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, **how)
        return _end(child, input)


FOLDERS = ("/proc", "/dev", "/tmp", "/opt")


def tool(name: str) -> str:
    """A program of this machine. Missing is a failure and not a skip, as with the compiler."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"there is no {name} here: CONTRIBUTING.md lists what these proofs need", pytrace=False)
    return path


def beside(pid: int, *argv: str) -> Said:
    """Runs a program of this machine in the network of a program in an empty root."""
    wish = {"join": pid, "path": tool(argv[0]), "argv": argv, "env": {"PATH": os.defpath}}
    return _end(_begin(wish, subprocess.DEVNULL))


def refusal() -> str:
    """Why there can be no empty root on this machine; nothing where there can."""
    if sys.platform != "linux":
        return "only Linux has namespaces"
    said = _end(_begin({"root": "/", "path": tool("true"), "argv": ["true"], "env": {}}, subprocess.DEVNULL))
    return f"no user namespaces here: {said.err.strip()}" if said.code == jail.REFUSED else ""


def c_library_folder() -> str:
    """Where this system keeps it: known from this very process."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(str(Path(line.split()[-1]).parent) for line in maps if line.endswith("/libc.so.6"))


def _begin(wish: Mapping[str, Any], stdin: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-IS", _JAIL, json.dumps(wish)],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip


def _end(child: subprocess.Popen[str], input: str | None = None) -> Said:
    try:
        out, err = child.communicate(input, timeout=PATIENCE)
    finally:
        child.kill()
    return Said(child.returncode, out, err)
