"""A config that contradicts its tensors: the error names the tensor. No number makes anything large."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx, on_stream
from mlxone.core.errors import DamagedModel
from mlxone.models.loading import load_decoder
from tests.models import checkpoints as c
from tests.models.tiny_families import CONFIGS, changed

# Each kind of part at least once.
NAMES = (
    "glm4", "stablelm-head-norms", "starcoder2", "gemma4-per-layer", "gemma4-mixture", "gpt_oss",
    "qwen3_next-mixture", "nemotron_h-latent-groups", "granitemoehybrid-mixture", "lfm2", "v3", "minicpm3",
)  # fmt: skip
Tensors = dict[str, mx.array]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def of(name: str) -> tuple[Path, Tensors]:
        folder = tmp_path_factory.mktemp(name)
        save_random_model(folder, CONFIGS[name], dtype=mx.float32)
        with on_stream():
            arrays = mx.load(str(folder / "model.safetensors"))
        assert isinstance(arrays, dict)
        return folder, arrays

    return of


def roles(arrays: Tensors) -> list[str]:
    """One tensor of each role: of those that differ by a layer's number alone, the first."""
    found: dict[str, str] = {}
    for name in arrays:
        found.setdefault(".".join("N" if part.isdigit() else part for part in name.split(".")), name)
    return list(found.values())


def expect(folder: Path, arrays: Tensors, name: str, *words: str) -> None:
    with on_stream():
        mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    with c.refused(DamagedModel, repr(name), *words):
        load_decoder(folder)


@pytest.mark.parametrize("name", NAMES)
def test_one_that_is_missing(saved: Any, name: str, tmp_path: Path):
    folder, arrays = saved(name)
    config = json.loads((folder / "config.json").read_text())
    # Stated: else a head that is not there means that there is none.
    config.get("text_config", config).setdefault("tie_word_embeddings", "lm_head.weight" not in arrays)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for tensor in roles(arrays):
        rest = {k: v for k, v in arrays.items() if k != tensor}
        expect(tmp_path, rest, tensor, "is missing")


@pytest.mark.parametrize("name", NAMES)
def test_one_of_another_shape(saved: Any, name: str, tmp_path: Path):
    folder, arrays = saved(name)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    for tensor in roles(arrays):
        with on_stream():
            longer = mx.concatenate([arrays[tensor], arrays[tensor]], axis=-1)
        expect(tmp_path, {**arrays, tensor: longer}, tensor, f"has shape {list(longer.shape)}")


@pytest.mark.parametrize("name", NAMES)
def test_one_of_whole_numbers(saved: Any, name: str, tmp_path: Path):
    folder, arrays = saved(name)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    for tensor in roles(arrays):
        with on_stream():
            whole = arrays[tensor].astype(mx.int32)
        expect(tmp_path, {**arrays, tensor: whole}, tensor, "has dtype I32")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "extra", ["model.layers.0.self_attn.q_scale", "model.layers.99.mlp.weight", "stranger"]
)
def test_one_that_nobody_expects(saved: Any, name: str, extra: str, tmp_path: Path):
    folder, arrays = saved(name)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with on_stream():
        expect(
            tmp_path, {**arrays, extra: mx.zeros((2,))}, extra, "unexpected tensor", "config.json describes a"
        )


def test_a_layer_more_in_the_file_than_in_the_config(saved: Any, tmp_path: Path):
    """A file of which the config describes the beginning would answer, in other words."""
    folder, arrays = saved("glm4")
    (tmp_path / "config.json").write_text(json.dumps(changed("glm4", num_hidden_layers=2)))
    with on_stream():
        mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    with c.refused(DamagedModel, "unexpected tensor 'model.layers.2."):
        load_decoder(tmp_path)


def sizes(config: dict[str, Any]) -> Iterator[str]:
    own = config.get("text_config", config)
    yield from (key for key, value in own.items() if type(value) is int)


@pytest.fixture(scope="module")
def worker() -> Iterator[c.Worker]:
    worker = c.Worker()
    yield worker
    worker.close()


@pytest.mark.parametrize("name", NAMES)
def test_no_number_makes_anything_large(saved: Any, worker: c.Worker, name: str, tmp_path: Path):
    """In a process that may have 4 GiB: loading and a step, or one line of ours."""
    folder, arrays = saved(name)
    with on_stream():
        mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    for key in sizes(CONFIGS[name]):
        for value in (1, 3, 2**20, 2**31 - 1):
            (tmp_path / "config.json").write_text(json.dumps(changed(name, **{key: value})))
            result = worker.try_out(tmp_path)
            assert result["ours"], f"{key}={value}: {result['kind']}: {result['text']}"
            assert "\n" not in result["text"] and len(result["text"]) < 1500
