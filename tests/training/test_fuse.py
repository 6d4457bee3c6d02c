"""Fusing, against mounting the adapter, against MLX's own quantization, and against mlx_lm.fuse."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model as mlx_lm_load

from mlxone.backend.arrays import mx, on_stream
from mlxone.core.errors import AdapterMismatch, StorageError, UsageError
from mlxone.formats.safetensors import read_header
from mlxone.formats.shards import shard_paths
from mlxone.hub.starter import MANIFEST
from mlxone.models.adapters import Adapter
from mlxone.models.changed import changed_decoder
from mlxone.models.loading import load_decoder
from mlxone.training import tensor_file
from mlxone.training.fuse import fuse
from tests.models.checkpoints import LLAMA, logits, packed, refused, save, shapes, tensors

RANK, SCALE = 4, 3.0
QWEN2 = LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True}
FOUR_BITS = {"group_size": 32, "bits": 4}
MIXED = FOUR_BITS | {
    "model.layers.0.self_attn.q_proj": {"group_size": 64, "bits": 8},
    "model.layers.1.mlp.down_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "lm_head": False,
}


def base(
    folder: Path,
    config: Mapping[str, Any] = LLAMA,
    *,
    quantization: Mapping[str, Any] | None = None,
    dtype: mx.Dtype = mx.float32,
    shards: int = 1,
) -> Path:
    arrays = tensors(config, dtype)
    written = dict(config)
    if quantization is not None:

        def how(path: str) -> tuple[int, int, str] | None:
            own = quantization.get(path, quantization)
            return (own["group_size"], own["bits"], own.get("mode", "affine")) if own else None

        arrays = packed(arrays, how)
        written |= {"quantization": dict(quantization)}
    save(folder, written, arrays, shards=shards)
    (folder / "tokenizer.json").write_text('{"of": "the base"}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "LICENSE").write_text("free")
    (folder / MANIFEST).write_text("{}")
    (folder / "notes.txt").write_text("the user's own")
    return folder


def adapter(folder: Path, config: Mapping[str, Any], kind: str = "lora", *, last: int = 2) -> Path:
    """As mlx_lm.lora leaves it, on the last layers of a model of two."""
    mx.random.seed(5)
    arrays: dict[str, mx.array] = {}
    with on_stream():
        for name, shape in shapes(config).items():
            path, _, part = name.rpartition(".")
            if not path.startswith("model.layers.") or int(path.split(".")[2]) < 2 - last:
                continue
            if kind == "full":
                arrays[name] = mx.random.normal(shape)
            elif len(shape) == 2 and part == "weight":
                arrays[f"{path}.lora_a"] = 0.1 * mx.random.normal((shape[1], RANK))
                arrays[f"{path}.lora_b"] = 0.1 * mx.random.normal((RANK, shape[0]))
                if kind == "dora":
                    arrays[f"{path}.m"] = 1 + mx.random.uniform(shape=(shape[0],))
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), arrays)
    parameters = None if kind == "full" else {"rank": RANK, "scale": SCALE, "dropout": 0.0}
    settings = {"fine_tune_type": kind, "num_layers": last, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def mounted(model: Path, folder: Path) -> mx.array:
    decoder = load_decoder(model)
    with on_stream():
        return logits(changed_decoder(decoder, Adapter.read(folder).changes(decoder)))


def stored(folder: Path) -> dict[str, mx.array]:
    found: dict[str, mx.array] = {}
    for path in shard_paths(folder):
        found |= cast("dict[str, mx.array]", mx.load(str(path)))
    return found


def largest_difference(a: mx.array, b: mx.array) -> float:
    return cast(float, mx.abs(a - b).max().item())


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=["llama", "qwen2 with biases"])
def test_a_fused_float_model_says_what_the_mounted_adapter_says(
    tmp_path: Path, kind: str, config: dict[str, Any]
):
    model, tuned = base(tmp_path / "base", config), adapter(tmp_path / "adapter", config, kind)
    fused = fuse(model, tuned, tmp_path / "fused")
    assert largest_difference(logits(fused.path), mounted(model, tuned)) < 1e-5
    assert largest_difference(logits(fused.path), logits(model)) > 1e-2
    theirs, _ = mlx_lm_load(fused.path)
    whole = theirs(mx.array([[1, 5, 9, 2, 7, 3]]))
    assert largest_difference(logits(fused.path), whole) < 1e-5


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("quantization", [FOUR_BITS, MIXED], ids=["4-bit", "mixed"])
def test_each_weight_is_packed_again_as_it_was(tmp_path: Path, kind: str, quantization: dict[str, Any]):
    """The oracle is written down apart: unpack, add, pack, weight by weight."""
    model = base(tmp_path / "base", quantization=quantization, dtype=mx.float16)
    tuned = adapter(tmp_path / "adapter", LLAMA, kind, last=1)
    fused = fuse(model, tuned, tmp_path / "fused")
    before, after, low = stored(model), stored(fused.path), stored_adapter(tuned)
    assert before.keys() == after.keys() and fused.linears == 7
    for path in {name.removesuffix(".lora_a") for name in low if name.endswith(".lora_a")}:
        own = quantization.get(path, quantization)
        how = {"group_size": own["group_size"], "bits": own["bits"], "mode": own.get("mode", "affine")}
        with on_stream():
            weight = mx.dequantize(
                before[f"{path}.weight"], before[f"{path}.scales"], before.get(f"{path}.biases"), **how
            )
            delta = SCALE * low[f"{path}.lora_b"].T @ low[f"{path}.lora_a"].T
            if kind == "dora":
                wide = weight.astype(mx.float32) + delta
                length = mx.sqrt(mx.sum(wide * wide, axis=1, keepdims=True))
                expected = low[f"{path}.m"][:, None] * wide / length
            else:
                expected = weight + delta.astype(weight.dtype)
            got = mx.dequantize(
                after[f"{path}.weight"], after[f"{path}.scales"], after.get(f"{path}.biases"), **how
            )
            parts = mx.quantize(expected.astype(weight.dtype), **how)
        if kind == "lora":
            names = [f"{path}.{part}" for part in ("weight", "scales", "biases")]
            for name, part in zip(names, parts, strict=False):
                assert after[name].dtype == before[name].dtype
                assert mx.array_equal(after[name], part), name
        step = mx.abs(expected).max().item() / 2 ** (how["bits"] - 1)
        assert largest_difference(got.astype(mx.float32), expected.astype(mx.float32)) < step
        low = {name: array for name, array in low.items() if not name.startswith(f"{path}.")}
    assert not low
    untouched = [name for name in before if ".layers.1." not in name or name.endswith("norm.weight")]
    assert untouched
    for name in untouched:
        assert bytes_of(fused.path, name) == bytes_of(model, name), name


def stored_adapter(folder: Path) -> dict[str, mx.array]:
    return cast("dict[str, mx.array]", mx.load(str(folder / "adapters.safetensors")))


def bytes_of(folder: Path, name: str) -> tuple[str, tuple[int, ...], bytes]:
    for path in shard_paths(folder):
        info = read_header(path).get(name)
        if info is not None:
            return info.dtype, info.shape, bytes(tensor_file.read_bytes(info))
    raise AssertionError(f"{name} is not in {folder}")


@pytest.mark.parametrize("dequantize", [False, True], ids=["packed", "dequantized"])
@pytest.mark.parametrize("quantization", [FOUR_BITS, None], ids=["4-bit", "float32"])
def test_the_weights_are_those_of_mlx_lm(
    tmp_path: Path, quantization: dict[str, Any] | None, dequantize: bool
):
    model = base(tmp_path / "base", quantization=quantization)
    tuned = adapter(tmp_path / "adapter", LLAMA)
    fused = stored(fuse(model, tuned, tmp_path / "fused", dequantize=dequantize).path)
    theirs = fused_by_mlx_lm(model, tuned, dequantize)
    assert fused.keys() == theirs.keys()
    for name, array in theirs.items():
        assert fused[name].dtype == array.dtype and mx.array_equal(fused[name], array), name


def fused_by_mlx_lm(model: Path, folder: Path, dequantize: bool) -> dict[str, mx.array]:
    """What `mlx_lm.fuse` does between loading and saving."""
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.utils import dequantize_model

    theirs = load_adapters(mlx_lm_load(model)[0], str(folder))
    layers = [(n, m.fuse(dequantize=dequantize)) for n, m in theirs.named_modules() if hasattr(m, "fuse")]
    theirs.update_modules(tree_unflatten(layers))
    if dequantize:
        theirs = dequantize_model(theirs)
    return dict(tree_flatten(theirs.parameters()))


def test_a_dequantized_model_is_plain_everywhere(tmp_path: Path):
    model = base(tmp_path / "base", quantization=MIXED, dtype=mx.bfloat16, shards=3)
    tuned = adapter(tmp_path / "adapter", LLAMA, last=1)
    fused = fuse(model, tuned, tmp_path / "fused", dequantize=True).path
    config = json.loads((fused / "config.json").read_text())
    assert config == LLAMA
    assert {str(array.dtype) for array in stored(fused).values()} == {"mlx.core.bfloat16"}
    assert {name: array.shape for name, array in stored(fused).items()} == shapes(LLAMA)
    assert mx.isfinite(logits(fused)).all()


def test_shards_stay_shards_with_a_true_index(tmp_path: Path):
    model, tuned = base(tmp_path / "base", shards=3), adapter(tmp_path / "adapter", LLAMA)
    fused = fuse(model, tuned, tmp_path / "fused")
    index = json.loads((fused.path / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        assert name in read_header(fused.path / file)
    assert index["weight_map"].keys() == stored(model).keys()
    assert (
        index["metadata"]["total_size"] == fused.bytes == sum(a.nbytes for a in stored(fused.path).values())
    )
    whole = fuse(base(tmp_path / "one"), tuned, tmp_path / "whole")
    assert mx.array_equal(logits(fused.path), logits(whole.path))


def test_what_belongs_to_a_model_comes_along(tmp_path: Path):
    model, tuned = base(tmp_path / "base"), adapter(tmp_path / "adapter", LLAMA)
    real = shutil.copytree(model, tmp_path / "blobs")
    for path in list(model.iterdir()):  # as the Hub's cache keeps a snapshot
        path.unlink()
        path.symlink_to(real / path.name)
    fused = fuse(model, tuned, tmp_path / "deep" / "down" / "fused").path
    expected = {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "LICENSE"}
    assert {path.name for path in fused.iterdir()} == expected | {"chat_template.jinja"}
    assert not any(path.is_symlink() for path in fused.iterdir())
    assert (fused / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert [path.name for path in fused.parent.iterdir()] == ["fused"]


def test_an_empty_folder_is_a_good_target(tmp_path: Path):
    (tmp_path / "fused").mkdir()
    assert fuse(base(tmp_path / "base"), adapter(tmp_path / "a", LLAMA), tmp_path / "fused").path.is_dir()


def test_a_target_that_holds_something_is_refused(tmp_path: Path):
    model, tuned = base(tmp_path / "base"), adapter(tmp_path / "adapter", LLAMA)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, word in {"adapter": "not empty", "file": "is a file", "base": "not empty"}.items():
        with refused(UsageError, str(tmp_path / name), word):
            fuse(model, tuned, tmp_path / name)
    with refused(UsageError, str(tmp_path / "dangling")):
        fuse(model, tuned, tmp_path / "dangling")
    with refused(UsageError, str(model / "fused"), "inside"):
        fuse(model, tuned, model / "fused")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_adapter_of_another_model_is_named(tmp_path: Path):
    model = base(tmp_path / "base")
    wider = LLAMA | {"hidden_size": 128}
    with refused(AdapterMismatch, "model.layers.0"):
        fuse(model, adapter(tmp_path / "adapter", wider), tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, tuned = base(tmp_path / "base"), adapter(tmp_path / "adapter", LLAMA)
    before = sorted(tmp_path.iterdir())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with refused(StorageError, str(tmp_path / "fused"), "No space left"):
            fuse(model, tuned, tmp_path / "fused")
    assert sorted(tmp_path.iterdir()) == before
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
        with refused(StorageError, str(tmp_path / "fused"), "0.00 GB are free"):
            fuse(model, tuned, tmp_path / "fused")
    assert sorted(tmp_path.iterdir()) == before
    assert fuse(model, tuned, tmp_path / "fused").path.is_dir()


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path):
    """A model of many layers takes no more than one of few."""
    peaks = []
    for layers in (2, 12):
        config = LLAMA | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": layers}
        model = base(tmp_path / f"base{layers}", config, quantization=FOUR_BITS)
        tuned = adapter(tmp_path / f"adapter{layers}", config, last=2)
        mx.clear_cache()
        active = mx.get_active_memory()
        mx.reset_peak_memory()
        fuse(model, tuned, tmp_path / f"fused{layers}")
        peaks.append(mx.get_peak_memory() - active)
    assert peaks[1] < 1.5 * peaks[0]
