"""Hands out a checkpoint's layers by path, in the form the machine computes best in.

Nothing is read but headers: arrays stay promises until the decoder's first use.
"""

from __future__ import annotations

from mlxone.backend import cpu
from mlxone.backend.arrays import mx, on_cpu
from mlxone.core.errors import DamagedModel
from mlxone.formats.config import Config
from mlxone.formats.packing import packed_bits, parameters
from mlxone.formats.safetensors import FLOATS
from mlxone.models.checkpoint import Checkpoint
from mlxone.models.layers import (
    AnyNorm,
    LayerNorm,
    Norm,
    PackedEmbedding,
    PackedLinear,
    PlainEmbedding,
    PlainLinear,
)
from mlxone.models.quantization import Packing, Quantization
from mlxone.models.spec import NormSpec
from mlxone.models.stacked import PackedStack, PlainStack


class WeightSource:
    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        self.checkpoint, self.quantization = checkpoint, Quantization(config)
        self.form: cpu.WeightForm = "stored"
        if on_cpu():
            self.form = cpu.weight_form(
                wide_bytes(checkpoint, config), cpu.available_memory(),
                has_blas=cpu.blas() is not None, chosen=cpu.mode(),
            )  # fmt: skip

    def __contains__(self, name: str) -> bool:
        return name in self.checkpoint

    def vector(self, name: str, dims: int) -> mx.array:
        return self.tensor(name, (dims,))

    def tensor(self, name: str, shape: tuple[int, ...]) -> mx.array:
        array = self.checkpoint.take(name, shape)
        info = self.checkpoint.info(name)
        if info.dtype not in FLOATS:
            raise DamagedModel(
                f"{info.file}: tensor {name!r} has dtype {info.dtype}, and no scales beside it"
            )
        return array if self.form == "stored" else array.astype(mx.float32)

    def norm(self, path: str, dims: int, spec: NormSpec) -> AnyNorm:
        weight = self.vector(f"{path}.weight", dims)
        if spec.kind == "rms":
            return Norm(weight, spec.eps, path=path, plus=spec.plus)
        bias = self.vector(f"{path}.bias", dims) if spec.bias else None
        return LayerNorm(weight, bias, spec.eps, path=path)

    def linear(
        self, path: str, in_dims: int, out_dims: int, *, bias: bool = False
    ) -> PlainLinear | PackedLinear:
        packing, arrays = self._matrix(path, (out_dims, in_dims))
        shift = self.vector(f"{path}.bias", out_dims) if bias else None
        if packing is None or len(arrays) == 1:
            return PlainLinear(arrays[0], shift, path=path, bits=packing.bits if packing else None)
        biases = arrays[2] if packing.has_biases else None
        return PackedLinear(arrays[0], arrays[1], biases, packing, shift, path=path)

    def stack(
        self, path: str, count: int, in_dims: int, out_dims: int, *, bias: bool = False
    ) -> PlainStack | PackedStack:
        """Matrices of one shape in one tensor: of experts, or of heads."""
        packing, arrays = self._matrix(path, (count, out_dims, in_dims))
        shift = self.tensor(f"{path}.bias", (count, out_dims)) if bias else None
        if packing is None or len(arrays) == 1:
            return PlainStack(arrays[0], shift, path=path, bits=packing.bits if packing else None)
        biases = arrays[2] if packing.has_biases else None
        return PackedStack(arrays[0], arrays[1], biases, packing, shift, path=path)

    def embedding(self, path: str, count: int, dims: int) -> PlainEmbedding | PackedEmbedding:
        packing, arrays = self._matrix(path, (count, dims))
        if packing is None or len(arrays) == 1:
            return PlainEmbedding(arrays[0])
        return PackedEmbedding(arrays[0], arrays[1], arrays[2] if packing.has_biases else None, packing)

    def _matrix(self, path: str, shape: tuple[int, ...]) -> tuple[Packing | None, list[mx.array]]:
        """How the checkpoint packs it, and the weight alone (plain there, or widened here) or packed
        weight, scales and (affine only) biases."""
        *outer, in_dims = shape
        packing = self.quantization.packing(self.checkpoint, path, in_dims)
        if packing is None:
            return None, [self.tensor(f"{path}.weight", shape)]
        groups = (*outer, in_dims // packing.group_size)
        weight = self.checkpoint.take(f"{path}.weight", (*outer, in_dims * packing.bits // 32))
        rest = [self.checkpoint.take(f"{path}.scales", groups)]
        if packing.has_biases:
            rest.append(self.checkpoint.take(f"{path}.biases", groups))
        if self.form == "wide":
            return packing, [_dequantize(weight, rest, packing)]
        if self.form == "packed" and packing.has_biases:
            rest = [a.astype(mx.float32) for a in rest]
        return packing, [weight, *rest]


def wide_bytes(checkpoint: Checkpoint, config: Config) -> int:
    """What all weights would take as float32."""
    infos = [checkpoint.info(name) for name in checkpoint.names()]
    return 4 * sum(parameters(info, packed_bits(config, info, checkpoint.find)) for info in infos)


def _dequantize(weight: mx.array, rest: list[mx.array], packing: Packing) -> mx.array:
    wide = mx.dequantize(
        weight, rest[0].astype(mx.float32) if packing.has_biases else rest[0],
        rest[1].astype(mx.float32) if packing.has_biases else None,
        group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
    )  # fmt: skip
    return wide.astype(mx.float32)
