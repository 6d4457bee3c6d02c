"""The program's own files: every kind of damage is found, named and put right at the next start."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlxone.core.about import about
from mlxone.service.checkup import program

ROOT = Path(__file__).parents[3]
FILES = {
    "mlxone": b"program",
    "_internal/a.so": b"x" * 3_000_000,
    "_internal/ü/e": b"",
    "licenses.txt": b"MIT",
}


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A runtime as the launcher leaves it."""
    return unpack(tmp_path)


def unpack(place: Path) -> Path:
    entries: dict[str, dict[str, object]] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "mode": 0o755}
        for name, content in FILES.items()
    }
    entries["_internal/link.so"] = {"link": "a.so"}
    text = json.dumps({"version": "1.2", "kind": "full", "files": entries}, sort_keys=True).encode()
    folder = place / f"1.2-{hashlib.sha256(text).hexdigest()[:16]}"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "_internal" / "link.so").symlink_to("a.so")
    (folder / "manifest.json").write_bytes(text)
    (folder / "stamp").write_text("origin /x/mlxone\n")
    return folder


def test_a_whole_one(unpacked: Path):
    found = program.runtime(unpacked)
    assert (found.status, found.fix) == ("ok", "")
    assert found.message == f"all 5 files in {unpacked} are whole"
    assert (unpacked / "stamp").exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def turn(path: Path) -> None:
    path.unlink()
    path.symlink_to("licenses.txt")


def gone(path: Path) -> Path:
    path.unlink()
    return path


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda f: flip(f / "_internal/a.so"), "_internal/a.so has changed"),
    "a longer file": (lambda f: (f / "licenses.txt").write_bytes(b"MITx"), "licenses.txt has 4 bytes, not 3"),
    "an empty file": (lambda f: (f / "mlxone").write_bytes(b""), "mlxone has 0 bytes, not 7"),
    "a file that is gone": (lambda f: (f / "_internal/ü/e").unlink(), "_internal/ü/e is gone"),
    "a folder that is gone": (lambda f: shutil.rmtree(f / "_internal/ü"), "_internal/ü/e is gone"),
    "a folder in its place": (
        lambda f: gone(f / "mlxone").mkdir(),
        "mlxone is no file",
    ),
    "a link in its place": (lambda f: turn(f / "mlxone"), "mlxone is no file"),
    "another link": (
        lambda f: gone(f / "_internal/link.so").symlink_to("/etc/passwd"),
        "_internal/link.so is not the link it was",
    ),
    "a file for a link": (
        lambda f: gone(f / "_internal/link.so").write_text("a.so"),
        "_internal/link.so is not the link it was",
    ),
    "a changed manifest": (lambda f: flip(f / "manifest.json"), "manifest.json "),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json cannot be read"),
    "a manifest of nothing": (
        lambda f: (f / "manifest.json").write_text("[]"),
        "manifest.json cannot be read",
    ),
    "another manifest": (
        lambda f: (f / "manifest.json").write_text('{"version": "1.2", "files": {}}'),
        "manifest.json is not this folder's",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_and_the_next_start_unpacks(
    unpacked: Path, damage: Callable[[Path], object], said: str
):
    damage(unpacked)
    found = program.runtime(unpacked)
    assert found.status == "fail"
    assert f"a file of the program in {unpacked} damaged; {said}" in found.message
    assert found.fix.startswith("start mlxone again") and "was deleted" in found.fix
    assert not (unpacked / "stamp").exists()
    assert program.runtime(unpacked).status == "fail"  # it says so until it is done


def test_several_are_counted(unpacked: Path):
    flip(unpacked / "licenses.txt")
    flip(unpacked / "mlxone")
    found = program.runtime(unpacked)
    assert (
        f"2 files of the program in {unpacked} damaged; the first: licenses.txt has changed" in found.message
    )
    assert found.details["damaged"] == ["licenses.txt has changed", "mlxone has changed"]


def test_a_stamp_that_cannot_be_deleted(unpacked: Path):
    (unpacked / "stamp").unlink()
    (unpacked / "stamp").mkdir()  # in the way: no permission stops root
    flip(unpacked / "mlxone")
    found = program.runtime(unpacked)
    assert found.fix.startswith("delete that folder: its stamp cannot be deleted (")


# The rest ------------------------------------------------------------------------------------


def test_the_program_says_where_it_came_from():
    me = about()
    found = program.program(
        replace(me, commit="0123456789abcdef", dirty=True, kind="slim", executable="/d/m")
    )
    assert (
        f"mlxone {me.version} (0123456789ab, changed), one file, without the starter: /d/m" in found.message
    )
    assert "(" not in program.program(replace(me, commit=None)).message
    assert found.details["kind"] == "slim"


def test_packages_that_are_missing():
    missing = {"click": "8.5", "h11": None, "rich": None}
    found = program.packages(missing, is_packed=False)
    assert (found.status, found.message) == ("fail", "not installed: h11, rich")
    assert found.fix == "pip install h11 rich"
    assert "pip" not in program.packages(missing, is_packed=True).fix
    assert program.packages({"click": "8.5", "h11": "1"}, is_packed=False).message == "click 8.5, h11 1"


def test_the_packages_are_those_the_project_declares():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert sorted(re.split(r"[\[<>=;]", line)[0] for line in declared) == list(program.PACKAGES)


def test_variables_are_shown_but_for_secrets():
    found = program.environment(
        {
            "MLXONE_HOME": "/x", "MLXONE_API_KEY": "sk-1", "HF_TOKEN": "hf_1", "NO_COLOR": "1", "LANG": "C",
            "https_proxy": "http://ann:pw@proxy:3128", "HF_ENDPOINT": "http://hub", "MLXONE_MODEL": "",
            "MLXONE_EXECUTABLE": "/x",
        }
    )  # fmt: skip
    assert found.status == "ok"
    assert found.details == {
        "MLXONE_HOME": "/x", "MLXONE_API_KEY": "(set)", "HF_TOKEN": "(set)", "NO_COLOR": "1",
        "https_proxy": "(set)", "HF_ENDPOINT": "http://hub",
    }  # fmt: skip
    assert not re.search("sk-1|hf_1|pw", json.dumps(found.to_json()))
    assert program.environment({"LANG": "C"}).message == "no variable set"


@pytest.mark.parametrize(
    ("home", "trouble"),
    [
        ("$HOME/x", "holds a $"),
        ("/x/$USER", "holds a $"),
        ("~x/y", "a ~ with a name"),
        ("x/y", "another folder in each"),
        (".", "another folder in each"),
    ],
)
def test_a_home_that_is_not_what_it_seems_is_noticed(home: str, trouble: str):
    found = program.environment({"MLXONE_HOME": home})
    assert found.status == "warn" and trouble in found.message and "~/" in found.fix


@pytest.mark.parametrize("home", ["", "/x/y", "~", "~/x"])
def test_a_home_that_is(home: str):
    assert program.environment({"MLXONE_HOME": home}).status == "ok"


def test_hashing_reads_whole_files(tmp_path: Path):
    content = os.urandom(program.BLOCK * 2 + 1)
    (tmp_path / "x").write_bytes(content)
    assert program._hash(tmp_path / "x") == hashlib.sha256(content).hexdigest()
