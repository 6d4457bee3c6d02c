"""A folder to a decoder: every tensor accounted for, nothing read too early, three forms of weights."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mlxone.backend import cpu
from mlxone.backend.arrays import mx, on_cpu
from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.checkpoint import Checkpoint
from mlxone.models.loading import load_decoder
from mlxone.models.weights import wide_bytes
from tests.models.checkpoints import (
    LLAMA,
    QWEN3,
    Packer,
    entries,
    logits,
    packed,
    refused,
    save,
    shapes,
    tensors,
    write_safetensors,
)

TIED = LLAMA | {"tie_word_embeddings": True}
QUANTIZED = LLAMA | {"quantization": {"group_size": 32, "bits": 4}}
UP = "model.layers.1.mlp.up_proj"


def four_bits(path: str) -> tuple[int, int, str]:
    return 32, 4, "affine"


def folder_with(
    folder: Path,
    config: Mapping[str, Any] = LLAMA,
    changes: Mapping[str, mx.array | None] = MappingProxyType({}),
) -> Path:
    """A good checkpoint with some tensors replaced, added or (None) taken away."""
    arrays: dict[str, Any] = tensors(config)
    if "quantization" in config:
        arrays = packed(arrays, four_bits)
    arrays |= changes
    return save(folder, config, {n: a for n, a in arrays.items() if a is not None})


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_family_loads_and_answers(tmp_path: Path, name: str, tied: bool):
    config = LLAMA | {"model_type": name, "tie_word_embeddings": tied}
    decoder = load_decoder(save(tmp_path, config, tensors(config)))
    assert logits(decoder).shape == (1, 6, 96)
    assert mx.isfinite(logits(decoder)).all() and decoder.spec.family == name


def test_shards_are_one_model(tmp_path: Path):
    arrays = tensors(LLAMA)
    whole, parts = save(tmp_path / "a", LLAMA, arrays), save(tmp_path / "b", LLAMA, arrays, shards=3)
    assert len(list(parts.glob("*.safetensors"))) == 3
    assert mx.array_equal(logits(whole), logits(parts))


def test_a_given_config_is_used_and_not_read_again(tmp_path: Path):
    folder = folder_with(tmp_path)
    (folder / "config.json").unlink()
    assert load_decoder(folder, config=Config(LLAMA)).spec.family == "llama"
    with refused(DamagedModel, str(folder / "config.json"), "is missing"):
        load_decoder(folder)


def test_a_tied_head_reads_the_embedding(tmp_path: Path):
    arrays = tensors(TIED)
    tied = save(tmp_path / "tied", TIED, arrays)
    untied = save(
        tmp_path / "untied", LLAMA, arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"]}
    )
    other = save(
        tmp_path / "other", LLAMA, arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"] + 1}
    )
    assert mx.array_equal(logits(tied), logits(untied))
    assert not mx.allclose(logits(tied), logits(other))


def test_a_head_beside_a_tied_embedding_is_left_alone(tmp_path: Path):
    arrays = tensors(TIED)
    plain = logits(save(tmp_path / "a", TIED, arrays))
    beside = {"lm_head.weight": mx.zeros((96, 64))}
    assert mx.array_equal(plain, logits(save(tmp_path / "b", TIED, arrays | beside)))


def test_an_untied_head_that_is_missing(tmp_path: Path):
    with refused(
        DamagedModel, str(tmp_path), "tensor 'lm_head.weight' is missing", "download the model again"
    ):
        load_decoder(folder_with(tmp_path, changes={"lm_head.weight": None}))


@pytest.mark.parametrize("name", shapes(QWEN3))
def test_each_tensor_is_missed(tmp_path: Path, name: str):
    arrays = {n: mx.zeros(shape) for n, shape in shapes(QWEN3).items() if n != name}
    with refused(DamagedModel, str(tmp_path), f"tensor {name!r} is missing"):
        load_decoder(save(tmp_path, QWEN3, arrays))


@pytest.mark.parametrize("name", shapes(QWEN3))
def test_each_tensor_has_its_shape(tmp_path: Path, name: str):
    shape = shapes(QWEN3)[name]
    arrays = {n: mx.zeros(s if n != name else (*s[:-1], s[-1] + 1)) for n, s in shapes(QWEN3).items()}
    with refused(
        DamagedModel, str(tmp_path / "model.safetensors"), f"tensor {name!r} has shape",
        f"config.json asks for {list(shape)}",
    ):  # fmt: skip
        load_decoder(save(tmp_path, QWEN3, arrays))


def test_unexpected_tensors(tmp_path: Path):
    extra = mx.zeros((4,))
    with refused(
        DamagedModel, str(tmp_path), "unexpected tensor 'model.extra' (config.json describes a llama model"
    ):
        load_decoder(folder_with(tmp_path, changes={"model.extra": extra}))
    bias, third = "model.layers.0.self_attn.q_proj.bias", "model.layers.2.mlp.up_proj.weight"
    with refused(DamagedModel, f"unexpected tensor {bias!r} and 2 more"):
        load_decoder(folder_with(tmp_path, changes={bias: extra, third: extra, "z" * 10**4: extra}))
    with refused(DamagedModel, "unexpected tensor 'a\\na"):
        load_decoder(folder_with(tmp_path, changes={"a\na" + "z" * 10**4: extra}))


def test_tensors_that_follow_from_the_config_are_no_surprise(tmp_path: Path):
    load_decoder(
        folder_with(tmp_path, changes={"model.layers.0.self_attn.rotary_emb.inv_freq": mx.zeros((8,))})
    )


@pytest.mark.parametrize("dtype", [mx.int8, mx.uint8, mx.uint32, mx.bool_, mx.complex64], ids=str)
def test_weights_that_are_no_floats(tmp_path: Path, dtype: mx.Dtype):
    for name, shape in ((f"{UP}.weight", (128, 64)), ("model.norm.weight", (64,))):
        with refused(DamagedModel, "model.safetensors", f"tensor {name!r} has dtype", "no scales beside it"):
            load_decoder(folder_with(tmp_path, changes={name: mx.zeros(shape, dtype)}))


def test_an_unknown_architecture_is_told_before_the_weights_are_looked_at(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba9"}')
    with refused(UnsupportedModel, "architecture 'mamba9' is not supported", "supported: ", "llama, "):
        load_decoder(tmp_path)


# Quantized -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "array", "words"),
    [
        ("weight", None, "is missing"),
        ("biases", None, "is missing"),
        ("weight", mx.zeros((128, 9), mx.uint32), "has shape [128, 9], config.json asks for [128, 8]"),
        ("weight", mx.zeros((127, 8), mx.uint32), "has shape [127, 8], config.json asks for [128, 8]"),
        ("scales", mx.zeros((127, 2)), "has shape [127, 2], config.json asks for [128, 2]"),
        ("biases", mx.zeros((128, 1)), "has shape [128, 1], config.json asks for [128, 2]"),
        ("weight", mx.zeros((128, 8), mx.int32), "has dtype I32"),
    ],
)
def test_a_packed_weight_whose_parts_do_not_fit(tmp_path: Path, part: str, array: Any, words: str):
    with refused(DamagedModel, str(tmp_path), f"tensor '{UP}.{part}'", words):
        load_decoder(folder_with(tmp_path, QUANTIZED, {f"{UP}.{part}": array}))


def test_a_packed_weight_without_scales_is_no_weight(tmp_path: Path):
    with refused(DamagedModel, f"tensor '{UP}.weight' has shape [128, 8], config.json asks for [128, 64]"):
        load_decoder(folder_with(tmp_path, QUANTIZED, {f"{UP}.scales": None}))


def test_a_layers_own_setting_that_contradicts_its_shape(tmp_path: Path):
    config = LLAMA | {"quantization": {"group_size": 32, "bits": 4, UP: {"bits": 8}}}
    with refused(DamagedModel, f"tensor '{UP}.weight' has shape [128, 8], config.json asks for [128, 16]"):
        load_decoder(folder_with(tmp_path, config))


def test_packed_weights_without_any_setting(tmp_path: Path):
    folder = folder_with(tmp_path, QUANTIZED)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    with refused(DamagedModel, str(folder / "config.json"), "says nothing of quantization", ".scales"):
        load_decoder(folder)


def test_a_packed_and_tied_head_is_one_set_of_arrays(tmp_path: Path):
    config = TIED | {"quantization": {"group_size": 32, "bits": 4}}
    decoder = load_decoder(folder_with(tmp_path, config))
    assert logits(decoder).shape == (1, 6, 96)


# Lazy ----------------------------------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc, and wants files with holes")
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_loading_reads_no_tensor(tmp_path: Path, dtype: str):
    """The true sizes of an 8B model; the data is a hole, which to read would take seconds and its size."""
    config = LLAMA | {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = write_safetensors(tmp_path / "model.safetensors", entries(shapes(config), dtype))
    assert file.stat().st_size > 16e9 and file.stat().st_blocks * 512 < 1e6
    load_decoder(folder_with(tmp_path / "warm"))  # what is set up once is not what is measured
    before, start = resident(), time.perf_counter()
    decoder = load_decoder(tmp_path)
    took = time.perf_counter() - start
    grown = resident() - before
    assert len(decoder.blocks) == 32 and decoder.spec.vocab_size == 128256
    assert grown < 50e6 and took < 3, (grown, took)  # the smallest matrix has 8 MB, the largest 1 GB


def test_a_file_that_vanishes_after_loading_is_still_held(tmp_path: Path):
    expected = logits(folder_with(tmp_path / "a"))
    decoder = load_decoder(folder_with(tmp_path / "b"))
    shutil.rmtree(tmp_path / "b")
    assert mx.array_equal(logits(decoder), expected)


def test_a_file_that_shrinks_after_loading_is_a_damaged_model(tmp_path: Path) -> None:
    """Not a crash and no made-up numbers, however often it is tried."""
    decoder = load_decoder(folder_with(tmp_path))
    os.truncate(tmp_path / "model.safetensors", 4000)
    for _ in range(2):
        with pytest.raises(DamagedModel, match="changed on disk"):
            logits(decoder)


# The CPU's forms -----------------------------------------------------------------------------

MIXED: dict[str, tuple[int, int, str]] = {"lm_head": (64, 8, "affine"), UP: (32, 2, "affine")}
PACKERS: dict[str, Packer] = {
    "plain": lambda path: None,
    "4 bits": four_bits,
    "8 bits": lambda path: (64, 8, "affine"),
    "mixed": lambda path: None if "o_proj" in path else MIXED.get(path, (64, 4, "affine")),
    "mxfp4": lambda path: (32, 4, "mxfp4"),
    "mxfp4 and 8 bits": lambda path: (32, 4, "mxfp4") if "mlp" in path else (32, 8, "affine"),
}


def in_form(folder: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> mx.array:
    monkeypatch.setattr(cpu, "weight_form", lambda *_, **__: form)
    return logits(folder)


@pytest.mark.skipif(not on_cpu(), reason="a GPU computes in the stored form only")
@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("tied", [False, True])
def test_all_forms_compute_the_same(tmp_path: Path, name: str, tied: bool, monkeypatch: pytest.MonkeyPatch):
    """The stored form of the same numbers, written as float32, is what the others are held against."""
    config = LLAMA | {"tie_word_embeddings": tied, "quantization": {"group_size": 64, "bits": 4}}
    narrow = packed(tensors(config, mx.bfloat16), PACKERS[name])
    exact = {n: a.astype(mx.float32) if a.dtype == mx.bfloat16 else a for n, a in narrow.items()}
    stored = in_form(save(tmp_path / "exact", config, exact), "stored", monkeypatch)
    folder = save(tmp_path / "narrow", config, narrow)
    wide, kept = (in_form(folder, form, monkeypatch) for form in ("wide", "packed"))
    assert (stored.dtype, wide.dtype, kept.dtype) == (mx.float32,) * 3
    assert mx.allclose(wide, stored, rtol=1e-4, atol=1e-5) and mx.allclose(kept, stored, rtol=1e-4, atol=1e-5)
    as_is = in_form(folder, "stored", monkeypatch)
    assert as_is.dtype == mx.bfloat16
    assert mx.abs(as_is - stored).mean() < 0.05 < mx.abs(stored).mean(), "the very file, coarsely"


@pytest.mark.skipif(not on_cpu(), reason="a GPU computes in the stored form only")
def test_a_form_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = save(tmp_path, QUANTIZED, packed(tensors(QUANTIZED, mx.bfloat16), four_bits))
    dtypes = {}
    for form in ("stored", "wide", "packed"):
        monkeypatch.setattr(cpu, "weight_form", lambda *_, form=form, **__: form)
        dtypes[form] = {str(a.dtype).removeprefix("mlx.core.") for a in load_decoder(folder).arrays()}
    assert dtypes == {"stored": {"uint32", "bfloat16"}, "wide": {"float32"}, "packed": {"uint32", "float32"}}


@pytest.mark.skipif(not on_cpu(), reason="a GPU computes in the stored form only")
def test_the_rule_is_asked_with_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def rule(wide: int, available: int, **more: Any) -> str:
        asked.append((wide, available, more))
        return "stored"

    monkeypatch.setattr(cpu, "weight_form", rule)
    monkeypatch.setattr(cpu, "available_memory", lambda: 12345)
    monkeypatch.setattr(cpu, "blas", lambda: Path("libopenblas.so"))
    monkeypatch.setenv("MLXONE_CPU", "packed")
    folder = folder_with(tmp_path)
    load_decoder(folder)
    assert asked == [(4 * weights(LLAMA), 12345, {"has_blas": True, "chosen": "packed"})]


def weights(config: Mapping[str, Any]) -> int:
    return sum(a.size for a in tensors(config).values())


@pytest.mark.parametrize("stated", [2, 3, 4, 6, 8])
def test_the_size_of_widened_weights(tmp_path: Path, stated: int):
    def packer(path: str) -> tuple[int, int, str]:
        return (32, 8 if "embed" in path else stated, "affine")  # the config names one width, the shapes two

    config = LLAMA | {"quantization": {"group_size": 32, "bits": stated}}
    folder = save(tmp_path, config, packed(tensors(config), packer))
    assert wide_bytes(Checkpoint(folder), Config.read(folder)) == 4 * weights(config)
    plain = save(tmp_path / "plain", LLAMA, tensors(LLAMA, mx.bfloat16))
    assert wide_bytes(Checkpoint(plain), Config.read(plain)) == 4 * weights(LLAMA)
