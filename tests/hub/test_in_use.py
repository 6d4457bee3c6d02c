"""Who holds a model: locks of living processes count, files of dead ones do not."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlxone.hub import in_use, places

HOLDER = """
import sys
from pathlib import Path
from mlxone.hub.in_use import in_use
with in_use(Path(sys.argv[1]), what="serve"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has `tmp_path/model` open."""
    (tmp_path / "model").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "model")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def files() -> list[Path]:
    folder = places.home() / "running"
    return list(folder.iterdir()) if folder.exists() else []


def test_another_process_is_seen_by_name(holder, tmp_path):
    [use] = in_use.using(tmp_path / "model")
    assert (use.pid, use.what) == (holder.pid, "serve")
    assert str(use) == f"`mlxone serve` (process {holder.pid})"


def test_its_end_frees_the_model_and_its_file_goes(holder, tmp_path):
    holder.stdin.close()
    holder.wait()
    assert in_use.using(tmp_path / "model") == []
    assert files() == []


def test_so_does_a_kill(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert len(files()) == 1
    assert in_use.using(tmp_path / "model") == []
    assert files() == []  # reaped


def test_a_file_with_a_living_number_and_no_lock_is_a_leftover(tmp_path):
    folder = places.home() / "running"
    folder.mkdir(parents=True)
    values = {"pid": os.getpid(), "what": "serve", "started": 0, "paths": [str(tmp_path)]}
    (folder / f"{os.getpid()}-01234567.json").write_text(json.dumps(values))
    assert in_use.using(tmp_path) == []
    assert files() == []


@pytest.mark.parametrize(
    ("asked", "held"),
    [(".", True), ("repo", True), ("repo/snapshots/1", True), ("repo/snapshots/1/a.gguf", True)]
    + [("repo/snapshots/2", False), ("repo2", False), ("rep", False)],
)
def test_a_folder_holds_what_is_in_it_and_is_held_by_it(tmp_path, asked, held):
    with in_use.in_use(tmp_path / "repo" / "snapshots" / "1"):
        assert bool(in_use.using(tmp_path / asked)) is held
    assert in_use.using(tmp_path / asked) == []


def test_a_file_is_held_where_it_is_said_to_be_and_where_it_is(tmp_path):
    """A GGUF file of the cache is a link in its snapshot to a blob."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "etag").touch()
    link = tmp_path / "snapshots" / "1" / "a.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "blobs" / "etag")
    with in_use.in_use(link):
        assert in_use.using(tmp_path / "blobs" / "etag")
        assert in_use.using(link.parent)


def test_several_paths_and_several_holders(tmp_path):
    with in_use.in_use(tmp_path / "a", tmp_path / "b"), in_use.in_use(tmp_path / "b", what="serve"):
        assert [u.what for u in in_use.using(tmp_path / "a")] == ["run"]
        assert sorted(u.what for u in in_use.using(tmp_path / "b")) == ["run", "serve"]


def test_a_home_that_cannot_be_written_costs_only_the_protection(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLXONE_HOME", str(tmp_path / "file"))
    with in_use.in_use(tmp_path / "model"):
        assert in_use.using(tmp_path / "model") == []
    assert "cannot note that a model is in use" in caplog.text


def test_an_error_inside_frees_it_too(tmp_path):
    with pytest.raises(ZeroDivisionError), in_use.in_use(tmp_path):
        raise ZeroDivisionError
    assert files() == []


def leftover(name: str) -> Path:
    path = places.home() / "running" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"pid": 1, "what": "serve", "started": 0, "paths": ["/"]}')
    return path


def test_who_only_looks_is_not_taken_for_the_owner(tmp_path):
    with leftover("1-aaaaaaaa.json").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert in_use.using(tmp_path) == []


def test_a_file_that_is_just_being_made_is_not_swept_away(tmp_path):
    young, old = leftover(".1-aaaaaaaa.json"), leftover(".2-bbbbbbbb.json")
    os.utime(old, (0, 0))
    assert in_use.using(tmp_path) == []
    assert files() == [young]


def test_a_file_that_no_mlxone_wrote_stays(tmp_path):
    folder = places.home() / "running"
    folder.mkdir(parents=True)
    names = {"notes.txt", "7.json", "7-0123456789abcdef.json", "x7-01234567.json"}
    for name in names:
        (folder / name).write_text("mine", encoding="utf-8")
    assert in_use.using(tmp_path) == []
    assert {path.name for path in folder.iterdir()} == names
