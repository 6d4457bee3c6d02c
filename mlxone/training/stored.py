"""Whole weights in the dtype that their base's files have them in, whatever they are computed with here.

So they take no more room than the base's, and whoever loads both computes in one dtype throughout.
"""

from __future__ import annotations

from pathlib import Path

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.models.checkpoint import Checkpoint
from mlxone.training.trainable import Params

NARROW = {"F16": mx.float16, "BF16": mx.bfloat16}


def as_in_base(params: Params, folder: Path) -> Params:
    base = Checkpoint(folder) if any(folder.glob("*.safetensors")) else None
    with lock, on_stream():
        return {name: array.astype(_dtype(name, base, array.dtype)) for name, array in params.items()}


def _dtype(name: str, base: Checkpoint | None, otherwise: mx.Dtype) -> mx.Dtype:
    info = None if base is None else base.find(name)
    return otherwise if info is None else NARROW.get(info.dtype, otherwise)
