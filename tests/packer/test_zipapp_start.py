"""A whole zipapp, made by shiv from a small site, and its first starts: real processes, no clock."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from packer import zipapp, zipapp_main
from tests.packer.small_site import COMMIT, make_site

pytestmark = pytest.mark.skipif(importlib.util.find_spec("shiv") is None, reason="shiv is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site") / "lib")


@pytest.fixture(scope="module")
def made(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    (place / "starter").mkdir()
    (place / "starter" / "model.safetensors").write_bytes(b"weights, as they are")
    return zipapp.build(site, place, starter=place / "starter", commit_info=COMMIT, work=place / "work")


@pytest.fixture
def app(made: Path, tmp_path: Path) -> Path:
    """A copy of its own, as its runtime is found by its path."""
    return Path(shutil.copy(made, tmp_path / made.name))


def launch(app: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, app, *args], capture_output=True, text=True, env={**os.environ, **environment}
    )


def said(app: Path, *args: str, **environment: str) -> dict:
    done = launch(app, *args, **environment)
    assert done.stderr == ""
    return json.loads(done.stdout)


def runtimes(place: Path | None = None) -> list[Path]:
    """All that lies there but the lock."""
    place = place or Path(os.environ["MLXONE_HOME"], "runtime")
    return sorted(path for path in place.iterdir() if path.name != ".lock")


def test_what_is_in_it(made: Path, site: Path, tmp_path: Path) -> None:
    assert made.name == f"mlxone-{zipapp.tag(zipapp.fit(zipapp.needed(site)))}.pyz"
    assert os.access(made, os.X_OK)
    with zipfile.ZipFile(made) as archive:
        assert json.loads(archive.read("site-packages/mlxone/build.json")) == {**COMMIT, "kind": "zipapp"}
        weights = archive.getinfo("site-packages/mlxone_starter/model.safetensors")
        assert weights.compress_type == zipfile.ZIP_STORED
        assert archive.getinfo("site-packages/deep/data.bin").compress_type == zipfile.ZIP_DEFLATED
        names = archive.namelist()
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pyc", "/"))]
    first, second = (
        zipapp.build(site, tmp_path / side, starter=None, commit_info=COMMIT, work=tmp_path / f"{side}-work")
        for side in "ab"
    )
    assert first.read_bytes() == second.read_bytes()


def test_the_first_start_unpacks_and_the_second_does_not(app: Path) -> None:
    first = said(app, "a", "b c")
    [runtime] = runtimes()
    before = runtime.stat().st_ino, sorted(p.stat().st_mtime_ns for p in runtime.rglob("*.py"))
    assert first["args"] == ["a", "b c"]
    assert first["MLXONE_EXECUTABLE"] == str(app)
    assert first["SHIV_ROOT"] == str(runtime.parent)
    assert first["beside"] == str(runtime / "site-packages" / "beside.py")
    assert [oct(p.stat().st_mode & 0o777) for p in (runtime, runtime.parent)] == ["0o700", "0o700"]
    assert launch(app, "x", "y", "z").returncode == 3
    assert (runtime.stat().st_ino, sorted(p.stat().st_mtime_ns for p in runtime.rglob("*.py"))) == before


def test_through_a_link_and_from_its_own_folder(app: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "mlxone é"
    link.symlink_to(app)
    assert said(link)["MLXONE_EXECUTABLE"] == str(app)
    done = subprocess.run([sys.executable, app.name], cwd=app.parent, capture_output=True, text=True)
    assert json.loads(done.stdout)["MLXONE_EXECUTABLE"] == str(app)
    assert len(runtimes()) == 1


def test_many_first_starts_at_once(app: Path) -> None:
    command = [sys.executable, str(app)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
    ends = [(*process.communicate(), process.returncode) for process in started]
    assert {(err, code) for _, err, code in ends} == {(b"", 0)}
    assert len({out for out, _, _ in ends}) == 1
    assert len(runtimes()) == 1


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no list of who waits for a lock")
def test_a_start_waits_for_whoever_is_unpacking(app: Path) -> None:
    place = Path(os.environ["MLXONE_HOME"], "runtime")
    place.mkdir(parents=True, mode=0o700)
    with (place / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen([sys.executable, str(app)], stdout=subprocess.PIPE)
        until(lambda: _waits(process.pid) or process.poll() is not None)
        assert process.poll() is None
        assert runtimes() == []
    assert process.communicate()[0]
    assert len(runtimes()) == 1


def _waits(process: int) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and str(process) in line.split() for line in lines)


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.002)


def test_what_killed_starts_leave_does_not_stay(app: Path) -> None:
    said(app)
    [runtime] = runtimes()
    staging = runtime.with_name(runtime.name + ".tmp")
    runtime.rename(staging)  # killed before shiv's renaming, with a file that may not be written to
    (staging / "site-packages" / "beside.py").write_text("half a fi")
    (staging / "site-packages" / "beside.py").chmod(0o400)
    (runtime.parent / ".old-1-2").mkdir()
    (runtime.parent / ".unpack-1-x").mkdir()
    assert said(app)["beside"] == str(runtime / "site-packages" / "beside.py")
    assert runtimes() == [runtime]
    (runtime / "stamp").unlink()  # killed after it
    (runtime / "site-packages" / "beside.py").unlink()
    said(app)
    assert runtimes() == [runtime]


@pytest.mark.parametrize("harm", ["write_text", "unlink", "folder gone", "list cut"])
def test_a_damaged_runtime_is_made_anew(app: Path, harm: str) -> None:
    said(app)
    [runtime] = runtimes()
    file = runtime / "site-packages" / "beside.py"
    content = file.read_text()
    if harm == "write_text":
        file.write_text("X" + content[1:])  # as long as it was
    elif harm == "unlink":
        file.unlink()
    elif harm == "folder gone":
        shutil.rmtree(runtime / "site-packages")
    else:
        (runtime / "stamp").write_text(f"origin {app}\n")
    assert said(app)["beside"] == str(file)
    assert file.read_text() == content
    assert runtimes() == [runtime]


def test_unpacking_anew_can_be_asked_for(app: Path) -> None:
    said(app)
    [runtime] = runtimes()
    before = (runtime / "site-packages" / "beside.py").stat().st_mtime_ns
    said(app, SHIV_FORCE_EXTRACT="1")
    assert runtimes() == [runtime]
    assert (runtime / "site-packages" / "beside.py").stat().st_mtime_ns > before


def test_a_damaged_file_is_named(app: Path) -> None:
    content = bytearray(app.read_bytes())
    content[content.index(b"weights, as they are")] ^= 1
    app.write_bytes(content)
    done = launch(app)
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr == "mlxone: this file is damaged: download it again\n"
    assert runtimes() == []


def test_another_python_is_told(app: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pyz"
    zipapp.seal(app, other, {**zipapp_main.here(), "python": "3.99"})
    done = launch(other)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (12, "", 1)
    assert not Path(os.environ["MLXONE_HOME"]).exists()


# Where it unpacks -----------------------------------------------------------------------------------


def in_temporary(tmp_path: Path) -> Path:
    return tmp_path / f"mlxone-{os.getuid()}" / "runtime"


def test_without_a_place_named_it_is_the_cache_at_home(app: Path, home: Path) -> None:
    assert said(app, MLXONE_HOME="")["SHIV_ROOT"] == str(home / ".cache" / "mlxone" / "runtime")
    assert said(app, MLXONE_HOME="~/my one")["SHIV_ROOT"] == str(home / "my one" / "runtime")


def test_without_a_home_it_is_a_temporary_folder(app: Path, tmp_path: Path) -> None:
    assert said(app, MLXONE_HOME="", HOME="", TMPDIR=str(tmp_path))["SHIV_ROOT"] == str(
        in_temporary(tmp_path)
    )
    assert in_temporary(tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_a_place_of_shivs_own_is_kept_to(app: Path, tmp_path: Path) -> None:
    said(app, SHIV_ROOT=str(tmp_path / "mine"))
    assert len(runtimes(tmp_path / "mine")) == 1
    assert not Path(os.environ["MLXONE_HOME"]).exists()


def test_a_home_that_cannot_be_used_is_said_once(app: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    changed = {"MLXONE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    first = launch(app, **changed)
    assert json.loads(first.stdout)["SHIV_ROOT"] == str(in_temporary(tmp_path))
    assert first.stderr.count("\n") == 1
    assert f"{tmp_path}/file/runtime cannot be used" in first.stderr
    assert str(in_temporary(tmp_path)) in first.stderr
    assert launch(app, **changed).stderr == ""


def test_a_place_where_others_may_write_is_not_used(app: Path, tmp_path: Path) -> None:
    shared = Path(os.environ["MLXONE_HOME"], "runtime")
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    done = launch(app, TMPDIR=str(tmp_path))
    assert "others may write there" in done.stderr
    assert list(shared.iterdir()) == []
    in_temporary(tmp_path).parent.chmod(0o755)  # others could look, and so it is not what we made
    done = launch(app, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (9, "", 1)
    assert "MLXONE_HOME" in done.stderr


def test_a_replaced_version_goes_and_a_used_one_stays(app: Path, site: Path, tmp_path: Path) -> None:
    said(app)
    [old] = runtimes()
    newer = zipapp.build(site, tmp_path / "new", starter=None, commit_info=COMMIT, work=tmp_path / "work")
    in_use = os.open(old, os.O_RDONLY)
    fcntl.flock(in_use, fcntl.LOCK_SH)
    newer.replace(app)
    said(app)
    assert old in runtimes()
    os.close(in_use)
    said(app, SHIV_FORCE_EXTRACT="1")
    assert old not in runtimes()
    assert len(runtimes()) == 1


def test_what_is_not_ours_to_remove_stays(app: Path, tmp_path: Path) -> None:
    place = Path(os.environ["MLXONE_HOME"], "runtime")
    for name, origin in (("theirs", None), ("still-there", sys.executable), ("gone", str(tmp_path / "gone"))):
        (place / name).mkdir(parents=True)
        if origin:
            (place / name / "stamp").write_text(f"origin {origin}\n")
    place.chmod(0o700)
    said(app)
    assert {path.name for path in runtimes()} & {"theirs", "still-there", "gone"} == {"theirs", "still-there"}


def test_what_else_is_installed_is_not_seen(app: Path, tmp_path: Path) -> None:
    for name in ("mlxone", "beside", "compileall", "zipapp_start"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    found = said(app, PYTHONPATH=str(tmp_path))
    assert str(tmp_path) not in found["path"]
    assert [p for p in found["path"] if "site-packages" in p] == [str(runtimes()[0] / "site-packages")]
