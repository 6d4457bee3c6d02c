"""A whole zipapp, made by shiv from a small site, and its first starts: real processes, no clock.

test_zipapp_places.py: where it unpacks, and what it removes there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from packer import zipapp, zipapp_main, zipapp_start
from tests.packer.small_site import (
    BUILD,
    COMMIT,
    PATIENCE,
    ended,
    in_use,
    launch,
    made_place,
    make_site,
    make_zipapp,
    runtimes,
    said,
    until,
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("shiv") is None, reason="shiv is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site") / "lib")


@pytest.fixture(scope="module")
def made(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_zipapp(tmp_path_factory.mktemp("made"), site)


@pytest.fixture
def app(made: Path, tmp_path: Path) -> Path:
    """A copy of its own, as its runtime is found by its path."""
    return Path(shutil.copy(made, tmp_path / made.name))


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
    ends = [(*process.communicate(timeout=PATIENCE), process.returncode) for process in started]
    assert {(err, code) for _, err, code in ends} == {(b"", 0)}
    assert len({out for out, _, _ in ends}) == 1
    assert len(runtimes()) == 1


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no list of who waits for a lock")
def test_a_start_waits_for_whoever_is_unpacking(app: Path) -> None:
    with made_place("runtime", ".lock").open("w") as held:
        process = waiting_start(app, held.fileno())
        assert runtimes() == []
    assert process.communicate(timeout=PATIENCE)[0]
    assert len(runtimes()) == 1


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no list of who waits for a lock")
@pytest.mark.parametrize("gone", ["lock", "folder"])
def test_a_lock_that_was_removed_meanwhile_guards_nothing(app: Path, gone: str) -> None:
    """As `mlxone uninstall` does while a start waits: the next one would be free to unpack beside it."""
    lock = made_place("runtime", ".lock")
    with lock.open("w") as removed, contextlib.ExitStack() as stack:
        process = waiting_start(app, removed.fileno())
        lock.unlink()
        if gone == "lock":
            other = stack.enter_context(lock.open("w"))
            fcntl.flock(other, fcntl.LOCK_EX)
        else:
            lock.parent.rmdir()
        fcntl.flock(removed, fcntl.LOCK_UN)
        if gone == "lock":
            until(lambda: _waits(process.pid) or process.poll() is not None)
            assert process.poll() is None
            assert runtimes() == []
    assert process.communicate(timeout=PATIENCE)[0]
    assert len(runtimes()) == 1


def test_a_lock_that_is_always_removed_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zipapp_start, "is_at", lambda *_: False)
    with pytest.raises(OSError, match="keeps removing"):
        zipapp_start.turn(zipapp_start.Place(tmp_path / "home"))


def waiting_start(app: Path, lock: int) -> subprocess.Popen[bytes]:
    """Started while we hold the lock, and known to wait for it."""
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = subprocess.Popen([sys.executable, str(app)], stdout=subprocess.PIPE)
    until(lambda: _waits(process.pid) or process.poll() is not None)
    assert process.poll() is None
    return process


def _waits(process: int) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and str(process) in line.split() for line in lines)


@pytest.mark.parametrize("harm", ["write_text", "unlink", "folder gone", "list cut", "no list"])
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
    elif harm == "list cut":  # after a power cut, say; what it no longer names may be anything
        lines = (runtime / "stamp").read_text().splitlines(keepends=True)
        (runtime / "stamp").write_text("".join(lines[:-3]))
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


def test_the_stamp_holds_what_every_disk_remembers(app: Path) -> None:
    said(app)
    [runtime] = runtimes()
    origin, *lines, end = (runtime / "stamp").read_text().splitlines()
    files = [path for path in runtime.rglob("*") if path.is_file() and path.name != "stamp"]
    expected = {
        f"{of.st_size} {of.st_mtime_ns} {of.st_ctime_ns} {path.relative_to(runtime)}"
        for path, of in [(path, path.stat()) for path in files]
    }
    assert (origin, set(lines), end) == (f"origin {app}", expected, f"end {len(files)}")


def test_a_disk_that_fills_up_at_the_stamp_leaves_nothing(app: Path) -> None:
    """The limit of a file's size stands in for the disk: the stamp is the largest file here."""
    said(app)
    [runtime] = runtimes()
    size = (runtime / "stamp").stat().st_size
    files = [path for path in runtime.rglob("*") if path.is_file() and path.name != "stamp"]
    assert size > max(path.stat().st_size for path in files)
    shutil.rmtree(runtime)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size - 1, size - 1))
    done = ended([sys.executable, app], preexec_fn=limit, env={**os.environ, "TMPDIR": "/dev/null"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (9, "", 1)
    assert "File too large" in done.stderr
    assert runtimes() == []


def test_room_is_asked_for_beforehand(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(made) as archive:
        needed = sum(f.file_size for f in archive.infolist() if f.filename.startswith("site-packages/"))
    home = tmp_path / "home"
    monkeypatch.setattr(zipapp_start, "places", lambda: [zipapp_start.Place(home)])
    monkeypatch.setattr(zipapp_start, "make", lambda *_: pytest.fail("it began to unpack"))
    disk = SimpleNamespace(f_flag=0, f_blocks=9, f_bavail=needed - 1, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    with pytest.raises(OSError, match=r"No space left on device: 1 MB needed, 0 MB free.*MLXONE_HOME"):
        zipapp_start.prepare(made, BUILD)
    assert runtimes(home / "runtime") == []
    disk.f_bavail += 1
    with pytest.raises(pytest.fail.Exception):
        zipapp_start.prepare(made, BUILD)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("failing", ["room", "unpacking", "renaming"])
def test_a_runtime_in_use_stays_where_it_is_until_there_is_another(
    failing: str, forced: bool, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be whole: a `chmod -R` is enough for it not to match its stamp."""
    old = a_changed_runtime(app, monkeypatch, forced)
    if failing == "room":
        monkeypatch.setattr(
            os, "statvfs", lambda _: SimpleNamespace(f_flag=0, f_blocks=9, f_bavail=0, f_frsize=1)
        )
    elif failing == "unpacking":
        monkeypatch.setattr(zipfile.ZipFile, "extract", no_room)
    else:
        real = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda path, to: no_room() if ".unpack-" in path.name else real(path, to)
        )
    with in_use(old), pytest.raises(OSError, match="No space left"):
        zipapp_start.prepare(app, BUILD)
    assert runtimes() == [old]
    assert (old / "site-packages" / "beside.py").exists()


def test_nor_does_it_go_for_nothing_where_nobody_uses_it(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = a_changed_runtime(app, monkeypatch, forced=False)
    app.write_bytes(app.read_bytes().replace(b"weights, as they are", b"weights, as they ARE"))
    with pytest.raises(zipapp_start.Damaged):
        zipapp_start.prepare(app, BUILD)
    assert runtimes() == [old]


@pytest.mark.parametrize("when", ["beforehand", "while unpacking"])
def test_for_want_of_room_what_nobody_uses_gives_way_first(
    when: str, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = a_changed_runtime(app, monkeypatch, forced=False)
    before, extract = old.stat().st_ino, zipfile.ZipFile.extract

    def if_alone(archive: zipfile.ZipFile, file: zipfile.ZipInfo, folder: Path) -> str:
        return no_room() if old.exists() else extract(archive, file, folder)

    def disk(_: Path) -> SimpleNamespace:
        return SimpleNamespace(f_flag=0, f_blocks=9, f_bavail=0 if old.exists() else 1 << 40, f_frsize=1)

    if when == "beforehand":
        monkeypatch.setattr(os, "statvfs", disk)
    else:
        monkeypatch.setattr(zipfile.ZipFile, "extract", if_alone)
    kept = os.open(old, os.O_RDONLY)  # so that the number is not given again
    assert zipapp_start.prepare(app, BUILD) == old
    os.close(kept)
    assert runtimes() == [old]
    assert old.stat().st_ino != before


def test_what_cannot_be_renamed_is_removed_where_it_is(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder from a lower layer of a container's disk."""
    old = a_changed_runtime(app, monkeypatch, forced=False)
    real = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if path == old:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    assert zipapp_start.prepare(app, BUILD) == old
    assert runtimes() == [old]


def a_changed_runtime(app: Path, monkeypatch: pytest.MonkeyPatch, forced: bool) -> Path:
    monkeypatch.setattr(zipapp_start, "places", lambda: [zipapp_start.Place(Path(os.environ["MLXONE_HOME"]))])
    old = zipapp_start.prepare(app, BUILD)
    (old / "site-packages" / "beside.py").chmod(0o755)
    if forced:
        monkeypatch.setenv("SHIV_FORCE_EXTRACT", "1")
    for descriptor in map(int, os.listdir("/dev/fd")):  # ours, as this process lives on
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), old.stat()):
                os.close(descriptor)
    return old


def no_room(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_with_its_descriptors_closed(app: Path, tmp_path: Path) -> None:
    """Nothing that it opens takes their place, and nothing meant for the errors goes to the output."""
    script = 'exec "$0" "$1" 2>&-'
    done = ended(["sh", "-c", script, sys.executable, app])
    assert (done.returncode, json.loads(done.stdout)["null"]) == (0, True)
    env = {**os.environ, "MLXONE_HOME": "/dev/null", "TMPDIR": "/dev/null"}
    done = ended(["sh", "-c", script, sys.executable, app], env=env)
    assert (done.returncode, done.stdout) == (9, "")
    other = tmp_path / "other.pyz"
    zipapp.seal(app, other, {**zipapp_main.here(), "python": "3.99"})
    done = ended(["sh", "-c", script, sys.executable, other])
    assert (done.returncode, done.stdout) == (12, "")


def test_closed_descriptors_are_not_given_to_what_is_opened(app: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from packer import zipapp_start as start; "
        "start.fill_closed(); start.prepare(Path(sys.argv[1]), 'x'); "
        "assert all(os.path.samestat(os.fstat(fd), os.stat('/dev/null')) for fd in range(3)); "
        "assert all(map(os.get_inheritable, range(3))); Path(sys.argv[2]).touch()"
    )
    seen = app.with_name("seen")
    script = 'exec "$0" -c "$1" "$2" "$3" <&- >&- 2>&-'
    ended(["sh", "-c", script, sys.executable, code, app, seen], cwd=Path(zipapp.__file__).parents[1])
    assert seen.exists()


def test_the_file_may_lie_anywhere(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ein Ördner" / "with\nline"
    folder.mkdir(parents=True)
    app = Path(shutil.copy(made, folder / "mlx one.pyz"))
    assert said(app)["MLXONE_EXECUTABLE"] == str(app)
    [runtime] = runtimes()
    before = runtime.stat().st_ino
    assert said(app)["beside"] == str(runtime / "site-packages" / "beside.py")
    assert runtime.stat().st_ino == before
    assert (runtime / "stamp").read_text().startswith("origin \n")


def test_another_python_is_told(app: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pyz"
    zipapp.seal(app, other, {**zipapp_main.here(), "python": "3.99"})
    done = launch(other)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (12, "", 1)
    assert not Path(os.environ["MLXONE_HOME"]).exists()


def test_what_else_is_installed_is_not_seen(app: Path, tmp_path: Path) -> None:
    for name in ("mlxone", "beside", "compileall", "zipfile", "zipapp_start"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    found = said(app, PYTHONPATH=str(tmp_path))
    assert str(tmp_path) not in found["path"]
    assert [p for p in found["path"] if "site-packages" in p] == [str(runtimes()[0] / "site-packages")]
