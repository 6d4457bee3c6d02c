"""Which weights of a checkpoint are quantized and how: one setting, or one per layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.formats.safetensors import FLOATS
from mlxone.models.checkpoint import Checkpoint

# Modes other than affine allow one group size and one width each, and have no biases.
FIXED_MODES = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Packing:
    group_size: int
    bits: int
    mode: str = "affine"

    @property
    def has_biases(self) -> bool:
        return self.mode == "affine"


class Quantization:
    def __init__(self, config: Config) -> None:
        self._source = config.source
        settings = config.section("quantization")
        foreign = config.section("quantization_config")
        if not settings and "quant_method" in foreign:
            method = str(foreign["quant_method"])
            raise UnsupportedModel(
                f"{config.source}: quantization method {method[:40]!r} is not supported",
                hint="use a conversion for MLX of the same model",
            )
        self._settings: Mapping[str, Any] = settings or foreign

    def packing(self, checkpoint: Checkpoint, path: str, in_dims: int) -> Packing | None:
        """How the weight at `path` is packed; None when it is not."""
        if f"{path}.scales" not in checkpoint:
            return None
        if not self._settings:
            raise DamagedModel(f"{self._source} says nothing of quantization, yet {path}.scales is there")
        stated = self._settings.get(path)
        packing = (
            _stated(stated, self._settings, f"{self._source}: quantization of {path}")
            if isinstance(stated, dict)
            else _measured(checkpoint, path, in_dims)
        )
        if not _known(packing):
            raise UnsupportedModel(
                f"{self._source}: {path} is quantized to {packing.bits} bits in groups of "
                f"{packing.group_size} ({packing.mode[:40]!r}), which MLX cannot compute"
            )
        if in_dims % packing.group_size:
            raise DamagedModel(
                f"{self._source}: the {in_dims} inputs of {path} do not divide into groups of "
                f"{packing.group_size}"
            )
        _check_dtypes(checkpoint, path, packing)
        return packing


def _stated(entry: Mapping[str, Any], settings: Mapping[str, Any], source: str) -> Packing:
    keys = ("group_size", "bits", "mode")
    values = Config({k: entry.get(k, settings.get(k)) for k in keys}, source=source)
    mode = values.get("mode", "affine")
    if not isinstance(mode, str):
        raise values.wrong("mode", "a name")
    return Packing(values.count("group_size", 64), values.count("bits", 4), mode)


def _measured(checkpoint: Checkpoint, path: str, in_dims: int) -> Packing:
    """The shapes tell more reliably than a file-wide default what a weight was packed with."""
    scales, weight = checkpoint.info(f"{path}.scales"), checkpoint.info(f"{path}.weight")
    ranks = (len(weight.shape), len(scales.shape))
    if ranks not in ((2, 2), (3, 3)) or not scales.shape[-1]:
        raise DamagedModel(
            f"{scales.file}: {path} is quantized, but its shapes are not two-dimensional, nor of a stack"
        )
    group, bits = in_dims // scales.shape[-1], weight.shape[-1] * 32 // in_dims
    if scales.dtype != "U8":
        return Packing(group, bits)
    for mode, fixed in FIXED_MODES.items():
        if fixed == (group, bits):
            return Packing(group, bits, mode)
    return Packing(group, bits, "unknown")


def _check_dtypes(checkpoint: Checkpoint, path: str, packing: Packing) -> None:
    expected: dict[str, Collection[str]] = {"weight": ("U32",), "scales": ("U8",)}
    if packing.has_biases:
        expected |= {"scales": FLOATS, "biases": FLOATS}
    for part, dtypes in expected.items():
        info = checkpoint.info(f"{path}.{part}")
        if info.dtype not in dtypes:
            raise DamagedModel(
                f"{info.file}: tensor {info.name!r} has dtype {info.dtype}, {packing.mode} quantization "
                f"needs {' or '.join(sorted(dtypes))}"
            )


def _known(packing: Packing) -> bool:
    if packing.mode == "affine":
        return packing.bits in AFFINE_BITS and packing.group_size in AFFINE_GROUPS
    return FIXED_MODES.get(packing.mode) == (packing.group_size, packing.bits)
