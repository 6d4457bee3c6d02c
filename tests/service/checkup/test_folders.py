"""The places: what is said of each, whoever runs this (root may write everywhere: `access` is played)."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from mlxone.service.checkup import folders
from mlxone.service.checkup.findings import Status


def nobody(place: Path, how: int) -> bool:
    return False


def everybody(place: Path, how: int) -> bool:
    return True


def test_a_folder_that_is_there(tmp_path: Path):
    found = folders.folder("home", tmp_path, "fix it")
    assert (found.status, found.message, found.fix) == ("ok", str(tmp_path), "")
    assert found.details == {"path": str(tmp_path), "exists": True}


def test_one_that_can_be_made_is_not_made(tmp_path: Path):
    place = tmp_path / "a" / "b"
    found = folders.folder("home", place, "fix it")
    assert (found.status, found.details["exists"]) == ("ok", False)
    assert "made when it is needed" in found.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "a/b"])
@pytest.mark.parametrize("without", ["fail", "warn"])
def test_one_that_may_not_be_written(tmp_path: Path, below: str, without: Status):
    place = tmp_path / below
    found = folders.folder("home", place, "fix it", without=without, access=nobody)
    assert (found.status, found.fix) == (without, "fix it")
    assert str(place) in found.message and f"{tmp_path} cannot be written to" in found.message


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_in_the_way(tmp_path: Path, below: str):
    (tmp_path / "file").touch()
    found = folders.folder("home", tmp_path / "file" / below, "fix it")
    assert found.status == "fail" and f"{tmp_path / 'file'} is not a folder" in found.message
    (tmp_path / "dead").symlink_to("nothing")
    assert folders.unusable(tmp_path / "dead" / below).endswith("dead is not a folder")


def test_what_is_asked_of_the_system(tmp_path: Path):
    asked: list[tuple[Path, int]] = []

    def access(place: Path, how: int) -> bool:
        asked.append((place, how))
        return True

    assert folders.unusable(tmp_path / "new", access) == ""
    assert folders.unusable(tmp_path, access) == ""
    assert folders.readable(tmp_path, access) == ""
    may_write, may_read = (tmp_path, os.W_OK | os.X_OK), (tmp_path, os.R_OK)
    assert asked == [may_write, may_write, may_read, (tmp_path, os.R_OK | os.X_OK)]


def test_a_folder_that_cannot_be_listed(tmp_path: Path):
    """Mode 0300. Of a folder above, which is only gone through, it is not asked."""

    def access(place: Path, how: int) -> bool:
        return not how & os.R_OK

    found = folders.folder("home", tmp_path, "fix it", access=access)
    assert (found.status, found.message) == ("fail", f"{tmp_path} cannot be read")
    assert folders.folder("home", tmp_path / "new", "fix it", access=access).status == "ok"


def test_it_is_tried_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = tmp_path.stat().st_mtime_ns
    assert folders.unusable(tmp_path) == folders.unusable(tmp_path / "a" / "b") == ""
    assert list(tmp_path.iterdir()) == [] and tmp_path.stat().st_mtime_ns > before

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert folders.unusable(tmp_path, everybody) == f"{tmp_path} takes no file: Read-only file system"
    assert folders.unusable(tmp_path / "a", everybody) == f"{tmp_path} takes no folder: Read-only file system"


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that takes nothing from anybody")
def test_one_that_nobody_can_make():
    found = folders.folder("home", Path("/proc/nope"), "fix it")
    assert found.status == "fail" and "/proc" in found.message
    assert folders.room(Path("/proc/nope")) is None


def test_folders_with_models(tmp_path: Path):
    assert folders.model_folders([]) is None
    (tmp_path / "file").touch()
    found = folders.model_folders([tmp_path])
    assert found is not None and (found.status, found.message) == ("ok", str(tmp_path))
    found = folders.model_folders([tmp_path, tmp_path / "file", tmp_path / "none"], everybody)
    assert found is not None and found.status == "warn" and "MLXONE_MODEL_DIR" in found.fix
    assert found.message == f"{tmp_path / 'file'} is not a folder; {tmp_path / 'none'} is not there"
    found = folders.model_folders([tmp_path], nobody)
    assert found is not None and found.message == f"{tmp_path} cannot be read"


def test_disks():
    a, b = Path("/a"), Path("/b")
    found = folders.disk([a, b], lambda place: 5 * 10**9)
    assert (found.status, found.message) == ("ok", "5.0 GB free for /a, 5.0 GB free for /b")
    found = folders.disk([a, b], lambda place: 10**9 if place == b else 5 * 10**9)
    assert found.status == "warn" and "mlxone gc" in found.fix
    assert found.details == {"free_bytes": {"/a": 5 * 10**9, "/b": 10**9}}
    assert folders.disk([a], lambda place: None).message == "not known"


def test_room_is_that_of_the_nearest_folder(tmp_path: Path):
    assert (folders.room(tmp_path / "a" / "b") or 0) > 0


@pytest.mark.parametrize(
    ("notices", "status"),
    [
        ([], "ok"),
        (["model folder /x is not there"], "ok"),  # said elsewhere
        (["/h/registry.sqlite was damaged and is made anew (x)"], "warn"),
        (["/h/registry.sqlite cannot be used (x): models are looked up without it"], "warn"),
        (["/h/registry.sqlite was damaged (x)", "/h/registry.sqlite cannot be used (y)"], "warn"),
    ],
)
def test_the_registry(notices: list[str], status: str):
    found = folders.registry(Path("/h/registry.sqlite"), 1, notices)
    assert found.status == status and bool(found.fix) == (status != "ok")
    assert ("who may write" in found.fix) == any("cannot be used" in notice for notice in notices)
    assert found.message == (notices[-1] if status == "warn" else "1 model in /h/registry.sqlite")


def test_the_starter(tmp_path: Path):
    bundled, prepared, cached = tmp_path / "bundled", tmp_path / "prepared", tmp_path / "cached"

    def said(whole: Path | None, cached: Path | None, is_default: bool = True) -> tuple[str, str, str]:
        found = folders.starter(bundled, prepared, whole or cached, "get it", is_default=is_default)
        return found.status, found.message, found.fix

    assert said(None, None)[0] == "warn" and said(None, None)[2] == "get it"
    assert said(None, None, False) == ("ok", "not on this machine, and another model is set", "")
    assert said(None, cached) == ("ok", str(cached), "")
    prepared.mkdir()
    assert said(prepared, cached) == ("ok", str(prepared), "")
    assert said(None, cached) == ("ok", str(cached), "")
    assert said(None, None) == ("warn", f"{prepared} is not whole", "delete it, then get it")
    bundled.mkdir()
    assert said(bundled, cached) == ("ok", "inside this program", "")
    assert said(prepared, cached) == (
        "warn", f"{bundled} is not whole", "download mlxone again, or get it",
    )  # fmt: skip
