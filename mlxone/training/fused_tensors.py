"""A checkpoint's tensors with an adapter's changes computed into them.

Read from the checkpoint, not from a loaded model: on a CPU that one may be widened. A packed weight
is unpacked, changed and packed again as it was; without `packing` every packed weight stays unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import AdapterMismatch
from mlxone.formats.config import Config
from mlxone.formats.packing import packed_bits
from mlxone.formats.safetensors import TensorInfo
from mlxone.models.changes import Change, Changes, Dora, LowRank, Replaced
from mlxone.models.checkpoint import Checkpoint
from mlxone.models.quantization import Packing, Quantization
from mlxone.training.tensor_file import Slot, read_bytes

DTYPES: dict[str, mx.Dtype] = {
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "F32": mx.float32,
    "U32": mx.uint32,
    "U8": mx.uint8,
}
PACKED_PARTS = ("weight", "scales", "biases")


class FusedTensors:
    def __init__(self, folder: Path, config: Config, changes: Changes, *, dequantize: bool) -> None:
        self._checkpoint, self._config = Checkpoint(folder), config
        self._quantization, self._changes, self._dequantize = Quantization(config), changes, dequantize
        self._ready: dict[str, mx.array] = {}  # computed, and not yet asked for: a weight brings its scales
        for path in changes:
            if f"{path}.weight" not in self._checkpoint:
                raise AdapterMismatch(
                    f"the adapter changes {path}, which has no weight of its own in {folder}",
                    hint="mount the adapter instead of fusing it",
                )

    def files(self) -> dict[Path, list[Slot]]:
        """What each of the checkpoint's files becomes, the parts of one matrix side by side."""
        found: dict[Path, list[Slot]] = {}
        for name in sorted(self._checkpoint.names()):
            info = self._checkpoint.info(name)
            slots = found.setdefault(info.file, [])
            slot = self._slot(info)
            if slot is not None:
                slots.append(slot)
        return found

    def made(self, slot: Slot) -> memoryview:
        """The bytes of a slot without a source."""
        if slot.name not in self._ready:
            with lock, on_stream():
                arrays = self._compute(slot.name.rpartition(".")[0])
                # As bytes at once: an array that others depend on would keep its inputs alive.
                self._ready |= {name: mx.contiguous(array).view(mx.uint8) for name, array in arrays.items()}
                mx.eval(list(self._ready.values()))
        made: Any = self._ready.pop(slot.name)  # a buffer, too
        return memoryview(made)

    def _slot(self, info: TensorInfo) -> Slot | None:
        path, _, part = info.name.rpartition(".")
        changes = self._changes.get(path, ())
        packing = self._packing(path) if part in PACKED_PARTS else None
        plain = packing is not None and self._dequantize
        if part == "bias" and _new_bias(changes) is not None:
            return Slot(info.name, info.dtype, info.shape)
        if part not in PACKED_PARTS or not (changes or plain):
            return Slot(info.name, info.dtype, info.shape, info)
        if not plain:
            return Slot(info.name, info.dtype, info.shape)
        if part != "weight":
            return None
        assert packing is not None
        shape = (*info.shape[:-1], info.shape[-1] * 32 // packing.bits)
        return Slot(info.name, self._float_dtype(path, packing), shape)

    def _packing(self, path: str) -> Packing | None:
        weight = self._checkpoint.find(f"{path}.weight")
        if weight is None:
            return None
        bits = packed_bits(self._config, weight, self._checkpoint.find)
        if not bits:
            return None
        return self._quantization.packing(self._checkpoint, path, weight.shape[-1] * 32 // bits)

    def _float_dtype(self, path: str, packing: Packing) -> str:
        """What a packed weight unpacks to: its scales' dtype, or what MLX gives where they are none."""
        return self._checkpoint.info(f"{path}.scales").dtype if packing.has_biases else "BF16"

    def _compute(self, path: str) -> dict[str, mx.array]:
        changes, packing = self._changes.get(path, ()), self._packing(path)
        names = {part: f"{path}.{part}" for part in PACKED_PARTS}
        parts = {part: self._read(name) for part, name in names.items() if name in self._checkpoint}
        weight = fused(parts["weight"] if packing is None else unpack(parts, packing), changes)
        out = {"weight": weight} if packing is None or self._dequantize else pack(weight, packing)
        bias = _new_bias(changes)
        if bias is not None:
            out["bias"] = bias.astype(DTYPES[self._checkpoint.info(f"{path}.bias").dtype])
        return {f"{path}.{part}": array for part, array in out.items()}

    def _read(self, name: str) -> mx.array:
        info = self._checkpoint.info(name)
        raw: Any = memoryview(read_bytes(info))  # MLX takes any buffer, whatever its types say
        return mx.array(raw).view(DTYPES[info.dtype]).reshape(info.shape)


def fused(weight: mx.array, changes: Sequence[Change]) -> mx.array:
    """[out, in] in the weight's own dtype. A Dora works first, as it does where it is mounted."""
    for change in sorted(changes, key=lambda each: not isinstance(each, Dora)):
        if isinstance(change, LowRank):
            weight = weight + change.matrix().astype(weight.dtype)
        elif isinstance(change, Dora):
            weight = _turned(weight, change)
        else:
            weight = change.weight.astype(weight.dtype)
    return weight


def _turned(weight: mx.array, change: Dora) -> mx.array:
    """In float32 throughout: half precision would carry the norm's error into every row."""
    wide = weight.astype(mx.float32) + change.direction.matrix().astype(mx.float32)
    stretch = change.magnitude.astype(mx.float32) / mx.linalg.norm(wide, axis=1)
    return (stretch[:, None] * wide).astype(weight.dtype)


def unpack(parts: dict[str, mx.array], packing: Packing) -> mx.array:
    return mx.dequantize(
        parts["weight"], parts["scales"], parts.get("biases"),
        group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
    )  # fmt: skip


def pack(weight: mx.array, packing: Packing) -> dict[str, mx.array]:
    arrays = mx.quantize(weight, group_size=packing.group_size, bits=packing.bits, mode=packing.mode)
    return dict(zip(PACKED_PARTS, arrays, strict=False))  # only affine has biases


def _new_bias(changes: Sequence[Change]) -> mx.array | None:
    replaced = [change.bias for change in changes if isinstance(change, Replaced)]
    return replaced[-1] if replaced else None
