"""Where the zipapp unpacks, which folders it does not trust, and what it removes there: real processes."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxone.hub import places
from packer import zipapp, zipapp_start
from tests.packer.small_site import (
    BUILD,
    COMMIT,
    MLXONE_HOMES,
    ended,
    in_temporary,
    in_use,
    launch,
    made_place,
    make_site,
    make_zipapp,
    place_of,
    runtime_of,
    runtimes,
    said,
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("shiv") is None, reason="shiv is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_zipapp(tmp_path_factory.mktemp("made"))


@pytest.fixture
def app(made: Path, tmp_path: Path) -> Path:
    """A copy of its own, as its runtime is found by its path."""
    return Path(shutil.copy(made, tmp_path / made.name))


# Places ---------------------------------------------------------------------------------------------


def test_without_a_place_named_it_is_the_cache_at_home(app: Path, home: Path) -> None:
    assert place_of(said(app, MLXONE_HOME="")) == home / ".cache" / "mlxone" / "runtime"
    assert place_of(said(app, MLXONE_HOME="~//my one")) == home / "my one" / "runtime"


@pytest.mark.parametrize(("named", "where"), MLXONE_HOMES.items())
def test_mlxone_home_is_read_alike_everywhere(
    named: str, where: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("MLXONE_HOME", named.format(home=home))
    place = next(zipapp_start.places())
    assert zipapp_start.make_private(place) == home / where / "runtime"
    assert places.home().absolute() == home / where


def test_without_a_home_it_is_a_temporary_folder(app: Path, tmp_path: Path) -> None:
    for named in ("", "~", "~/x"):
        found = said(app, MLXONE_HOME=named, HOME="", TMPDIR=str(tmp_path))
        assert place_of(found) == in_temporary(tmp_path)
    assert in_temporary(tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_a_place_of_shivs_own_is_kept_to(app: Path, tmp_path: Path) -> None:
    found = said(app, SHIV_ROOT=str(tmp_path / "mine"))
    assert runtimes(tmp_path / "mine") == [Path(found["beside"]).parents[1]]
    assert not Path(os.environ["MLXONE_HOME"]).exists()


def test_what_it_starts_is_not_told_to_unpack_there(app: Path, tmp_path: Path) -> None:
    """Another program of shiv's would: it finds the environment as the user made it."""
    assert said(app)["SHIV_ROOT"] is None
    assert said(app, SHIV_ROOT=f"{tmp_path}/./mine")["SHIV_ROOT"] == f"{tmp_path}/./mine"


def test_a_home_that_cannot_be_used_is_said_once(app: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    changed = {"MLXONE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    first = launch(app, **changed)
    assert place_of(json.loads(first.stdout)) == in_temporary(tmp_path)
    assert first.stderr.count("\n") == 1
    assert f"{tmp_path}/file cannot be used ({tmp_path}/file is not a folder)" in first.stderr
    assert str(in_temporary(tmp_path)) in first.stderr
    assert launch(app, **changed).stderr == ""


@pytest.mark.parametrize(
    ("below", "mode", "used"),
    [("", 0o777, False), ("", 0o770, True), ("runtime", 0o777, False), ("runtime", 0o770, False)],
)
def test_a_place_where_others_may_write_is_not_used(
    app: Path, tmp_path: Path, below: str, mode: int, used: bool
) -> None:
    place = Path(os.environ["MLXONE_HOME"], "runtime")
    place.mkdir(parents=True, mode=0o700)
    (place.parent / below).chmod(mode)
    done = launch(app, TMPDIR=str(tmp_path))
    assert place_of(json.loads(done.stdout)) == (place if used else in_temporary(tmp_path))
    assert ("is open to others" in done.stderr) != used
    assert bool(runtimes(place)) == used


@pytest.mark.parametrize("harm", [0o755, 0o770, "link", "around"])
def test_a_temporary_folder_that_is_not_ours_alone_is_not_used(
    app: Path, tmp_path: Path, harm: int | str
) -> None:
    around = tmp_path / "temporary"
    around.mkdir()
    folder = in_temporary(around).parent
    if harm == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    elif harm == "around":
        around.chmod(0o777)
    else:
        folder.mkdir()
        folder.chmod(int(harm))
    done = launch(app, MLXONE_HOME="", HOME="", TMPDIR=str(around))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (9, "", 1)
    assert "MLXONE_HOME" in done.stderr
    assert not (folder / "runtime").exists()
    if harm == "around":
        around.chmod(0o1777)
        assert place_of(said(app, MLXONE_HOME="", HOME="", TMPDIR=str(around))) == in_temporary(around)


def test_folders_are_private_whatever_the_umask_says(app: Path, tmp_path: Path) -> None:
    for umask in (0, 0o777):
        home = tmp_path / f"{umask}" / "a" / "b"
        done = ended([sys.executable, app], umask=umask, env={**os.environ, "MLXONE_HOME": str(home)})
        assert (done.returncode, done.stderr) == (0, "")
        runtime = place_of(json.loads(done.stdout))
        inside = [path for path in runtime.rglob("*") if path.is_dir()]
        made = [home.parent.parent, home.parent, home, runtime, *inside]
        assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
        assert stat.S_IMODE((runtime / ".lock").stat().st_mode) == 0o600


OURS, ROOTS, THEIRS = os.geteuid(), 0, os.geteuid() + 1


@pytest.mark.parametrize(
    ("owner", "mode", "exists", "used"),
    [
        (OURS, 0o755, True, True),
        (OURS, 0o755, False, True),
        (ROOTS, 0o755, False, True),
        (THEIRS, 0o755, False, False),
        (THEIRS, 0o1777, False, True),
        (THEIRS, 0o755, True, False),
        (THEIRS, 0o1777, True, False),
    ],
)
def test_nothing_is_made_below_the_folder_of_somebody_else(
    owner: int, mode: int, exists: bool, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that is there already, in whose hands it lies, and whether it is the place or above it."""
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(mode)
    real = Path.stat

    def owned(path: Path, **options: Any) -> Any:
        found = real(path, **options)
        return SimpleNamespace(st_mode=found.st_mode, st_uid=owner) if path == there else found

    monkeypatch.setattr(Path, "stat", owned)
    place = zipapp_start.Place(there if exists else there / "a" / "b")
    if used:
        assert zipapp_start.make_private(place) == place.folder / "runtime"
    else:
        with pytest.raises(PermissionError, match=f"{there} belongs to somebody else"):
            zipapp_start.make_private(place)
        assert list(there.iterdir()) == []


@pytest.mark.parametrize(
    ("below", "mode", "used"),
    [("", 0o2775, True), ("", 0o2777, False), ("runtime", 0o700, False), ("temporary", 0o700, False)],
)
def test_root_may_have_given_us_the_folder(
    below: str, mode: int, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes gives a volume to a group; but what we made in it is ours. Nobody need be root here."""
    place = zipapp_start.Place(tmp_path / "volume", temporary=below == "temporary")
    roots = place.folder / ("runtime" if below == "runtime" else "")
    roots.mkdir(parents=True)
    roots.chmod(mode)
    real = Path.stat

    def owned(path: Path, **options: Any) -> Any:
        found = real(path, **options)
        return SimpleNamespace(st_mode=found.st_mode, st_uid=0 if path == roots else 1000)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "stat", owned)
    monkeypatch.setattr(Path, "lstat", lambda path: owned(path, follow_symlinks=False))
    if used:
        assert zipapp_start.make_private(place) == place.folder / "runtime"
    else:
        with pytest.raises(OSError, match=f"{roots} (belongs to somebody else|is open to others)"):
            zipapp_start.make_private(place)


# What is removed ------------------------------------------------------------------------------------


def test_what_killed_starts_leave_does_not_stay(app: Path) -> None:
    said(app)
    [runtime] = runtimes()
    staging = runtime.with_name(".unpack-12345-0a1b2c3d")
    runtime.rename(staging)  # killed before the renaming, with a file that may not be written to
    (staging / "site-packages" / "beside.py").chmod(0o400)
    for name in (".old-1-2", ".old-1-0a1b"):
        (runtime.parent / name).mkdir()
    assert said(app)["beside"] == str(runtime / "site-packages" / "beside.py")
    assert runtimes() == [runtime]


NOT_MADE_SO = (".old-x", ".old-1", ".old-1-2.bak", ".unpack-1-x", ".unpacked", "mlxone-1.pyz_0.tmp", "x.tmp")


def test_leftovers_bear_the_names_that_are_given_to_them(app: Path) -> None:
    made_place("runtime", "x")
    place = Path(os.environ["MLXONE_HOME"], "runtime")
    tmp = f"tool.pyz_{BUILD}.tmp"  # what another program of shiv's is unpacking
    for name in (*NOT_MADE_SO, tmp):
        (place / name).mkdir()
    (place / ".old-1-2").write_text("a file")
    said(app)
    assert {path.name for path in runtimes()} >= {*NOT_MADE_SO, tmp, ".old-1-2"}


def test_a_folder_with_something_else_in_it_is_nobodys_leftover(app: Path) -> None:
    """Whatever it is called, and whatever else is in it."""
    made_place("runtime", "x")
    place = Path(os.environ["MLXONE_HOME"], "runtime")
    names = (".old-2024-01", ".unpack-2024-01", f"mine_{BUILD}")
    for folder in [runtime_of(place, name, "/there is/no such file") for name in names]:
        (folder / "thesis.txt").write_text("years of work")
    (place / ".old-2024-02").symlink_to(place / ".old-2024-01")
    said(app)
    assert [(place / name / "thesis.txt").exists() for name in names] == [True] * 3
    assert (place / ".old-2024-02").is_symlink()


def test_a_leftover_in_use_stays_until_it_is_not(app: Path) -> None:
    left_over = made_place("runtime", ".old-1-0")
    (left_over / "site-packages").mkdir(parents=True)
    with in_use(left_over):
        said(app)
        assert (left_over / "site-packages").exists()
    said(app, SHIV_FORCE_EXTRACT="1")
    assert not left_over.exists()


def test_a_damaged_runtime_in_use_gives_way_and_still_serves(app: Path) -> None:
    said(app)
    [runtime] = runtimes()
    (runtime / "stamp").unlink()
    with in_use(runtime) as descriptor:
        said(app)
        assert "beside.py" in os.listdir(os.open("site-packages", os.O_RDONLY, dir_fd=descriptor))
        assert len(runtimes()) == 2
    said(app, SHIV_FORCE_EXTRACT="1")
    assert runtimes() == [runtime]


@pytest.mark.parametrize(("later", "stays"), [(0, True), (2 * 24 * 60 * 60, False)])
def test_without_locks_a_leftover_stays_for_a_day(
    later: int, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when it was set aside: what was unpacked long ago may have been in use until then."""

    def unknown(*_: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    now = time.time()
    monkeypatch.setattr(fcntl, "flock", unknown)
    monkeypatch.setattr(time, "time", lambda: now + later)
    old = runtime_of(tmp_path, f"mlxone.pyz_{BUILD}", "/gone")
    leftover = runtime_of(tmp_path, f"ours.pyz_{BUILD}", None)
    for folder in (old, leftover):
        os.utime(folder, (1, 1))
    leftover = leftover.rename(tmp_path / ".old-1-2")
    zipapp_start.sweep(tmp_path / "ours", tmp_path / "mlxone.pyz")
    assert leftover.exists() == stays
    assert old.exists()


def test_a_replaced_version_goes_and_a_used_one_stays(app: Path, tmp_path: Path) -> None:
    said(app)
    [old] = runtimes()
    site = make_site(tmp_path / "site" / "lib")
    newer = zipapp.build(site, tmp_path / "new", starter=None, commit_info=COMMIT, work=tmp_path / "work")
    newer.replace(app)
    with in_use(old):
        said(app)
        assert old in runtimes()
    said(app, SHIV_FORCE_EXTRACT="1")
    assert old not in runtimes()
    assert len(runtimes()) == 1


def test_what_is_not_ours_to_remove_stays(app: Path, tmp_path: Path) -> None:
    """In a folder of the user's, who unpacks and builds more there than us."""
    place, gone = tmp_path / "theirs", "/there is/no such file"
    staying = [
        runtime_of(place, "proj-build-dir", gone),
        runtime_of(place, "proj", "Sat Nov 21", line="{}\n"),
        runtime_of(place, "proj_" + BUILD[:-1], gone),
        runtime_of(place, "proj-" + BUILD[:17], gone),
        runtime_of(place, ".proj_" + BUILD, gone),
        runtime_of(place, f"proj_{BUILD}.bak", gone),
        runtime_of(place, "no-stamp_" + BUILD, None),
        runtime_of(place, "no-origin_" + BUILD, gone, line="{}\n"),
        runtime_of(place, "no-path_" + BUILD, "no such file"),
        runtime_of(place, "not-known_" + BUILD, ""),
        runtime_of(place, "still-there_" + BUILD, sys.executable),
        runtime_of(place, "away_" + BUILD, f"{app}/on a disk that is away"),
        runtime_of(place, "1.2-" + BUILD[:16], sys.executable),
    ]
    going = [
        runtime_of(place, "mlxone.pyz_" + BUILD, gone),
        runtime_of(place, "1.3-" + BUILD[:16], gone),
        runtime_of(place, "renamed_" + BUILD, str(app)),
    ]
    (place / ("link_" + BUILD)).symlink_to(staying[0])
    place.chmod(0o700)
    said(app, SHIV_ROOT=str(place))
    assert [path for path in staying if not (path / "site-packages").exists()] == []
    assert [path for path in going if path.exists()] == []
    assert (place / ("link_" + BUILD)).is_symlink()
