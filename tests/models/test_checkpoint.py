"""A folder's tensors by name: shards, the index, and what is taken only once it fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.shards import shard_paths
from mlxone.models.checkpoint import Checkpoint
from tests.models.checkpoints import entries, refused, write_safetensors

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def index(folder: Path, weight_map: Any) -> Path:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    mx.save_safetensors(str(tmp_path / ONE), {"a": mx.array([1.0, 2.0])})
    mx.save_safetensors(str(tmp_path / TWO), {"b": mx.array([[3.0]]), "c": mx.array([4.0])})
    return index(tmp_path, {"a": ONE, "b": TWO, "c": TWO})


def test_tensors_of_all_shards_are_there(sharded: Path):
    checkpoint = Checkpoint(sharded)
    assert sorted(checkpoint.names()) == ["a", "b", "c"]
    assert "b" in checkpoint and "d" not in checkpoint
    assert checkpoint.info("b").file == sharded / TWO
    assert checkpoint.take("a", (2,)).tolist() == [1.0, 2.0]
    assert checkpoint.take("b", (1, 1)).tolist() == [[3.0]]


def test_taking_or_skipping_makes_a_name_expected(sharded: Path):
    checkpoint = Checkpoint(sharded)
    checkpoint.take("c", (1,))
    assert checkpoint.leftover() == ["a", "b"]
    checkpoint.skip("a")
    assert checkpoint.leftover() == ["b"]


def test_only_files_that_the_index_names_are_read(sharded: Path):
    (sharded / "model-other.safetensors").write_bytes(b"no safetensors at all")
    assert shard_paths(sharded) == [sharded / ONE, sharded / TWO]


def test_without_an_index_every_model_file_counts(tmp_path: Path):
    for name in ("model-b.safetensors", "model-a.safetensors", "adapters.safetensors"):
        write_safetensors(tmp_path / name, {})
    assert [p.name for p in shard_paths(tmp_path)] == ["model-a.safetensors", "model-b.safetensors"]


def test_a_file_may_be_a_link_whose_target_has_another_name(tmp_path: Path):
    """The Hub's cache is made of these."""
    mx.save_safetensors(str(tmp_path / "blob.safetensors"), {"a": mx.array([1.0])})
    (tmp_path / "blob.safetensors").rename(tmp_path / "0a1b2c")
    (tmp_path / "model.safetensors").symlink_to("0a1b2c")
    assert Checkpoint(tmp_path).take("a", (1,)).tolist() == [1.0]


def test_a_folder_without_weights(tmp_path: Path):
    with refused(DamagedModel, f"{tmp_path} holds no model*.safetensors", "download the model again"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("name", [ONE, "x" * 300, "nul\0", "line\nbreak", "\ud800"])
def test_a_shard_that_is_missing(sharded: Path, name: str):
    index(sharded, {"a": name, "b": TWO})
    (sharded / ONE).unlink()
    with refused(DamagedModel, str(sharded / INDEX), f"names {name[:80]!r}, which is missing"):
        Checkpoint(sharded)


def test_a_link_to_nowhere_is_a_missing_shard(sharded: Path):
    (sharded / ONE).unlink()
    (sharded / ONE).symlink_to("gone")
    with refused(DamagedModel, repr(ONE), "is missing"):
        Checkpoint(sharded)


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", ".", "a/.."]
)
def test_a_shard_outside_the_folder(sharded: Path, name: str):
    write_safetensors(sharded.parent / "other.safetensors", {})
    index(sharded, {"a": name})
    with refused(DamagedModel, str(sharded / INDEX), "names a file outside its folder", repr(name)):
        Checkpoint(sharded)


@pytest.mark.parametrize("name", ["", ".."])
def test_a_shard_that_is_a_folder(sharded: Path, name: str):
    index(sharded, {"a": name})
    with refused(DamagedModel, str(sharded / name), "is a folder"):
        Checkpoint(sharded)


@pytest.mark.parametrize("weight_map", [None, [], ["a"], "a", {"a": 1}, {"a": None}, {"a": [ONE]}])
def test_an_index_without_a_map(sharded: Path, weight_map: Any):
    with refused(DamagedModel, str(sharded / INDEX), "has no weight_map"):
        Checkpoint(index(sharded, weight_map))


def test_an_index_that_is_no_json(sharded: Path):
    (sharded / INDEX).write_text('{"weight_map": {')
    with refused(DamagedModel, str(sharded / INDEX), "not valid JSON"):
        Checkpoint(sharded)


def test_an_index_of_nothing_lacks_every_tensor(sharded: Path):
    with refused(DamagedModel, str(sharded), "tensor 'a' is missing"):
        Checkpoint(index(sharded, {})).take("a", (2,))


def test_a_tensor_that_is_missing(sharded: Path):
    for ask in (lambda c: c.take("d", (1,)), lambda c: c.info("d")):
        with refused(DamagedModel, f"{sharded}: tensor 'd' is missing", "download the model again"):
            ask(Checkpoint(sharded))


@pytest.mark.parametrize("shape", [(1,), (2, 1), (1, 2), (3,), ()])
def test_a_tensor_of_the_wrong_shape(sharded: Path, shape: tuple[int, ...]):
    checkpoint = Checkpoint(sharded)
    with refused(DamagedModel, f"{sharded / ONE}: tensor 'a' has shape [2]", f"asks for {list(shape)}"):
        checkpoint.take("a", shape)
    assert checkpoint.leftover() == ["a", "b", "c"]


@pytest.mark.parametrize("dtype", ["F64", "F8_E5M2", "F8_E8M0"])
def test_a_dtype_that_mlx_cannot_load(tmp_path: Path, dtype: str):
    size = 8 if dtype == "F64" else 1
    header = {"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}
    write_safetensors(tmp_path / "model.safetensors", header)
    with refused(UnsupportedModel, str(tmp_path / "model.safetensors"), "tensor 'a' has dtype", dtype):
        Checkpoint(tmp_path).take("a", (1,))


@pytest.mark.parametrize(
    "extra",
    [
        {"__metadata__": {"format": 1}},
        {"__metadata__": [1]},
        {"a": entries({"a": (2,)})["a"] | {"more": float("nan")}},
        {"\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
        {"b": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}},
    ],
)
def test_what_mlx_will_not_load_is_our_error_as_well(tmp_path: Path, extra: dict[str, Any]):
    """Python's JSON is laxer than that of MLX, and one odd tensor makes MLX give up the file."""
    file = write_safetensors(tmp_path / "model.safetensors", entries({"a": (2,)}) | extra, data=8)
    with refused(DamagedModel, str(file), "MLX cannot load it"):
        Checkpoint(tmp_path).take("a", (2,))


def test_nothing_is_opened_before_a_tensor_is_taken(sharded: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    load = mx.load

    def noting(path: str, **more: Any) -> Any:
        opened.append(path)
        return load(path, **more)

    monkeypatch.setattr(mx, "load", noting)
    checkpoint = Checkpoint(sharded)
    assert checkpoint.info("b").shape == (1, 1) and opened == []
    checkpoint.take("b", (1, 1))
    checkpoint.take("c", (1,))
    assert opened == [str(sharded / TWO)], "once for each file"
