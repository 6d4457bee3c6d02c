"""How a weight is packed: said per layer, or measured; and contradictions that are told, not computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.checkpoint import Checkpoint
from mlxone.models.quantization import Packing, Quantization
from tests.models.checkpoints import BYTES_OF, refused, write_safetensors

# What MLX's own `quantize` takes.
AFFINE_GROUPS, AFFINE_BITS = (32, 64, 128), (2, 3, 4, 5, 6, 8)
FIXED_MODES = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
SETTING = {"group_size": 64, "bits": 4}
PATH = "model.layers.0.mlp.up_proj"


def checkpoint(folder: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Checkpoint:
    header, start = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = start + BYTES_OF[dtype] * math.prod(shape)
        header[f"{PATH}.{name}"] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    write_safetensors(folder / "model.safetensors", header)
    return Checkpoint(folder)


def affine(folder: Path, in_dims: int, group: int, bits: int, **others: str) -> Checkpoint:
    dtypes = {"weight": "U32", "scales": "BF16", "biases": "BF16"} | others
    groups = (8, in_dims // group)
    sizes = {"weight": (8, in_dims * bits // 32), "scales": groups, "biases": groups}
    return checkpoint(folder, {name: (dtypes[name], sizes[name]) for name in sizes})


def quantization(settings: Any = None, **more: Any) -> Quantization:
    return Quantization(Config({"quantization": settings} | more, source="the config"))


@pytest.mark.parametrize("group", AFFINE_GROUPS)
@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_the_shapes_tell_what_the_file_wide_setting_may_not(tmp_path: Path, group: int, bits: int):
    file = affine(tmp_path, 256, group, bits)
    assert quantization(SETTING).packing(file, PATH, 256) == Packing(group, bits, "affine")


@pytest.mark.parametrize(("mode", "fixed"), FIXED_MODES.items())
def test_scales_of_bytes_are_one_of_the_fixed_modes(tmp_path: Path, mode: str, fixed: tuple[int, int]):
    group, bits = fixed
    file = checkpoint(tmp_path, {"weight": ("U32", (8, 64 * bits // 32)), "scales": ("U8", (8, 64 // group))})
    found = quantization(SETTING).packing(file, PATH, 64)
    assert found == Packing(group, bits, mode) and not found.has_biases


def test_a_layers_own_setting_wins_and_inherits_what_it_leaves_out(tmp_path: Path):
    file = affine(tmp_path, 128, 32, 8)
    own = quantization(SETTING | {PATH: {"bits": 8, "group_size": 32}})
    assert own.packing(file, PATH, 128) == Packing(32, 8)
    partly = quantization({"group_size": 32, "bits": 4, PATH: {"bits": 8}})
    assert partly.packing(file, PATH, 128) == Packing(32, 8)
    assert quantization(SETTING | {PATH: {"bits": 4}}).packing(file, PATH, 128) == Packing(64, 4)
    assert quantization({"other": {}, PATH: {"mode": "affine"}}).packing(file, PATH, 128) == Packing(64, 4)


@pytest.mark.parametrize("stated", [True, False, None, 4])
def test_a_layers_setting_that_is_no_object_leaves_it_to_the_shapes(tmp_path: Path, stated: Any):
    file = affine(tmp_path, 128, 32, 8)
    assert quantization(SETTING | {PATH: stated}).packing(file, PATH, 128) == Packing(32, 8)


def test_a_weight_without_scales_is_not_packed(tmp_path: Path):
    file = checkpoint(tmp_path, {"weight": ("BF16", (8, 64))})
    assert quantization(SETTING).packing(file, PATH, 64) is None
    assert quantization().packing(file, PATH, 64) is None


def test_the_older_name_of_the_section(tmp_path: Path):
    file = affine(tmp_path, 128, 64, 4)
    assert quantization(quantization_config=SETTING).packing(file, PATH, 128) == Packing(64, 4)
    both = quantization(SETTING, quantization_config={"quant_method": "gptq"})
    assert both.packing(file, PATH, 128) == Packing(64, 4), "a conversion for MLX may carry both"


@pytest.mark.parametrize("method", ["gptq", "fp8", 7, "x\n" * 99])
def test_foreign_quantization_is_named(method: Any):
    with refused(UnsupportedModel, "the config: quantization method", repr(str(method)[:40])):
        quantization(quantization_config={"quant_method": method})


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
@pytest.mark.parametrize("value", [4, "4 bits", [4], True])
def test_a_section_that_is_no_object(key: str, value: Any):
    with refused(DamagedModel, f"the config: {key} must be an object"):
        quantization(**{"settings": value} if key == "quantization" else {key: value})


def test_scales_without_any_setting(tmp_path: Path):
    file = affine(tmp_path, 128, 64, 4)
    with refused(DamagedModel, "the config says nothing of quantization", f"{PATH}.scales"):
        quantization().packing(file, PATH, 128)


@pytest.mark.parametrize(
    ("group", "bits", "in_dims"), [(64, 1, 128), (64, 7, 128), (64, 16, 128), (16, 4, 128), (256, 4, 256)]
)
def test_measured_widths_that_mlx_cannot_compute(tmp_path: Path, group: int, bits: int, in_dims: int):
    file = affine(tmp_path, in_dims, group, bits)
    with refused(UnsupportedModel, f"the config: {PATH} is quantized to {bits} bits in groups of {group}"):
        quantization(SETTING).packing(file, PATH, in_dims)


def test_bytes_for_scales_in_no_known_mode(tmp_path: Path):
    file = checkpoint(tmp_path, {"weight": ("U32", (8, 8)), "scales": ("U8", (8, 1))})
    with refused(UnsupportedModel, PATH, "4 bits in groups of 64 ('unknown')"):
        quantization(SETTING).packing(file, PATH, 64)


@pytest.mark.parametrize(
    "stated",
    [{"bits": 7}, {"group_size": 16}, {"mode": "mxfp4"}, {"mode": "x\ny"}, {"bits": 8, "mode": "nvfp4"}],
)
def test_stated_widths_that_mlx_cannot_compute(tmp_path: Path, stated: dict[str, Any]):
    file = affine(tmp_path, 128, 64, 4)
    with refused(UnsupportedModel, f"the config: {PATH} is quantized to", "which MLX cannot compute"):
        quantization(SETTING | {PATH: stated}).packing(file, PATH, 128)


@pytest.mark.parametrize("key", ["bits", "group_size", "mode"])
@pytest.mark.parametrize("value", [4.0, True, [4], {}, -4, 0])
def test_a_stated_width_of_the_wrong_type(tmp_path: Path, key: str, value: Any):
    file = affine(tmp_path, 128, 64, 4)
    with refused(DamagedModel, f"the config: quantization of {PATH}: {key} must be"):
        quantization(SETTING | {PATH: {key: value}}).packing(file, PATH, 128)


@pytest.mark.parametrize(("own", "in_dims"), [({}, 65), ({PATH: {"group_size": 32}}, 80)])
def test_groups_that_do_not_divide_the_inputs(tmp_path: Path, own: Any, in_dims: int):
    file = affine(tmp_path, in_dims, 32, 4)
    with refused(DamagedModel, f"the config: the {in_dims} inputs of {PATH} do not divide into groups of 32"):
        quantization(SETTING | own).packing(file, PATH, in_dims)


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_a_stack_is_measured_like_each_of_its_matrices(tmp_path: Path, bits: int):
    sizes = {"weight": (3, 8, bits * 4), "scales": (3, 8, 2), "biases": (3, 8, 2)}
    dtypes = {"weight": "U32", "scales": "BF16", "biases": "BF16"}
    file = checkpoint(tmp_path, {name: (dtypes[name], sizes[name]) for name in sizes})
    assert quantization(SETTING).packing(file, PATH, 128) == Packing(64, bits)


@pytest.mark.parametrize(
    "shapes",
    [((8, 8), (8,)), ((8,), (8, 1)), ((8, 8), (8, 0)), ((2, 8, 8), (8, 1)), ((1, 2, 8, 8), (1, 2, 8, 1))],
    ids=["scales", "weight", "no groups", "one of them a stack", "a stack of stacks"],
)
def test_shapes_that_are_not_two_dimensional(tmp_path: Path, shapes: tuple[tuple[int, ...], ...]):
    file = checkpoint(tmp_path, {"weight": ("U32", shapes[0]), "scales": ("BF16", shapes[1])})
    with refused(DamagedModel, str(tmp_path), PATH, "not two-dimensional"):
        quantization(SETTING).packing(file, PATH, 64)


def test_scales_whose_weight_is_missing(tmp_path: Path):
    file = checkpoint(tmp_path, {"scales": ("BF16", (8, 1))})
    with refused(DamagedModel, f"tensor '{PATH}.weight' is missing"):
        quantization(SETTING).packing(file, PATH, 64)


@pytest.mark.parametrize(
    "others",
    [{"weight": "I32"}, {"weight": "F32"}, {"scales": "I32"}, {"scales": "C64"}, {"biases": "U8"}],
)
def test_parts_of_the_wrong_dtype(tmp_path: Path, others: dict[str, str]):
    file = affine(tmp_path, 128, 64, 4, **others)
    [(part, dtype)] = others.items()
    with refused(DamagedModel, str(tmp_path), f"tensor '{PATH}.{part}' has dtype {dtype}, affine"):
        quantization(SETTING | {PATH: SETTING}).packing(file, PATH, 128)


def test_a_fixed_modes_scales_are_bytes(tmp_path: Path):
    file = checkpoint(tmp_path, {"weight": ("U32", (8, 8)), "scales": ("BF16", (8, 2))})
    stated = SETTING | {PATH: {"mode": "mxfp4", "group_size": 32}}
    with refused(DamagedModel, f"tensor '{PATH}.scales' has dtype BF16, mxfp4 quantization needs U8"):
        quantization(stated).packing(file, PATH, 64)
