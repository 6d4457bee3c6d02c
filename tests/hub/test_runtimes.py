"""What was unpacked goes, and nothing else: no runtime in use, no link, nothing of somebody else's."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from mlxone.core import about
from mlxone.hub import places, runtimes, trash
from tests.hub.unpacked import BYTES, NAME, ZIPAPP, folder, held, refuge, running_from, unpacked


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runtimes of a read-only home go."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    return place


def gone(plan: runtimes.Plan) -> set[str]:
    return {runtime.path.name for runtime in plan.runtimes}


def staying(plan: runtimes.Plan) -> dict[str, str]:
    return {one.path.name: one.why for one in plan.staying}


def test_nothing_unpacked_is_nothing_to_do_and_makes_nothing(home: Path, temporary: Path):
    plan = runtimes.plan()
    assert (plan.runtimes, plan.staying, plan.folders) == ([], [], [])
    assert runtimes.remove(plan).problems == []
    assert list(home.iterdir()) == list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", [NAME, "2.0.0rc1-fedcba9876543210", ZIPAPP])
def test_the_binarys_and_the_zipapps_go(name: str):
    unpacked(name, "/opt/mlxone")
    plan = runtimes.plan()
    [runtime] = plan.runtimes
    assert (runtime.path, runtime.origin, runtime.own, runtime.leftover) == (
        folder() / name,
        "/opt/mlxone",
        False,
        False,
    )
    done = runtimes.remove(plan)
    assert done.problems == [] and done.freed_bytes == plan.size_bytes > BYTES
    assert not folder().exists()


def test_both_places_are_looked_at_and_left_clean(temporary: Path):
    unpacked()
    second = unpacked(refuge(temporary) / "runtime" / NAME)
    assert {runtime.path for runtime in runtimes.plan().runtimes} == {folder() / NAME, second}
    assert runtimes.remove(runtimes.plan()).problems == []
    assert list(temporary.iterdir()) == []
    assert folder().parent.is_dir()  # named by MLXONE_HOME


def test_the_usual_home_goes_with_the_last_thing_in_it(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLXONE_HOME")
    unpacked()
    assert folder().parent == home / ".cache" / "mlxone"
    runtimes.remove(runtimes.plan())
    assert not folder().parent.exists() and (home / ".cache").is_dir()


def test_but_not_with_something_else_in_it(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLXONE_HOME")
    unpacked()
    kept = folder().parent / "history"
    kept.touch()
    runtimes.remove(runtimes.plan())
    assert list(folder().parent.iterdir()) == [kept]


def test_a_link_is_neither_followed_nor_taken(tmp_path: Path):
    elsewhere = unpacked(tmp_path / "mine" / NAME)
    folder().mkdir(parents=True)
    (folder() / NAME).symlink_to(elsewhere)
    plan = runtimes.plan()
    assert (gone(plan), staying(plan)) == (set(), {NAME: "a link, and links are not followed"})
    runtimes.remove(plan)
    assert (folder() / NAME).is_symlink() and (elsewhere / "stamp").is_file()


def test_nor_is_one_in_place_of_the_folder_of_runtimes(tmp_path: Path):
    elsewhere = unpacked(tmp_path / "mine" / NAME)
    folder().parent.mkdir()
    folder().symlink_to(elsewhere.parent)
    plan = runtimes.plan()
    assert staying(plan) == {"runtime": "a link, and links are not followed"}
    runtimes.remove(plan)
    assert (elsewhere / "stamp").is_file()


def test_links_inside_go_without_what_they_point_to(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("kept")
    runtime = unpacked()
    (runtime / "folder").symlink_to(tmp_path / "mine")
    (runtime / "_internal" / "file").symlink_to(tmp_path / "mine" / "notes")
    runtimes.remove(runtimes.plan())
    assert not runtime.exists() and (tmp_path / "mine" / "notes").read_text() == "kept"


def test_a_folder_that_cannot_be_listed_is_told(monkeypatch: pytest.MonkeyPatch):
    runtime = unpacked()

    def iterdir(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", iterdir)
        plan = runtimes.plan()
    [unseen] = plan.staying
    assert (unseen.path, unseen.failed) == (folder(), True)
    assert unseen.why == "it cannot be listed: Permission denied"
    runtimes.remove(plan)
    assert runtime.is_dir()


@pytest.mark.parametrize("what", ["runtime", NAME])
def test_what_belongs_to_somebody_else_stays(what: str, monkeypatch: pytest.MonkeyPatch):
    unpacked()
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        found = real(self)
        if self.name != what:
            return found
        return os.stat_result((*found[:4], os.geteuid() + 1, *found[5:10]))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", lstat)
        plan = runtimes.plan()
        assert staying(plan) == {what: "it belongs to another user"}
        runtimes.remove(plan)
    assert (folder() / NAME / "stamp").is_file()


def test_a_runtime_that_another_process_runs_from_stays():
    busy, idle = unpacked(), unpacked(ZIPAPP)
    with held(busy):
        plan = runtimes.plan()
        assert (gone(plan), staying(plan)) == ({ZIPAPP}, {NAME: runtimes.IN_USE})
        assert [one.in_use for one in plan.staying] == [True]
        assert runtimes.remove(plan).problems == []
        assert (busy / "stamp").is_file() and not idle.exists()
    assert gone(runtimes.plan()) == {NAME}


def test_one_that_was_started_after_the_question_stays():
    busy = unpacked()
    plan = runtimes.plan()
    with held(busy):
        assert runtimes.remove(plan).problems == [f"{busy}: {runtimes.IN_USE}"]
    assert (busy / "stamp").is_file()


def test_while_another_process_unpacks_nothing_there_is_touched(temporary: Path):
    runtime, other = unpacked(), unpacked(refuge(temporary) / "runtime" / NAME)
    (folder() / ".lock").touch()
    with held(folder() / ".lock", "alone"):
        done = runtimes.remove(runtimes.plan())
    assert done.problems == [f"{folder()}: {runtimes.UNPACKING}"]
    assert runtime.exists() and not other.exists()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime this process runs from, as far as it can tell: by its own file."""
    path = unpacked("9.9.9-0123456789abcdef")
    running_from(path, monkeypatch)
    return path


def test_our_own_is_known_and_the_last(running: Path):
    unpacked(NAME)
    unpacked(ZIPAPP)
    assert [runtime.own for runtime in runtimes.plan().runtimes] == [False, False, True]
    assert runtimes.plan().runtimes[-1].path == running


def test_our_own_lock_on_it_is_no_obstacle(running: Path):
    descriptor = os.open(running, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        assert [runtime.path for runtime in runtimes.plan().runtimes] == [running]
        with held(running):  # which it could not, had asking taken the lock for good
            assert staying(runtimes.plan()) == {running.name: runtimes.IN_USE}
        assert runtimes.remove(runtimes.plan()).problems == []
        assert not folder().exists()
    finally:
        os.close(descriptor)


def test_asking_leaves_our_own_lock_as_it_was(running: Path):
    descriptor = os.open(running, os.O_RDONLY)
    other = os.open(running, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with held(running):
            runtimes.plan()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(other)
        os.close(descriptor)


def test_our_own_is_found_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A zipapp that was told where to unpack."""
    path = unpacked(tmp_path / "elsewhere" / ZIPAPP)
    running_from(path, monkeypatch, "site-packages")
    plan = runtimes.plan()
    assert [(runtime.path, runtime.own) for runtime in plan.runtimes] == [(path, True)]
    runtimes.remove(plan)
    assert not path.exists()
    assert path.parent.is_dir()  # which the user named


def test_but_none_of_its_neighbours_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = unpacked(tmp_path / "elsewhere" / "runtime" / ZIPAPP)
    neighbour = unpacked(path.with_name(NAME))
    running_from(path, monkeypatch, "site-packages")
    plan = runtimes.plan()
    assert ([runtime.path for runtime in plan.runtimes], plan.staying) == ([path], [])
    runtimes.remove(plan)
    assert not path.exists() and (neighbour / "stamp").is_file()


def test_nor_our_own_where_nothing_proves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = unpacked(tmp_path / "elsewhere" / ZIPAPP)
    (path / "stamp").unlink()
    running_from(path, monkeypatch, "site-packages")
    runtimes.remove(runtimes.plan())
    assert [entry.name for entry in path.parent.iterdir()] == [ZIPAPP]  # and no lock was made there


def test_an_installed_package_has_no_runtime_whatever_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    release = unpacked(tmp_path / "deploy" / "runtime" / "app-0123456789abcdef")
    beside = unpacked(release.with_name("other-fedcba9876543210"))
    for depth in ("site-packages", "lib/python3.11/site-packages"):
        package = release / depth / "mlxone"
        package.mkdir(parents=True)
        monkeypatch.setattr(about, "PACKAGE", package)
        assert about.kind() == "wheel"
        plan = runtimes.plan()
        assert (plan.folders, plan.runtimes, plan.staying) == ([], [], [])
        runtimes.remove(plan)
    assert (release / "stamp").is_file() and (beside / "stamp").is_file()


def test_the_folder_for_who_has_no_home_is_the_launchers(temporary: Path, monkeypatch: pytest.MonkeyPatch):
    """By the effective user, like the launcher; and looking does not make it."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert places.refuge_path() == temporary / f"mlxone-{os.getuid() + 1}"
    runtimes.plan()
    assert list(temporary.iterdir()) == []
    there = unpacked(places.refuge_path() / "runtime" / NAME)
    assert [one.path for one in runtimes.plan().staying] == [there.parent]  # found, but not that user's


def test_where_the_disk_knows_no_locks_nobody_holds_one(monkeypatch: pytest.MonkeyPatch):
    unpacked()

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert runtimes.remove(runtimes.plan()).problems == []
    assert not folder().exists()


def test_a_disk_that_refuses_is_named_and_the_rest_goes(monkeypatch: pytest.MonkeyPatch):
    stuck, other = unpacked(), unpacked(ZIPAPP)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == stuck:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    done = runtimes.remove(runtimes.plan())
    assert done.problems == [f"{stuck}: Permission denied"]
    assert stuck.exists() and not other.exists()


def test_a_kill_in_between_leaves_what_the_next_start_sweeps(monkeypatch: pytest.MonkeyPatch):
    unpacked()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trash, "delete_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            runtimes.remove(runtimes.plan())
    [left] = [path for path in folder().iterdir() if path.name != ".lock"]
    assert left.name.startswith(".old-")
    runtimes.remove(runtimes.plan())
    assert not folder().exists()


def test_only_origins_that_are_still_there_are_told(tmp_path: Path):
    (tmp_path / "mlxone").touch()
    for name, origin in (
        (NAME, tmp_path / "mlxone"),
        (ZIPAPP, "/nowhere"),
        (".old-1-0", tmp_path / "mlxone"),
    ):
        unpacked(name, origin)
    assert runtimes.origins(runtimes.plan().runtimes) == [tmp_path / "mlxone"]
