"""A launcher like the real one with next to nothing inside, and what can be done to its files.

The program inside executes its arguments (`tiny python -c …`), so a test can look at anything that
the launcher hands on.
"""

from __future__ import annotations

import fcntl
import os
import random
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packer import launcher, payload

ROOT = Path(__file__).parents[3]
WORK = ROOT / "build" / "launcher"  # where the build keeps zstd's compiled decoder
COMPILER = os.environ.get("CC") or "cc"
STRANGE_DISK = Path(__file__).with_name("strange_disk.c")
STRANGE_CALLS = ("flock", "fstat", "fstatat", "renameat", "symlinkat", "time")
ECHO = ["sh", "-c", 'echo "$@"', "sh"]
PATIENCE = 120


@dataclass(frozen=True)
class Tiny:
    """One built launcher, and the name and size of what it unpacks."""

    file: Path
    name: str
    size: int
    payload: bytes

    def copied(self, to: Path) -> Tiny:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.file, new := to.with_name(to.name + ".new"))
        new.chmod(0o755)
        new.replace(to)  # as an upgrade does it
        return Tiny(to, self.name, self.size, self.payload)


def make(
    folder: Path, *, version: str = "1.0", files: int = 3, cc: str = COMPILER, program: str | None = None
) -> Tiny:
    """`files` of 150 kB each that compress well, in several folders, one that does not, and a link."""
    tree = folder / "tree"
    (tree / "_internal" / "deep" / "er").mkdir(parents=True)
    for number in range(files):
        where = tree / "_internal" / ("deep/er" if number % 3 == 1 else "deep" if number % 3 else ".")
        (where / f"{number}.bin").write_bytes(
            f"{version} {number}\n".encode() * (150_000 // (len(version) + 3))
        )
    (tree / "_internal" / "dense.bin").write_bytes(random.Random(5).randbytes(50_000))
    (tree / "_internal" / "lïnk").symlink_to("deep/er")
    (tree / "mlxone").write_text(program if program is not None else '#!/bin/sh\nexec "$@"\n')
    (tree / "mlxone").chmod(0o755)
    manifest = payload.pack(tree, folder / "payload", version=version, kind="tiny", level=1)
    launcher.build(
        folder / "payload", folder / "tiny", runtime_name=manifest.name, glibc="2.35", work=WORK, cc=cc
    )
    shutil.rmtree(tree)
    return Tiny(folder / "tiny", manifest.name, manifest.size, (folder / "payload").read_bytes())


def strange(folder: Path, *, files: int = 3) -> Tiny:
    """One whose disk is as $DISK says: strange_disk.c knows the words."""
    renamed = (f"-D{call}=strange_{call}" for call in STRANGE_CALLS)
    return make(folder, files=files, cc=shlex.join([*shlex.split(COMPILER), *renamed, str(STRANGE_DISK)]))


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@dataclass
class Home:
    """A user's places."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.temporary.mkdir()
        self.env = {
            "HOME": str(self.root),
            "TMPDIR": str(self.temporary),
            "PATH": os.environ["PATH"],
        } | self.env

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def place(self) -> Path:
        return self.root / ".cache" / "mlxone"

    @property
    def runtimes(self) -> Path:
        return self.place / "runtime"

    @property
    def fallback(self) -> Path:
        return self.temporary / f"mlxone-{os.geteuid()}"

    def start(self, command: Tiny | list[str | Path], *args: str, **how: Any) -> subprocess.Popen[str]:
        words = [command.file] if isinstance(command, Tiny) else command
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([*words, *args], text=True, cwd=self.root, **pipes | {"env": self.env} | how)

    def run(self, command: Tiny | list[str | Path], *args: str, **how: Any) -> Said:
        return ended(self.start(command, *args, **how))


def ended(child: subprocess.Popen[str], given: str = "") -> Said:
    try:
        out, err = child.communicate(given, timeout=PATIENCE)
    finally:
        child.kill()
    return Said(child.returncode, out, err)


def names(runtimes: Path) -> list[str]:
    """All that lies there but the lock."""
    return sorted(entry.name for entry in runtimes.iterdir() if entry.name != ".lock")


def contents(runtime: Path) -> dict[str, Any]:
    """Everything that was unpacked: what a repair must bring back."""
    found: dict[str, Any] = {}
    for path in runtime.rglob("*"):
        if path.name != "stamp":
            content = os.readlink(path) if path.is_symlink() else path.is_dir() or path.read_bytes()
            found[str(path.relative_to(runtime))] = (path.lstat().st_mode, content)
    return found


def in_use(runtime: Path) -> bool:
    folder = os.open(runtime, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def python(code: str) -> list[str]:
    """Arguments for a tiny launcher: this Python, without anything it would load or set by itself."""
    return [sys.executable, "-I", "-S", "-c", code]


def with_mounts(setup: str) -> list[str | Path]:
    """Words before a command: it then runs among mounts of its own, which `setup` makes."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-ec", f'{setup}\nexec "$@"', "sh"]


def no_mounts() -> str:
    """Why `with_mounts` does not work here; empty if it does."""
    try:
        done = subprocess.run(
            [*with_mounts("mount -t tmpfs none /mnt"), "true"], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


def works(home: Home, tiny: Tiny, *beside: str, place: Path | None = None) -> None:
    """It starts from there without a word, and nothing else is there but what is named."""
    assert home.run(tiny, *ECHO, "hello") == Said(0, "hello\n", "")
    assert names((place or home.place) / "runtime") == sorted([tiny.name, *beside])


def running(home: Home, tiny: Tiny) -> subprocess.Popen[str]:
    """Started, and waiting for the end of its input."""
    child = home.start(tiny, "sh", "-c", "echo; read line")
    child.stdout.readline()
    return child


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with file.open("r+b") as opened:
        opened.write(content)
