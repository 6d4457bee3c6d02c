"""Collects the program into one folder: `build/tree-slim`, and `build/tree-full` with the starter.

PyInstaller gathers what the imports and `contents.py` say (mlxone.spec); what it leaves is put
right here: symbols for debuggers go, and with them the builder's folders; package metadata and
`build.json` come, and the libraries that are asked for under another name find one. Runs with the
Python of build/env.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlxone.core.about import STARTER
from packer import contents, elf
from packer.words import BuildError

PROGRAM = "mlxone"
INNER = "_internal"
TOLD = "collected.json"  # written by mlxone.spec
DONE = "done.json"  # written last: of which version and commit the folder is


@dataclass(frozen=True)
class Collected:
    """What went into the folder: modules by their names, and where each file came from."""

    tree: Path
    modules: tuple[str, ...]
    sources: dict[str, Path]
    version: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)  # commit and dirty, as they were then

    @property
    def distributions(self) -> list[importlib.metadata.Distribution]:
        """The installed packages that any module or file belongs to, in the order of their names."""
        tops = {name.split(".")[0] for name in self.modules} | {name.split("/")[0] for name in self.sources}
        owners = importlib.metadata.packages_distributions()
        names = {owner for top in tops for owner in owners.get(top, ())}
        # Of mlx-cpu and cmeel-openblas there are libraries only, which no module's name leads to.
        names |= {_owner(path) for path in self.sources.values()} - {""}
        found = {d.metadata["Name"]: d for d in map(importlib.metadata.distribution, names)}
        return [found[name] for name in sorted(found, key=str.lower)]


def collect(spec: Path, work: Path, version: str, facts: Mapping[str, object]) -> Collected:
    """Runs PyInstaller and puts its folder right."""
    forget(work)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "ERROR"]
        + ["--distpath", str(work / "collected"), "--workpath", str(work / "pyinstaller"), str(spec)],
        # Stored, not compressed: the archive around it packs better, and modules load faster.
        env=os.environ | {"PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "0", "PYINSTALLER_CONFIG_DIR": str(work)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        (work / "pyinstaller.log").write_text(done.stdout + done.stderr)
        raise BuildError(f"PyInstaller: {last}", f"all of it is in {work / 'pyinstaller.log'}")
    collected = replace(_told(work), version=version, facts=facts)
    inner = collected.tree / INNER
    for file in of_python(inner, collected.sources):
        strip_symbols(file)
        elf.drop_search_path(file)
    write_metadata(inner, collected.distributions)
    give_other_names(inner)
    unfinished = work / "collected" / f"{DONE}.new"
    unfinished.write_text(json.dumps({"version": version, "facts": facts}))
    unfinished.replace(work / "collected" / DONE)
    return collected


def kept(work: Path) -> Collected | None:
    """What was collected before, if all of it was; with the facts of then, which are those of its code."""
    try:
        done = json.loads((work / "collected" / DONE).read_text())
    except FileNotFoundError:
        return None
    return replace(_told(work), version=done["version"], facts=done["facts"])


def forget(work: Path) -> None:
    """What is in the folder is not to be taken for a whole collection any more."""
    (work / "collected" / DONE).unlink(missing_ok=True)


def _told(work: Path) -> Collected:
    told = json.loads((work / "collected" / TOLD).read_text())
    sources = {name: Path(source) for name, source in told["files"].items()}
    return Collected(work / "collected" / "tree", tuple(told["modules"]), sources)


def finish(
    collected: Collected, tree: Path, build_facts: Mapping[str, object], licences: str, starter: Path | None
) -> None:
    """Makes one kind's tree: hard links to what was collected, and what differs between the kinds."""
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(collected.tree, tree, symlinks=True, copy_function=os.link)
    (tree / INNER / PROGRAM).mkdir(exist_ok=True)
    (tree / INNER / PROGRAM / "build.json").write_text(json.dumps(build_facts, sort_keys=True) + "\n")
    (tree / "licenses.txt").write_text(licences, encoding="utf-8")
    if starter:
        shutil.copytree(starter, tree / INNER / STARTER, copy_function=os.link)


def of_python(inner: Path, sources: Mapping[str, Path]) -> Iterator[Path]:
    """The libraries that came with the Python of the build: what may be changed before it is packed.

    Wheels' own stay as they are, also where build/env lies under that Python's prefix: their makers
    have moved parts about in them, and `strip` would break them. So do macOS's files, which it would
    leave without a valid signature.
    """
    if sys.platform != "linux":
        return
    base, wheels = Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve()
    for name, source in sources.items():
        file, origin = inner / name, source.resolve()
        ours = origin.is_relative_to(base) and not origin.is_relative_to(wheels)
        if ours and ".so" in file.name and not file.is_symlink():
            yield file


def strip_symbols(file: Path) -> None:
    """Symbols of Python itself, which only a debugger reads, are three quarters of its size."""
    tool = shutil.which("strip")
    if tool:
        subprocess.run([tool, "--strip-unneeded", str(file)], check=True)


def write_metadata(inner: Path, distributions: list[importlib.metadata.Distribution]) -> None:
    """The header of each package's metadata: what says its name and version, and nothing of this machine."""
    for distribution in distributions:
        text = distribution.read_text("METADATA") or ""
        name = distribution.metadata["Name"].replace("-", "_")
        folder = inner / f"{name}-{distribution.version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(text.split("\n\n")[0] + "\n", encoding="utf-8")


def give_other_names(inner: Path) -> None:
    """Links under the names, and in the places, where libraries look for each other."""
    for name, pattern in contents.OTHER_NAMES.items():
        for file in inner.glob(pattern):
            (inner / name).unlink(missing_ok=True)
            (inner / name).symlink_to(file.relative_to(inner))


def _owner(path: Path) -> str:
    """The distribution that installed this file, or nothing: looked for among those without modules."""
    for name in ("mlx-cpu", "mlx-metal", "cmeel-openblas"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if any(Path(str(file.locate())) == path for file in files):
            return name
    return ""
