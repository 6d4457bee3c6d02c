"""The zipapp: shiv's archive of mlxone and what it needs, sealed for the one Python that it fits.

`site` is any site-packages that holds mlxone and its run-time dependencies (the build environment's own
will do): of it goes in what mlxone's requirements name, by each package's RECORD, and nothing else; an
editable install does not work. Needs `packaging` beside the standard library, and shiv as a command of the
running Python, whose version and platform give the file its name.

In the archive stand, beside shiv's own parts, `__main__.py` (zipapp_main.py: is this the right Python?) and
`zipapp_start.py` (where to unpack, once and whole). Two builds from the same files are the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from mlxone.core.about import STARTER
from packer import zipapp_main
from packer.words import BuildError

ENTRY_POINT = "mlxone.cli.main:main"
EXTRA = "cpu"  # on Linux the portable backend and its OpenBLAS; asks for nothing more on macOS
PLACEHOLDER = "BUILT_FOR = {}"
EPOCH = 315532800  # 1980-01-01, the first day a zip knows

# What packages bring that nobody runs.
_NOT_SHIPPED = frozenset({"cmeel"})  # puts cmeel's folders onto the path; we know where our library lies
_METADATA = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})  # tell of this machine
_SUFFIXES = frozenset({".pyc", ".pyi", ".pth"})
_FOLDERS = ("mlx/include", "mlx/share")
_OPENBLAS = PurePosixPath("cmeel.prefix/lib/libopenblas.so")  # the one of its three copies that is loaded


def build(
    site: Path,
    output_folder: Path,
    *,
    starter: Path | None,
    commit_info: dict[str, Any],
    work: Path,
) -> Path:
    """Makes the zipapp and gives its path; `work` is for what lies between, and is emptied first."""
    shutil.rmtree(work, ignore_errors=True)
    staged = work / "site-packages"
    shipped = needed(site)
    stage(shipped, staged)
    (staged / "mlxone" / "build.json").write_text(_json({**commit_info, "kind": "zipapp"}))
    if starter is not None:
        shutil.copytree(starter, staged / STARTER, copy_function=shutil.copyfile)
    fits = fit(shipped)
    plain = work / "plain.pyz"
    shiv(staged, plain, fits["python"])
    output_folder.mkdir(parents=True, exist_ok=True)
    finished = output_folder / f"mlxone-{tag(fits)}.pyz"
    seal(plain, finished, fits)
    plain.unlink()
    return finished


# What goes in ---------------------------------------------------------------------------------------


def needed(site: Path) -> list[Distribution]:
    """mlxone and all it requires here, by name."""
    at_hand = {canonicalize_name(found.name): found for found in distributions(path=[str(site)])}
    chosen: dict[NormalizedName, Distribution] = {}
    seen: set[tuple[NormalizedName, str]] = set()
    waiting = [(canonicalize_name("mlxone"), extra) for extra in ("", EXTRA)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name in _NOT_SHIPPED:
            continue
        seen.add((name, extra))
        if name not in at_hand:
            raise BuildError(f"{site} has no {name}, which mlxone needs")
        chosen[name] = at_hand[name]
        waiting += _required(at_hand[name], extra)
    return [chosen[name] for name in sorted(chosen)]


def _required(of: Distribution, extra: str) -> Iterator[tuple[NormalizedName, str]]:
    for requirement in map(Requirement, of.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in ("", *sorted(requirement.extras)):
                yield canonicalize_name(requirement.name), wanted


def stage(shipped: list[Distribution], to: Path) -> None:
    """Copies what is run of each package."""
    for package in shipped:
        for file in package.files or ():
            if _is_run(PurePosixPath(file)):
                target = to / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(package.locate_file(file)), target)
    if not (to / "mlxone" / "__init__.py").is_file():
        raise BuildError("mlxone is not installed there as files of its own (an editable install?)")


def _is_run(file: PurePosixPath) -> bool:
    if file.parts[0] == "cmeel.prefix":
        return file == _OPENBLAS
    return not (
        ".." in file.parts  # a script for bin/
        or file.suffix in _SUFFIXES
        or any(file.is_relative_to(folder) for folder in _FOLDERS)
        or (file.parts[0].endswith(".dist-info") and file.name in _METADATA)
    )


# What it fits -----------------------------------------------------------------------------------------


def fit(shipped: list[Distribution]) -> dict[str, Any]:
    """What zipapp_main.py compares: the running Python, and the oldest system that all wheels here allow."""
    here = zipapp_main.here()
    pattern = {"linux": r"manylinux_(\d+)_(\d+)_", "darwin": r"macosx_(\d+)_(\d+)_"}.get(sys.platform)
    wheels = (package.read_text("WHEEL") or "" for package in shipped)
    versions = (found for text in wheels for found in re.findall(pattern or "$^", text))
    oldest = max(((int(major), int(minor)) for major, minor in versions), default=(0, 0))
    return {**here, "release": list(oldest)}


def tag(fits: dict[str, Any]) -> str:
    """As in wheels' names: cp311-linux_x86_64, cp312-macosx_14_0_arm64."""
    python = {"cpython": "cp", "pypy": "pp"}.get(fits["implementation"], fits["implementation"])
    system = "macosx_{}_{}".format(*fits["release"]) if fits["system"] == "darwin" else fits["system"]
    return f"{python}{fits['python'].replace('.', '')}-{system}_{fits['machine']}"


# Making it --------------------------------------------------------------------------------------------


def shiv(staged: Path, output: Path, python: str) -> None:
    command = [sys.executable, "-I", "-m", "shiv", "--site-packages", str(staged), "--uncompressed"]
    command += ["--reproducible", "--entry-point", ENTRY_POINT, "--python", f"/usr/bin/env python{python}"]
    # Without pip's arguments shiv asks nothing of the network.
    subprocess.run([*command, "--output-file", str(output)], check=True, env={**os.environ, **_dates()})


def seal(plain: Path, sealed: Path, fits: dict[str, Any]) -> None:
    """shiv's archive, packed, with our own `__main__`; sorted, with one date and plain modes."""
    with zipfile.ZipFile(plain) as source, plain.open("rb") as file:
        first_line = file.readline()
        build_id = json.loads(source.read("environment.json"))["build_id"]
        ours = {
            "__main__.py": _filled_in({**fits, "build_id": build_id}),
            "zipapp_start.py": Path(zipapp_main.__file__).with_name("zipapp_start.py").read_bytes(),
        }
        unfinished = sealed.with_name(sealed.name + ".new")
        with unfinished.open("wb") as output:
            output.write(first_line)
            with zipfile.ZipFile(output, "w") as target:
                for name in sorted({*source.namelist(), *ours}):
                    _write(target, name, ours[name] if name in ours else source.read(name))
    unfinished.chmod(0o755)
    unfinished.replace(sealed)


def _filled_in(fits: dict[str, Any]) -> bytes:
    before, found, after = Path(zipapp_main.__file__).read_text(encoding="utf-8").partition(PLACEHOLDER)
    assert found, f"zipapp_main.py has no line {PLACEHOLDER}"
    return (before + f"BUILT_FOR = {_json(fits)}" + after).encode()


def _write(target: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=time.gmtime(max(int(_dates()["SOURCE_DATE_EPOCH"]), EPOCH))[:6])
    info.create_system = 3  # Unix, so that the modes are read
    info.external_attr = (0o100755 if ".so" in PurePosixPath(name).suffixes else 0o100644) << 16
    # A model's weights are noise to deflate: reading them as they are makes the first start shorter.
    info.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
    target.writestr(info, data, compresslevel=9)


def _dates() -> dict[str, str]:
    return {"SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", str(EPOCH))}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)
