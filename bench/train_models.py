"""Packed models of random words at true shapes, made on the device itself in a second or two.

Nothing is quantized: a packed weight of random bits is as good a weight for speed and memory, and
no unpacked copy of it ever exists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.random_models import SHAPES
from mlxone.backend.arrays import mx, on_cpu  # before mlx-lm: it brings the BLAS

# isort: split
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

GROUP, BITS = 64, 4
# For rehearsals: shapes that a CPU computes in a moment.
TINY: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": SHAPES["Llama-3.2-1B"]
    | {"hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 256, "num_attention_heads": 4,
       "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512},
    "Qwen3-4B": SHAPES["Qwen3-4B"]
    | {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 192, "num_attention_heads": 4,
       "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 640},
}  # fmt: skip


def save_packed_model(folder: Path, config: Mapping[str, Any], *, seed: int = 0) -> None:
    """4 bits in groups of 64, scales and norms in bfloat16; on a CPU, which is slow with those, float32."""
    dtype = mx.float32 if on_cpu() else mx.bfloat16
    model_class, args_class = _get_classes(dict(config))
    shapes: Any = tree_flatten(
        model_class(args_class.from_dict(dict(config))).parameters()
    )  # never evaluated
    mx.random.seed(seed)
    weights: dict[str, mx.array] = {}
    for name, array in shapes:
        weights |= _tensors(name.removesuffix(".weight"), array.shape, dtype)
        mx.eval(list(weights.values()))
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    settings = {"group_size": GROUP, "bits": BITS}
    written = {**config, "quantization": settings, "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(written))
    del weights
    mx.clear_cache()


def _tensors(path: str, shape: tuple[int, ...], dtype: mx.Dtype) -> dict[str, mx.array]:
    if len(shape) == 1:
        return {f"{path}.weight": (1 + 0.1 * mx.random.normal(shape)).astype(dtype)}
    rows, columns = shape
    # 16 levels around zero, as wide as a normal initialisation: activations stay in range.
    step = columns**-0.5 / 4.6
    words = mx.random.randint(-(2**31), 2**31 - 1, (rows, columns * BITS // 32))
    scales = mx.full((rows, columns // GROUP), step, dtype)
    return {
        f"{path}.weight": words.view(mx.uint32),
        f"{path}.scales": scales,
        f"{path}.biases": -7.5 * scales,
    }
