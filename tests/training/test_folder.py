"""A run's folder: nobody's adapter is replaced unasked, and there is one writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxone.core.errors import StorageError, UsageError
from mlxone.training.folder import METRICS, RESULTS, STATE, RunFolder, check_free


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


def test_only_one_run_writes(tmp_path: Path):
    with RunFolder(tmp_path / "new" / "one"), pytest.raises(UsageError, match="another run is writing"):
        RunFolder(tmp_path / "new" / "one")
    RunFolder(tmp_path / "new" / "one").close()


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
