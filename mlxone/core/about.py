"""What the program knows of itself: which build it is, where it lies, how it is started again.

The one file of this room that asks the system, and only about the program's own files. Nothing is
read before it is asked for. `build.json` beside the package says what was packed; a source tree has
none, so there git is asked.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxone import __version__

Kind = Literal["source", "wheel", "full", "slim", "zipapp"]
Backend = Literal["cpu", "cuda", "metal"]

PACKED: tuple[Kind, ...] = ("full", "slim", "zipapp")
EXECUTABLE = "MLXONE_EXECUTABLE"  # the launcher and the zipapp say here which file was started
PACKAGE = Path(__file__).parents[1]
STARTER = "mlxone_starter"  # the folder beside the package, in a build that has the starter inside
GIT_SECONDS = 5.0
# MLX's backends are packages of their own; where there are two, the GPU's is the one that computes.
BACKENDS: dict[str, Backend] = {
    "mlx-metal": "metal",
    "mlx-cuda-13": "cuda",
    "mlx-cuda-12": "cuda",
    "mlx-cpu": "cpu",
}


@dataclass(frozen=True, slots=True)
class Build:
    commit: str | None  # None: nobody wrote it down
    dirty: bool | None  # files differ from the commit
    kind: Kind


@dataclass(frozen=True, slots=True)
class About:
    version: str
    commit: str | None
    dirty: bool | None
    kind: Kind
    mlx: str | None  # its version; None: not installed
    python: str
    platform: str
    backend: Backend | None  # that is installed, which need not be one that works
    executable: str


def about() -> About:
    """All of it. Imports no MLX, so it can be said where MLX does not load."""
    import platform  # as `subprocess` below: this file is read by every command, these words by few

    made = build()
    return About(
        __version__,
        made.commit,
        made.dirty,
        made.kind,
        package_version("mlx"),
        platform.python_version(),
        f"{sys.platform}-{platform.machine()}",
        installed_backend(),
        executable(),
    )


def build() -> Build:
    """Of a source tree this asks git; `kind` alone is cheaper."""
    said = _build_json()
    if said is None:
        commit, dirty = _asked_of_git() if kind() == "source" else (None, None)
        return Build(commit, dirty, kind())
    written, changed = said.get("commit"), said.get("dirty")
    return Build(
        written if isinstance(written, str) else None,
        changed if isinstance(changed, bool) else None,
        kind(),
    )


def kind() -> Kind:
    said = (_build_json() or {}).get("kind")
    for packed in PACKED:
        if said == packed:
            return packed
    if is_frozen():
        return "full" if (PACKAGE.parent / STARTER).is_dir() else "slim"
    return "source" if (PACKAGE.parent / "pyproject.toml").is_file() else "wheel"


def is_frozen() -> bool:
    """Whether this is the binary: its Python is no Python that anybody else could use."""
    return bool(getattr(sys, "frozen", False))


def is_packed() -> bool:
    """Whether it came as one file, into which no package can be installed."""
    return kind() in PACKED


def executable() -> str:
    """The file that a person starts."""
    named = os.environ.get(EXECUTABLE)
    # Inherited from a binary that started us, the variable would name another program.
    if named and is_packed():
        return named
    script = Path(sys.executable).with_name("mlxone")
    return str(script) if script.is_file() and not is_frozen() else sys.executable


def own_command() -> list[str]:
    """What starts this program again, for a process of our own.

    The binary goes through its launcher where that is still there: on a bare system what it unpacked
    cannot find its own libraries without it.
    -P: a file in the working directory must not pass for one of Python's own modules.
    """
    if is_frozen():
        return [executable() if os.access(executable(), os.X_OK) else sys.executable]
    named = os.environ.get(EXECUTABLE)
    if named and kind() == "zipapp":
        return [sys.executable, named]
    return [sys.executable, "-P", "-m", "mlxone"]


def runtime_folder() -> Path | None:
    """Where the binary unpacked itself and runs from; None for all other kinds."""
    return Path(sys.executable).parent if is_frozen() else None


def installed_backend() -> Backend | None:
    return next((name for package, name in BACKENDS.items() if package_version(package)), None)


def package_version(package: str) -> str | None:
    """By its metadata: the package itself is not imported."""
    from importlib import metadata  # a slow import

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _build_json() -> dict[str, Any] | None:
    try:
        said = json.loads((PACKAGE / "build.json").read_bytes())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _asked_of_git() -> tuple[str | None, bool | None]:
    """Only of a checkout of our own: a tree that lies in somebody else's has no commit."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain") if commit else None
    return commit, None if changes is None else bool(changes)


def _git(root: Path, *words: str) -> str | None:
    import subprocess

    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
