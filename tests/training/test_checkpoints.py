"""A run's state on the disk: back bit for bit, whole at any moment, refused when damaged or another's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, StorageError, UsageError
from mlxone.training import checkpoints, folder
from mlxone.training.checkpoints import Checkpoint
from mlxone.training.optimizer import Optimizer
from mlxone.training.recipe import Recipe
from mlxone.training.tensor_file import write_file


def checkpoint(step: int = 7, optimizer: str = "adamw") -> Checkpoint:
    params = {"l.lora_a": mx.random.normal((5, 3), key=mx.random.key(step)), "l.m": mx.zeros((4,))}
    mover = Optimizer(Recipe.of({"optimizer": optimizer}), params, compiled=False)
    params, _ = mover.step(params, {n: mx.ones_like(a) for n, a in params.items()}, mx.array(1.0), 0.1)
    return Checkpoint(
        step, params, mover.state, {"rank": 3}, {"model": "m", "data": "d"}, {"total": 0.1 + 0.2}
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
def test_what_is_written_is_read(tmp_path: Path, optimizer):
    given = checkpoint(optimizer=optimizer)
    given.write(tmp_path / "state.safetensors")
    found = Checkpoint.read(tmp_path / "state.safetensors")
    assert (found.step, found.recipe, found.fingerprints, found.history) == (
        7, given.recipe, given.fingerprints, given.history,
    )  # fmt: skip
    for mine, theirs in ((given.params, found.params), (given.optimizer, found.optimizer)):
        assert mine.keys() == theirs.keys()
        assert all(theirs[n].dtype == mine[n].dtype for n in mine)
        assert all(mx.array_equal(mine[n], theirs[n]).item() for n in mine)


def test_it_is_in_memory_when_it_is_read(tmp_path: Path):
    path = tmp_path / "state.safetensors"
    given = checkpoint()
    given.write(path)
    found = Checkpoint.read(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert mx.array_equal(found.params["l.lora_a"], given.params["l.lora_a"]).item()


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 0.5, -1])
def test_a_part_of_a_file_is_no_checkpoint(tmp_path: Path, kept):
    path = tmp_path / "state.safetensors"
    checkpoint().write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: round(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(DamagedModel, match="no run can go on from it"):
        Checkpoint.read(path)


def test_another_files_tensors_are_no_checkpoint(tmp_path: Path):
    path = tmp_path / "state.safetensors"
    mx.save_safetensors(str(path), {"x": mx.zeros((2,))})
    with pytest.raises(DamagedModel):
        Checkpoint.read(path)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Quota:
    """A disk that takes so many bytes and no more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write_file(self, path: Path, slots, metadata, made) -> None:
        write_file(path, slots, metadata, made)
        if path.stat().st_size > self.room:
            os.truncate(path, self.room)
            full()


@pytest.mark.parametrize("where", ["writing", "fsync", "rename"])
def test_a_full_disk_leaves_the_old_one_and_nothing_else(tmp_path: Path, monkeypatch, where):
    path = tmp_path / "state.safetensors"
    checkpoint(3).write(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        if where == "writing":
            patch.setattr(checkpoints, "write_file", Quota(200).write_file)
        elif where == "fsync":
            patch.setattr(folder, "make_durable", full)
        else:
            patch.setattr(os, "replace", full)
        with pytest.raises(StorageError) as caught:
            checkpoint(4).write(path)
    assert str(path) in caught.value.message and "No space left" in caught.value.message
    assert path.read_bytes() == before and Checkpoint.read(path).step == 3
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["model", "data"])
def test_what_differs_is_named(name):
    now = {"model": "m", "data": "d"} | {name: "other"}
    with pytest.raises(UsageError, match=f"another {name}"):
        checkpoint().check_fingerprints(now)
    checkpoint().check_fingerprints({"model": "m", "data": "d"})
