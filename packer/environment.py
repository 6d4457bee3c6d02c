"""A clean virtual environment in build/env: what is packed, and the tools that pack it.

Nothing of the caller's own environment gets in: everything is installed anew by constraints.txt,
and again whenever that file, pyproject.toml or the Python change. mlxone itself is installed from
the sources as they are now, at every change of them. Runs before anything is installed, so it
uses the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from packer.words import BuildError

TOOLS = ("pyinstaller", "shiv", "zstandard", "certifi", "hatchling")
EXTRA = "[cpu]" if sys.platform == "linux" else ""
DEBIAN = Path("/etc/debian_version")
SOURCES = ("mlxone", "pyproject.toml", "README.md", "LICENSE")


def prepare(root: Path, folder: Path) -> Path:
    """Brings the environment up to date with the sources in `root` and returns its Python."""
    python = folder / "bin" / "python"
    versions = [root / "pyproject.toml", root / "constraints.txt"]
    wanted = _digest(versions, str(folder), sys.version, *TOOLS, EXTRA)
    if not _stamped(folder / ".packages", wanted) or not python.exists():
        _make(folder, python)
        _pip(python, "install", "-c", str(root / "constraints.txt"), *TOOLS)
        _pip(python, "install", "-c", str(root / "constraints.txt"), "--no-build-isolation", f"{root}{EXTRA}")
        (folder / ".packages").write_text(wanted)
    sources = _digest(list(_files(root)))
    if not _stamped(folder / ".sources", sources):
        _pip(python, "install", "--no-deps", "--no-build-isolation", "--force-reinstall", str(root))
        (folder / ".sources").write_text(sources)
    return python


def check_library() -> None:
    """What is packed is Python's shared library, where PyInstaller looks for it; not every Python has one."""
    if sysconfig.get_config_var("PYTHONFRAMEWORK"):  # macOS: the framework is one
        return
    base = Path(sys.base_prefix)
    folders = [base, base / "lib"]
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        name = str(sysconfig.get_config_var("INSTSONAME"))
        folders += map(Path, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
        folders.append(Path(sysconfig.get_config_var("LIBDIR") or base / "lib"))
    else:  # some makers add one to a Python that was built without
        python = f"libpython{sysconfig.get_config_var('LDVERSION')}"
        name = f"{python}.dylib" if sys.platform == "darwin" else f"{python}.so.1.0"
    if any((folder / name).is_file() for folder in folders):
        return
    of_the_system = sys.base_prefix == "/usr" and DEBIAN.exists()
    raise BuildError(
        f"{sys.executable} has no shared library {name}, and that is what is packed",
        f"apt install {name.partition('.so')[0]}"
        if of_the_system
        else "take a Python that was built with --enable-shared",
    )


def clean_variables(commit_time: int) -> dict[str, str]:
    """The variables that later steps run with: nothing of the caller's Python, nothing random."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "_PYI", "PYINSTALLER"))}
    return kept | {
        "PYTHONHASHSEED": "0",  # the order of sets in compiled code
        "PYTHONDONTWRITEBYTECODE": "1",
        "SOURCE_DATE_EPOCH": str(commit_time),
    }


def site_packages() -> Path:
    """Where the packages of the running Python are."""
    return Path(sysconfig.get_path("purelib"))


def starter(root: Path, folder: Path) -> None:
    """Makes the starter model. Never the user's own: what is shipped must not hang on who builds it.

    It is made anew when the recipe changes, and when any byte of what was made does.
    """
    stamp = folder.with_name(folder.name + ".made")
    recipe = [root / "tools" / "make_starter.py", root / "tools" / "starter-requirements.txt"]
    recipe.append(root / "mlxone" / "models" / "gguf.py")
    if _stamped(stamp, _digest([*recipe, *sorted(folder.glob("*"))])):
        return
    shutil.rmtree(folder, ignore_errors=True)
    done = _quiet([sys.executable, str(recipe[0]), "--to", str(folder)])
    if done.returncode:
        raise BuildError(
            (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("error: ")
        )
    stamp.write_text(_digest([*recipe, *sorted(folder.glob("*"))]))


def _make(folder: Path, python: Path) -> None:
    """The second road is for systems that ship Python's venv module without the pip inside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = _quiet([sys.executable, "-m", "venv", str(folder)])
    if done.returncode == 0:
        return
    bare = _quiet([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
    if bare.returncode:
        raise BuildError(f"no virtual environment can be made in {folder}: {_reason(bare)}")
    pip = _quiet([sys.executable, "-m", "pip", "-qq", "--python", str(python), "install", "pip"])
    if pip.returncode:
        raise BuildError(
            f"{sys.executable} has no working pip: {_reason(pip)}", "install Python's pip or venv package"
        )


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "-q", "--disable-pip-version-check", "--no-input", *arguments]
    done = _quiet(command)
    if done.returncode:
        raise BuildError(f"pip {' '.join(arguments)}: {_reason(done)}", "is there a network?")


def _quiet(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """pip's own error line where there is one, else the last words that were said."""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]


def _files(root: Path) -> Iterator[Path]:
    for name in SOURCES:
        path = root / name
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        else:
            yield path


def _digest(files: list[Path], *words: str) -> str:
    hashed = hashlib.sha256("\0".join(words).encode())
    for file in files:
        hashed.update(f"\0{file}\0".encode() + file.read_bytes())
    return hashed.hexdigest()


def _stamped(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text() == wanted
