"""The zipapp: what goes in, which Python it fits, and how it is sealed; test_zipapp_start.py starts it."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from packer import zipapp, zipapp_main
from packer.words import BuildError
from tests.packer.small_site import make_site, package

FITS = {
    "implementation": "cpython",
    "python": "3.11",
    "system": "linux",
    "machine": "x86_64",
    "release": [2, 35],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site") / "lib")


MODULES = ("__init__.py", "cli/__init__.py", "cli/main.py")


# What goes in ---------------------------------------------------------------------------------------


def test_what_is_required_goes_in_and_nothing_else(site: Path, tmp_path: Path) -> None:
    shipped = zipapp.needed(site)
    assert [p.name for p in shipped] == ["beside", "deep-one", "mlx-cpu", "mlxone"]
    zipapp.stage(shipped, tmp_path / "staged")
    staged = {
        str(p.relative_to(tmp_path / "staged")) for p in (tmp_path / "staged").rglob("*") if p.is_file()
    }
    code = {"beside.py", "deep/one.py", "deep/data.bin", "mlx/lib/a.so", *map("mlxone/{}".format, MODULES)}
    assert {p for p in staged if ".dist-info" not in p} == code
    assert {Path(p).name for p in staged - code} == {"METADATA", "WHEEL"}


def test_of_openblas_three_copies_one_is_run() -> None:
    names = ["lib/libopenblas.so", "lib/libopenblas.so.0", "lib/libopenblas.so.0.3", "include/cblas.h"]
    paths = [PurePosixPath("cmeel.prefix", name) for name in names]
    assert [zipapp._is_run(path) for path in paths] == [True, False, False, False]


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    package(tmp_path, "mlxone", {"mlxone/__init__.py": ""}, "h11")
    with pytest.raises(BuildError, match="has no h11"):
        zipapp.needed(tmp_path)


def test_an_editable_install_is_refused(tmp_path: Path) -> None:
    package(tmp_path / "site", "mlxone", {"mlxone.pth": "/somewhere"})
    with pytest.raises(BuildError, match="editable"):
        zipapp.stage(zipapp.needed(tmp_path / "site"), tmp_path / "staged")


# What it fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fits", "expected"),
    [
        (FITS, "cp311-linux_x86_64"),
        (FITS | {"python": "3.13t", "machine": "aarch64"}, "cp313t-linux_aarch64"),
        (FITS | {"system": "darwin", "machine": "arm64", "release": [14, 0]}, "cp311-macosx_14_0_arm64"),
    ],
)
def test_the_name_says_what_it_fits(fits: dict, expected: str) -> None:
    assert zipapp.tag(fits) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="the wheel here is one for Linux")
def test_the_oldest_system_is_that_of_the_newest_wheel(site: Path) -> None:
    assert zipapp.fit(zipapp.needed(site)) == {**zipapp_main.here(), "release": [2, 28]}


@pytest.mark.parametrize(
    ("differs", "line"),
    [
        ({}, ""),
        ({"release": [2, 41]}, ""),
        ({"python": "3.9"}, "for CPython 3.11 and this is CPython 3.9: start it with python3.11"),
        ({"python": "3.11t"}, "and this is CPython 3.11t"),
        ({"implementation": "pypy"}, "and this is PyPy 3.11"),
        ({"machine": "aarch64"}, "for Linux on x86_64 and this is Linux on aarch64: download the file for"),
        ({"system": "darwin", "machine": "arm64", "python": "3.9"}, "this is macOS on arm64"),
        ({"release": [2, 31]}, "needs glibc 2.35 or later (Ubuntu 22.04, Debian 12): this system has 2.31"),
        ({"release": [0, 0]}, "this system has another C library"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(differs: dict, line: str) -> None:
    said = zipapp_main.misfit(FITS, FITS | differs)
    assert line in said
    assert bool(said) == bool(line)
    assert "\n" not in said


def test_macos_is_compared_by_its_version() -> None:
    wanted = FITS | {"system": "darwin", "machine": "arm64", "release": [14, 0]}
    assert zipapp_main.misfit(wanted, wanted | {"release": [26, 1]}) == ""
    assert "needs macOS 14.0 or later: this system has 13.6" in zipapp_main.misfit(
        wanted, wanted | {"release": [13, 6]}
    )


def test_any_python_can_read_the_line() -> None:
    """By the words of the file, as the oldest Pythons are not everywhere."""
    tree = ast.parse(Path(zipapp_main.__file__).read_text(), feature_version=(3, 4))
    nodes = list(ast.walk(tree))
    assert not [
        n for n in nodes if isinstance(n, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr | ast.Nonlocal)
    ]
    assert not [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    assert not [n for n in nodes if isinstance(n, ast.arg) and n.annotation]
    assert not [n for n in nodes if isinstance(n, ast.arguments) and n.kwonlyargs]


def _other_pythons() -> list[Path]:
    """Those on PATH, and where pyenv's stand-ins are found there, those they stand for."""
    numbers = ["2.7", *(f"3.{minor}" for minor in range(5, 20))]
    found = {Path(p) for number in numbers if (p := shutil.which(f"python{number}"))}
    shims = {path for path in found if path.parent.name == "shims"}
    behind = {python for shim in shims for python in shim.parents[1].glob("versions/*/bin/python")}
    return sorted(found - shims | behind)


@pytest.mark.parametrize(
    "python", _other_pythons(), ids=lambda p: p.parts[-3] if "versions" in p.parts else p.name
)
def test_other_pythons_say_the_line(python: Path, tmp_path: Path) -> None:
    version = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
    )
    assert version.returncode == 0, version.stderr
    main = tmp_path / "__main__.py"
    main.write_bytes(zipapp._filled_in({**zipapp_main.here(), "python": "3.99", "build_id": "0"}))
    done = subprocess.run([python, main], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (12, "")
    assert done.stderr.startswith("mlxone: this file is for CPython 3.99 and this is ")
    assert version.stdout.strip() in done.stderr
    assert done.stderr.count("\n") == 1


# Sealing --------------------------------------------------------------------------------------------


def _plain(path: Path, names: list[str], year: int) -> Path:
    with path.open("wb") as file:
        file.write(b"#!/usr/bin/env python3.11\n")
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), f"content of {name}")
            archive.writestr("environment.json", '{"build_id": "b1"}')
            archive.writestr("__main__.py", "shiv's own")
    return path


def test_the_same_files_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    names = ["site-packages/a.py", "site-packages/b.so.1", "_bootstrap/__init__.py"]
    for year, order in ((1999, names), (2024, names[::-1])):
        zipapp.seal(_plain(tmp_path / f"{year}", order, year), tmp_path / f"{year}.pyz", FITS)
    assert (tmp_path / "1999.pyz").read_bytes() == (tmp_path / "2024.pyz").read_bytes()
    assert (tmp_path / "1999.pyz").read_bytes().startswith(b"#!/usr/bin/env python3.11\nPK")
    with zipfile.ZipFile(tmp_path / "1999.pyz") as sealed:
        assert sealed.testzip() is None
        assert sealed.namelist() == sorted([*names, "environment.json", "__main__.py", "zipapp_start.py"])
        assert {info.date_time[:3] for info in sealed.infolist()} == {(2023, 11, 14)}
        modes = {info.filename: oct(info.external_attr >> 16) for info in sealed.infolist()}
        assert sealed.read(names[0]) == b"content of site-packages/a.py"
        assert b"'build_id': 'b1'" in sealed.read("__main__.py").replace(b'"', b"'")
    assert (modes[names[0]], modes[names[1]]) == ("0o100644", "0o100755")
