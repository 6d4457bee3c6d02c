"""The program as PyInstaller's plain one-file build: it unpacks at every start what ours unpacks once.

Made from the same environment with the same modules and exclusions, in build/bench/, and otherwise as
PyInstaller does it by itself: libraries with their symbols, modules compressed, its start-up hooks in place.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from packer import contents

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / "build" / "env" / "bin" / "python"
PLACE = ROOT / "build" / "bench"


def plain_build() -> Path:
    """The path of the executable; it is made anew when the environment is newer."""
    made = PLACE / "plain"
    if not PYTHON.is_file():
        raise SystemExit(f"there is no {PYTHON}: run `make dist` first, or name a build with --plain")
    if not made.is_file() or made.stat().st_mtime < _installed().stat().st_mtime:
        print("making the plain one-file build (a minute or two)", flush=True)
        command = [str(PYTHON), "-P", "-m", "PyInstaller", *_options(), str(ROOT / "packer" / "program.py")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"PyInstaller failed:\n{done.stderr[-2000:]}")
    return made


def _options() -> list[str]:
    places = {"dist": PLACE, "work": PLACE / "work", "spec": PLACE}
    site = _installed().parents[1]
    libraries = site.glob("cmeel.prefix/lib/libopenblas.so")
    return [
        *("--onefile", "--name", "plain", "--noconfirm", "--log-level", "ERROR"),
        *(word for name, path in places.items() for word in (f"--{name}path", str(path))),
        *("--collect-submodules", "mlxone", "--collect-data", "mlxone"),
        *(word for name in ("mlxone", "mlx", "mlx-cpu") for word in ("--copy-metadata", name)),
        *(word for name in contents.HIDDEN for word in ("--hidden-import", name)),
        *(word for name in contents.EXCLUDED for word in ("--exclude-module", name)),
        *(word for file in libraries for word in ("--add-binary", f"{file}:cmeel.prefix/lib")),
    ]


def _installed() -> Path:
    """mlxone as it is installed there."""
    found = next((PYTHON.parents[1] / "lib").glob("python3*/site-packages/mlxone/__init__.py"), None)
    if found is None:
        raise SystemExit(f"{PYTHON} has no mlxone: run `make dist`")
    return found
