"""Random models at true sizes, made in the device's memory: no file is written, nothing is quantized.

mlx-lm's model, never evaluated, says what a checkpoint holds; each tensor is then cut from one pool of random
words, at a place that follows from its name. So both systems get the same numbers, whenever they are built,
in a second or two. Arrays are promises until used, as those of a file are.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import mx, on_cpu, on_stream  # before mlx-lm: it brings the BLAS

# isort: split
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, quantize_model

from mlxone.formats.config import Config
from mlxone.formats.safetensors import TensorInfo
from mlxone.models.building import build_decoder
from mlxone.models.checkpoint import Checkpoint
from mlxone.models.decoder import Decoder
from mlxone.models.families.table import spec_of
from mlxone.models.weights import WeightSource

GROUP, BITS = 64, 4
EXPERTS_OF_ITS_OWN = "gpt_oss"  # published with mxfp4 experts, the rest bfloat16
ALIGNED = 64  # numbers; kernels that read several at once want it so
POOL_WORDS = ALIGNED * 262141  # a prime: experts and rows of a power of two each get words of their own
LARGEST_CUT = 1 << 30  # a dimension of an array is 31 bits wide
DTYPES = {mx.bfloat16: "BF16", mx.float32: "F32", mx.uint32: "U32", mx.uint8: "U8"}


class RandomModel:
    """What a checkpoint of this config would hold, and both systems' models of it."""

    def __init__(self, config: Mapping[str, Any], packing: str, *, pool_words: int = POOL_WORDS) -> None:
        self.dtype = mx.float32 if on_cpu() else mx.bfloat16  # a CPU computes experts in float32 alone
        model, self.config = _model_of_mlx_lm(config, packing)
        stays_wide = getattr(model, "cast_predicate", None)
        parameters: Any = tree_flatten(model.parameters())
        self.shapes: dict[str, tuple[tuple[int, ...], mx.Dtype]] = {
            name: (array.shape, self._dtype_of(name, array, stays_wide)) for name, array in parameters
        }
        self.packing = packing
        self._settings = _settings_by_path(model)
        self._pool = _pool(pool_words)
        self._normal: dict[tuple[float, mx.Dtype], mx.array] = {}
        for name in self.shapes:  # fills the pools, so that they are there before anything is measured
            self.array(name)

    def _dtype_of(self, name: str, array: mx.array, cast: Any) -> mx.Dtype:
        if not mx.issubdtype(array.dtype, mx.floating):
            return array.dtype
        return self.dtype if cast is None or cast(name) else mx.float32

    @property
    def bytes(self) -> int:
        return sum(math.prod(shape) * dtype.size for shape, dtype in self.shapes.values())

    def for_mlxone(self) -> Decoder:
        config = Config(copy.deepcopy(self.config))
        checkpoint = MadeCheckpoint(self)
        with on_stream():
            decoder = build_decoder(spec_of(config), WeightSource(checkpoint, config))
            decoder.materialize()
        if left := checkpoint.leftover():
            raise ValueError(f"mlxone has no use for {left[0]} and {len(left) - 1} more")
        return decoder

    def for_mlx_lm(self) -> nn.Module:
        model, _ = _model_of_mlx_lm(self.config, self.packing)
        model.eval()
        model.load_weights([(name, self.array(name)) for name in self.shapes], strict=True)
        mx.eval(model.parameters())
        mx.clear_cache()
        return model

    def array(self, name: str) -> mx.array:
        """Small enough that activations stay in range, whatever the depth."""
        shape, dtype = self.shapes[name]
        path, _, last = name.rpartition(".")
        if dtype == mx.uint32:
            return _cut(self._pool, _start(name), shape)
        if path in self._settings and last in ("scales", "biases"):
            return self._scale(path, last == "biases", dtype)
        return self._floats(name, shape, dtype)

    def _scale(self, path: str, is_offset: bool, dtype: mx.Dtype) -> mx.array:
        group, bits, mode = self._settings[path]
        shape, _ = self.shapes[f"{path}.scales"]
        width = (group * shape[-1]) ** -0.5  # the standard deviation that is wanted
        if mode != "affine":  # powers of two; four bits of it deviate by 2.9
            return mx.full(shape, 127 + round(math.log2(width / 2.9)), mx.uint8)
        levels = 2**bits
        step = width * math.sqrt(12) / levels
        return mx.full(shape, -(levels - 1) / 2 * step if is_offset else step, dtype)

    def _floats(self, name: str, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        if name.endswith("A_log"):
            return mx.log(1 + mx.abs(self._drawn(name, shape, 4.0, dtype)))
        if "bias" in name.rpartition(".")[2] or name.endswith("sinks"):
            return self._drawn(name, shape, 0.1, dtype)
        if len(shape) == 1:  # norms and learned factors
            return 1 + self._drawn(name, shape, 0.1, dtype)
        inputs = math.prod(shape[1:]) if shape[-1] == 1 else shape[-1]  # of a convolution by channel
        return self._drawn(name, shape, inputs**-0.5, dtype)

    def _drawn(self, name: str, shape: tuple[int, ...], scale: float, dtype: mx.Dtype) -> mx.array:
        # A pool for each scale: scaling a tensor would need memory beside it.
        if (scale, dtype) not in self._normal:
            pool = (_normal(self._pool.size) * scale).astype(dtype)
            mx.eval(pool)
            self._normal[scale, dtype] = pool
        return _cut(self._normal[scale, dtype], _start(name), shape)


class MadeCheckpoint(Checkpoint):
    """Hands out made arrays in the place of a folder's."""

    def __init__(self, made: RandomModel) -> None:
        self.folder = Path("random")
        self._made = made
        self._taken: set[str] = set()
        self._open = {}
        self._infos = {
            name: TensorInfo(name, DTYPES[dtype], shape, 0, 0, self.folder)
            for name, (shape, dtype) in made.shapes.items()
        }

    def _shard(self, path: Path) -> Any:
        return _Promises(self._made)


class _Promises:
    def __init__(self, made: RandomModel) -> None:
        self._made = made

    def __getitem__(self, name: str) -> mx.array:
        return self._made.array(name)


def _model_of_mlx_lm(config: Mapping[str, Any], packing: str) -> tuple[nn.Module, dict[str, Any]]:
    """Packed as mlx-lm's conversion does it; nothing is computed. The config says so afterwards."""
    plain = {k: v for k, v in copy.deepcopy(dict(config)).items() if not k.startswith("quantization")}
    model_class, args_class = _get_classes(plain)
    model = model_class(args_class.from_dict(copy.deepcopy(plain)))  # it changes what it is given
    if packing != "4-bit":
        return model, plain
    with contextlib.redirect_stdout(io.StringIO()):
        if plain["model_type"] == EXPERTS_OF_ITS_OWN:
            return quantize_model(
                model, plain, 32, 4, mode="mxfp4", quant_predicate=lambda path, _: ".experts." in path
            )
        return quantize_model(model, plain, GROUP, BITS)


def _settings_by_path(model: nn.Module) -> dict[str, tuple[int, int, str]]:
    return {
        path: (module.group_size, module.bits, module.mode)
        for path, module in model.named_modules()
        if hasattr(module, "bits") and "scales" in module
    }


def _pool(words: int) -> mx.array:
    halves = mx.random.randint(0, 1 << 16, (2 * words,), mx.uint16, key=mx.random.key(1))
    pool = halves.view(mx.uint32)
    mx.eval(pool)
    return pool


def _normal(count: int) -> mx.array:
    return mx.random.normal((count,), key=mx.random.key(2))


def _start(name: str) -> int:
    return zlib.crc32(name.encode()) // ALIGNED * ALIGNED


def _cut(pool: mx.array, start: int, shape: tuple[int, ...]) -> mx.array:
    """As many of the pool's numbers as fill `shape`, from `start` on, round and round."""
    count = math.prod(shape)
    if count > LARGEST_CUT:
        half = shape[0] // 2
        others = (shape[0] - half, *shape[1:])
        return mx.concatenate(
            [_cut(pool, start, (half, *shape[1:])), _cut(pool, start + ALIGNED, others)]
        )  # fmt: skip
    pieces: list[mx.array] = []
    start %= pool.size
    while count:
        length = min(count, pool.size - start)
        pieces.append(pool[start : start + length])
        start, count = 0, count - length
    if len(pieces) == 1:  # never a view into the pool: the tensor is to have memory of its own
        place = min(ALIGNED, pieces[0].size - 1)
        pieces = [pieces[0][:place], pieces[0][place:]]
    return mx.concatenate(pieces).reshape(shape)
