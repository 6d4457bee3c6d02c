"""A run's folder: nobody's adapter is replaced unasked, and there is one writer."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from mlxone.core.errors import StorageError, UsageError
from mlxone.training import folder
from mlxone.training.folder import CONFIG, METRICS, RESULTS, STATE, RunFolder, check_free


@pytest.mark.parametrize("name", RESULTS)
def test_a_folder_with_somebodys_adapter_is_refused(tmp_path: Path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"holds an adapter already .{name}.") as caught:
        RunFolder(tmp_path)
    assert "--resume" in caught.value.hint and "--overwrite" in caught.value.hint
    assert (tmp_path / name).read_text() == "mine"


def test_other_files_are_nobodys_business(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with RunFolder(tmp_path, overwrite=True):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwriting_forgets_the_other_run_first(tmp_path: Path):
    for name in (*RESULTS, METRICS):
        (tmp_path / name).write_text("old")
    with RunFolder(tmp_path, overwrite=True):
        left = {p.name for p in tmp_path.iterdir()}
    assert left == {*RESULTS} - {STATE}  # the adapter itself stays until there is a new one


@pytest.mark.parametrize("resume", [False, True])
def test_a_name_that_is_too_long(tmp_path: Path, resume: bool):
    with pytest.raises((StorageError, UsageError), match="xxx"):
        RunFolder(tmp_path / (300 * "x"), resume=resume)


def test_the_step_of_the_adapter_that_is_here(tmp_path: Path):
    with RunFolder(tmp_path) as here:
        assert here.adapter_step() is None
        for text, step in (("{", None), ("[]", None), ('{"mlxone": {"step": 7}}', 7)):
            (tmp_path / CONFIG).write_text(text)
            assert here.adapter_step() == step


def test_only_one_run_writes(tmp_path: Path):
    with RunFolder(tmp_path / "new" / "one"), pytest.raises(UsageError, match="another run is writing"):
        RunFolder(tmp_path / "new" / "one")
    RunFolder(tmp_path / "new" / "one").close()


def test_who_only_looks_keeps_no_run_from_it(tmp_path: Path, monkeypatch):
    """`train-watch` asks by taking a lock for a moment."""
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("time.sleep", lambda seconds: fcntl.flock(looking, fcntl.LOCK_UN))
    RunFolder(tmp_path).close()
    os.close(looking)


def test_an_adapter_that_another_run_leaves_meanwhile_is_somebodys(tmp_path: Path, monkeypatch):
    locked = folder._locked

    def ends(descriptor: int) -> bool:
        (tmp_path / "adapters.safetensors").write_text("just now")
        return locked(descriptor)

    monkeypatch.setattr(folder, "_locked", ends)
    with pytest.raises(UsageError, match="holds an adapter already"):
        RunFolder(tmp_path)
    monkeypatch.undo()
    RunFolder(tmp_path, overwrite=True).close()  # and is not held


def test_what_a_killed_run_left_half_written_goes(tmp_path: Path):
    (tmp_path / f".partial.{STATE}").write_text("half")
    with RunFolder(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_no_folder_and_no_run(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        check_free(tmp_path / "file")
    with pytest.raises(UsageError, match="holds no run to go on with"):
        check_free(tmp_path, resume=True)
    with pytest.raises(StorageError, match="cannot be saved"):
        RunFolder(Path("/proc/nowhere/adapters"))
    with pytest.raises(UsageError, match="contradict"):
        RunFolder(tmp_path, resume=True, overwrite=True)
