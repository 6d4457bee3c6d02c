"""A small site-packages as pip would leave it, a zipapp of it, and its starts, for the zipapp's tests."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from packer import zipapp

PROGRAM = """
import json, os, sys
def main():
    import beside
    print(json.dumps({
        "null": os.path.samestat(os.fstat(2), os.stat(os.devnull)),
        "args": sys.argv[1:], "path": sys.path, "beside": beside.WHERE,
        **{name: os.environ.get(name) for name in ("MLXONE_EXECUTABLE", "SHIV_ROOT")},
    }))
    return len(sys.argv) - 1
"""
# MLXONE_HOME, and where below HOME it is when that is also the current folder: the launcher, the zipapp and
# `mlxone.hub.places` read it alike.
MLXONE_HOMES = {
    "{home}/elsewhere": "elsewhere",
    "~/below/home": "below/home",
    "~/ with space/ünd mehr//": " with space/ünd mehr",
    "~": ".",
    "~/": ".",
    "~//x": "x",
    "relative/to here": "relative/to here",
    "~other": "~other",
    "~other/x": "~other/x",
    "x/~/y": "x/~/y",
    "$HOME/x": "$HOME/x",
    "": ".cache/mlxone",
}
BUILD = "0123456789abcdef" * 4  # as shiv writes it
PATIENCE = 300.0  # seconds, for what takes a moment: the machine may be busy
COMMIT = {"commit": "0" * 40, "dirty": False}


def package(site: Path, name: str, files: dict[str, str], *requires: str, tag: str = "py3-none-any") -> None:
    """As pip leaves it: the files, and a dist-info whose RECORD lists them."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    own = {
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n",
        f"{info}/INSTALLER": "pip\n",
        f"{info}/direct_url.json": json.dumps({"url": f"file://{site}"}),
    }
    for path, text in {**files, **own}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    lines = [_recorded(site, path) for path in {**files, **own}]
    (site / info / "RECORD").write_text("".join(lines) + f"{info}/RECORD,,\n")


def _recorded(site: Path, path: str) -> str:
    content = (site / path).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"{path},sha256={digest},{len(content)}\n"


def make_site(folder: Path) -> Path:
    """A program of three lines that stands in for mlxone, what it requires, and what it does not."""
    ours = {
        "mlxone/__init__.py": "",
        "mlxone/cli/__init__.py": "",
        "mlxone/cli/main.py": PROGRAM,
        "mlxone/__pycache__/x.cpython-311.pyc": "old",
        "../bin/mlxone": "a script",
    }
    package(
        folder, "mlxone", ours, "beside[more]>=1", 'mlx-cpu; extra == "cpu"', 'other; python_version < "3"'
    )
    package(
        folder, "beside", {"beside.py": "WHERE = __file__", "beside.pyi": ""}, 'deep.one; extra == "more"'
    )
    package(folder, "deep-one", {"deep/one.py": "", "deep/data.bin": "?" * 999}, "cmeel", "mlxone")
    package(
        folder, "mlx-cpu", {"mlx/lib/a.so": "", "mlx/include/a.h": ""}, tag="py3-none-manylinux_2_28_x86_64"
    )
    package(folder, "cmeel", {"cmeel.pth": "import cmeel"})
    package(folder, "pip", {"pip/__init__.py": ""})
    return folder


def make_zipapp(folder: Path, site: Path | None = None) -> Path:
    site = site or make_site(folder / "site" / "lib")
    (folder / "starter").mkdir()
    (folder / "starter" / "model.safetensors").write_bytes(b"weights, as they are")
    work = folder / "work"
    return zipapp.build(site, folder, starter=folder / "starter", commit_info=COMMIT, work=work)


# Starts ---------------------------------------------------------------------------------------------


def launch(app: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return ended([sys.executable, app, *args], env={**os.environ, **environment})


def ended(command: list[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)


def said(app: Path, *args: str, **environment: str) -> dict:
    done = launch(app, *args, **environment)
    assert done.stderr == ""
    return json.loads(done.stdout)


def place_of(found: dict) -> Path:
    """Where it says that it was unpacked."""
    return Path(found["beside"]).parents[2]


def runtimes(place: Path | None = None) -> list[Path]:
    """All that lies there but the lock."""
    place = place or Path(os.environ["MLXONE_HOME"], "runtime")
    return sorted(path for path in place.iterdir() if path.name != ".lock")


def in_temporary(tmp_path: Path) -> Path:
    return tmp_path / f"mlxone-{os.getuid()}" / "runtime"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[int]:
    """As by a program that runs from it."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    yield descriptor
    os.close(descriptor)


def runtime_of(place: Path, name: str, origin: str | None, line: str = "origin {}\n") -> Path:
    folder = place / name
    (folder / "site-packages").mkdir(parents=True)
    if origin is not None:
        (folder / "stamp").write_text(line.format(origin))
    return folder


def made_place(*below: str) -> Path:
    path = Path(os.environ["MLXONE_HOME"], *below)
    path.parent.mkdir(parents=True, mode=0o700)
    return path
