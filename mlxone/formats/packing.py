"""How wide a packed weight is, from its config and its shapes; the bytes of no tensor are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlxone.formats.config import Config
from mlxone.formats.safetensors import TensorInfo

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (64, 32, 128, 16)  # the likeliest first


def packed_bits(config: Config, tensor: TensorInfo, find: Callable[[str], TensorInfo | None]) -> int | None:
    """Bits of a packed weight; 0 for what belongs to one; None for a plain tensor.

    `find` gives a tensor of the same model by name.
    """
    base, _, part = tensor.name.rpartition(".")
    scales = find(f"{base}.scales")
    if scales is None:
        return None
    if part in ("scales", "biases"):
        return 0
    if tensor.dtype != "U32" or not tensor.shape or not scales.shape or not scales.shape[-1]:
        return None
    product = tensor.shape[-1] * 32 // scales.shape[-1]  # bits x group size, whatever the config says
    for group in (_stated(config, base).get("group_size"), *GROUPS):
        if type(group) is int and group > 0 and product % group == 0 and product // group in BITS:
            return product // group
    return 4


def parameters(tensor: TensorInfo, bits: int | None) -> int:
    """Of the model, in this tensor; `bits` as `packed_bits` says."""
    if bits is None:
        return tensor.size
    return tensor.size * 32 // bits if bits else 0


def quantization(config: Config) -> Mapping[str, object]:
    return config.section("quantization") or config.section("quantization_config")


def _stated(config: Config, path: str) -> Mapping[str, object]:
    settings = quantization(config)
    own = settings.get(path)
    return {**settings, **own} if isinstance(own, dict) else settings
