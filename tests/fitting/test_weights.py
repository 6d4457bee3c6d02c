"""Bytes of weights: as stored, as a CPU holds them, and quantized anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxone.backend.arrays import mx
from mlxone.core.facts import ModelFacts
from mlxone.fitting.weights import WIDTHS, element_bytes, growth, quantized, weights_bytes
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.fitting.cases import SMALL, true_size
from tests.models import checkpoints as c
from tests.sparse import CONFIGS

NAMES = sorted(CONFIGS)
FORMS: dict[str, Any] = {"native": "stored", "wide": "wide", "packed": "packed"}

# By hand ------------------------------------------------------------------------------------


def test_as_stored_and_with_the_towers():
    # gemma-4-12B: 11,906,580,480 packed parameters, 372,480 of norms; a tower of 8 matrices of 1152 x 4608.
    language = 11_906_580_480 // 2 + 11_906_580_480 // 64 * 4 + 372_480 * 2
    facts = true_size("gemma-4-12B")
    assert weights_bytes(facts) == language
    assert weights_bytes(facts, vision=True) == language + 8 * 1152 * 4608 * 2


def test_wide_weights_are_float32_and_the_towers_stay():
    facts = true_size("Qwen3.5-4B")
    assert weights_bytes(facts, "wide") == 4_201_811_200 * 4
    assert weights_bytes(facts, "wide", vision=True) == 4_201_811_200 * 4 + facts.sidecar_bytes


def test_packed_weights_stay_packed_beside_float32():
    # Llama 70B: 70,552,387,584 packed, 1,318,912 not. Scales and biases were 2 bytes each, and are 4.
    packed = 70_552_387_584
    assert weights_bytes(true_size("Llama-3.3-70B"), "packed") == (
        packed // 2 + packed // 64 * (4 + 4) + 1_318_912 * 4
    )


def test_weights_that_never_were_packed():
    assert weights_bytes(SMALL) == 2_000_000
    assert weights_bytes(SMALL, "wide") == weights_bytes(SMALL, "packed") == 4_000_000


def test_float32_weights_do_not_grow():
    facts = replace(SMALL, float_bytes=4, language_bytes=4_000_000)
    assert {growth(facts, form) for form in FORMS.values()} == {1.0}


@pytest.mark.parametrize(("form", "element"), [("stored", 2), ("wide", 4), ("packed", 4)])
def test_elements(form: Any, element: int):
    assert element_bytes(SMALL, form) == element


def test_a_model_without_weights():
    nothing = replace(SMALL, parameters=0, language_bytes=0, wide_bytes=0, unpackable_parameters=0)
    assert [weights_bytes(nothing, form) for form in FORMS.values()] == [0, 0, 0]
    assert weights_bytes(quantized(nothing, 4)) == 0


# Quantized anew -----------------------------------------------------------------------------

COMPARED = ("language_bytes", "scale_bytes", "packed_parameters", "lookup_bytes", "expert_bytes")


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_what_if_is_what_a_conversion_writes(name: str, bits: int):
    supposed, written = quantized(true_size(name, None), bits), true_size(name, bits)
    for field in COMPARED:
        assert getattr(supposed, field) == pytest.approx(getattr(written, field), rel=0.01), field
    assert supposed.active_bytes == pytest.approx(written.active_bytes, rel=0.01)
    for form in FORMS.values():
        assert weights_bytes(supposed, form, vision=True) == pytest.approx(
            weights_bytes(written, form, vision=True), rel=0.01
        )
    unchanged = (
        "layers",
        "parameters",
        "sidecar_bytes",
        "context_length",
        "window",
        "experts",
        "float_bytes",
    )
    assert [getattr(supposed, f) for f in unchanged] == [getattr(written, f) for f in unchanged]
    assert (supposed.bits, supposed.group_size, supposed.mode) == (bits, 64, "affine")


@pytest.mark.parametrize("name", NAMES)
def test_what_if_is_the_same_from_any_start(name: str):
    start, again = quantized(true_size(name, None), 4), quantized(true_size(name, 8), 4)
    assert again.language_bytes == start.language_bytes
    assert again.expert_bytes == pytest.approx(start.expert_bytes, rel=0.01)


def test_fewer_bits_take_less():
    sizes = [weights_bytes(quantized(SMALL, bits)) for bits in WIDTHS]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(WIDTHS)


# The engine's arrays ------------------------------------------------------------------------

TIED = c.LLAMA | {"tie_word_embeddings": True}
CHECKPOINTS: dict[str, tuple[dict[str, Any], c.Packer | None]] = {
    "bf16": (c.LLAMA, None),
    "tied": (TIED, None),
    "4 bits": (c.LLAMA, lambda path: (64, 4, "affine")),
    "4 bits, tied": (TIED, lambda path: (64, 4, "affine")),
    "qwen2 with biases": (c.LLAMA | {"model_type": "qwen2"}, lambda path: (32, 8, "affine")),
    "qwen3": (c.QWEN3, lambda path: (64, 4, "affine")),
    "mixed": (c.LLAMA, lambda path: (32, 8, "affine") if "down" in path else (64, 4, "affine")),
    "some plain": (c.LLAMA, lambda path: None if "o_proj" in path else (64, 4, "affine")),
    "mxfp4": (c.LLAMA, lambda path: (32, 4, "mxfp4")),
}


def written(folder: Path, config: dict[str, Any], packer: c.Packer | None) -> Path:
    arrays = c.tensors(config, mx.bfloat16)
    if packer is None:
        return c.save(folder, config, arrays)
    ways = {n.removesuffix(".weight"): packer(n) for n in arrays if arrays[n].ndim == 2}
    settings: dict[str, Any] = {"group_size": 64, "bits": 4, "mode": "affine"}
    for path, how in ways.items():
        settings |= {path: dict(zip(("group_size", "bits", "mode"), how, strict=True))} if how else {}
    return c.save(folder, config | {"quantization": settings}, c.packed(arrays, packer))


def held(decoder: Decoder) -> int:
    return sum(array.nbytes for array in decoder.arrays())


@pytest.mark.parametrize("mode", FORMS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_decoder_holds_what_was_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
):
    monkeypatch.setenv("MLXONE_CPU", mode)
    folder = written(tmp_path / "m", *CHECKPOINTS[name])
    facts: ModelFacts = read_facts(folder, Config.read(folder))
    assert held(load_decoder(folder)) == weights_bytes(facts, FORMS[mode])
