"""An adapter as the two files that mlx-lm loads, or those that PEFT does.

Both are written beside their names, brought to the disk and renamed: what was there before stays whole
until they are. Tensors come first and repeat in their header what the config has to agree with, so a kill
between the two names leaves a pair that either fits or is noticed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import StorageError, UsageError
from mlxone.formats.adapters import (
    CONFIG_FILE,
    OWN_SECTION,
    PEFT_PREFIX,
    TENSOR_FILES,
    Format,
    Kind,
    read_config,
)
from mlxone.formats.durable import make_durable

HEADER_FORMATS: dict[Format, str] = {"mlx-lm": "mlx", "peft": "pt"}
A, B, M = ".lora_a", ".lora_b", ".m"
WRITABLE = "free some space, or choose a folder that can be written; what was there before is intact"
_IN_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """What an adapter is beside its tensors."""

    kind: Kind
    rank: int  # the one asked for; the tensors may have others
    scale: float
    dropout: float = 0.0
    layers: int | None = None  # the last ones that were trained; None: all
    keys: Collection[str] | None = None  # names within a layer ("self_attn.q_proj"); None: the tensors' own
    extra: Mapping[str, Any] = field(default_factory=dict)  # goes into the config under "mlxone"


def write_adapter(folder: str | Path, params: Mapping[str, mx.array], facts: AdapterFile) -> None:
    """For mlx-lm, which knows one rank: lower ones are filled up with zeros, and noted."""
    ranks = _ranks(params)
    top = max(ranks.values(), default=facts.rank)
    lower = {path: own for path, own in ranks.items() if own < top}
    config: dict[str, Any] = {
        "fine_tune_type": facts.kind,
        "num_layers": -1 if facts.layers is None else facts.layers,
        OWN_SECTION: {"rank": facts.rank, **facts.extra} | ({"ranks": lower} if lower else {}),
    }
    if facts.kind != "full":
        keys = facts.keys if facts.keys is not None else _keys(ranks)
        config["lora_parameters"] = {
            "rank": top, "scale": float(facts.scale), "dropout": facts.dropout, "keys": sorted(keys),
        }  # fmt: skip
    with lock, on_stream():
        arrays = {name: _filled(name, array, top) for name, array in params.items()}
        _write(Path(folder), "mlx-lm", arrays, config)


def write_peft(
    folder: str | Path, params: Mapping[str, mx.array], facts: AdapterFile, base_name: str
) -> None:
    """For PEFT, which takes a rank for each linear and has both halves the other way round."""
    if facts.kind == "full":
        raise UsageError("a full fine-tuning is no adapter of PEFT's", hint="fuse it into a model instead")
    ranks = _ranks(params)
    top = max(ranks.values(), default=facts.rank)
    lower = {path: own for path, own in ranks.items() if own < top}
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name,
        "r": top, "lora_alpha": facts.scale * top, "lora_dropout": facts.dropout,
        "rank_pattern": lower, "alpha_pattern": {path: facts.scale * own for path, own in lower.items()},
        "target_modules": _targets(ranks, facts), "use_dora": facts.kind == "dora", "use_rslora": False,
        "bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "inference_mode": True,
    }  # fmt: skip
    with lock, on_stream():
        arrays = dict(_turned(name, array) for name, array in params.items())
        _write(Path(folder), "peft", arrays, config)


def _ranks(params: Mapping[str, mx.array]) -> dict[str, int]:
    return {name.removesuffix(A): array.shape[1] for name, array in params.items() if name.endswith(A)}


def _keys(paths: Iterable[str]) -> set[str]:
    """As mlx-lm names linears: within their layer, or from the model's root where they are in none."""
    return {found[2] if (found := _IN_LAYER.fullmatch(path)) else path for path in paths}


def _targets(paths: Collection[str], facts: AdapterFile) -> list[str]:
    """The last words, where they mean the same linears in every layer; otherwise whole paths."""
    layers = {found[1] for path in paths if (found := _IN_LAYER.fullmatch(path))}
    if facts.layers is None and len(paths) == len(layers) * len(_keys(paths)):
        return sorted({path.rpartition(".")[2] for path in paths})
    return sorted(paths)


def _filled(name: str, array: mx.array, rank: int) -> mx.array:
    if name.endswith(A):
        return mx.pad(array, [(0, 0), (0, rank - array.shape[1])])
    if name.endswith(B):
        return mx.pad(array, [(0, rank - array.shape[0]), (0, 0)])
    return array


def _turned(name: str, array: mx.array) -> tuple[str, mx.array]:
    for ending, theirs in ((A, ".lora_A.weight"), (B, ".lora_B.weight")):
        if name.endswith(ending):
            return f"{PEFT_PREFIX}{name.removesuffix(ending)}{theirs}", mx.contiguous(array.T)
    return f"{PEFT_PREFIX}{name.removesuffix(M)}.lora_magnitude_vector", array


def _write(folder: Path, form: Format, arrays: dict[str, mx.array], config: dict[str, Any]) -> None:
    """Both are on the disk before the first takes its name: a full disk leaves the old pair."""
    file, words = TENSOR_FILES[form], json.dumps(config, indent=2, sort_keys=True) + "\n"
    metadata = {"format": HEADER_FORMATS[form], OWN_SECTION: read_config(config, str(folder)).essentials}
    names = (file, CONFIG_FILE)
    beside = [folder / f".partial.{name}" for name in names]  # the ending stays: MLX would add it
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mx.save_safetensors(str(beside[0]), arrays, metadata)
        beside[1].write_text(words, encoding="utf-8")
        for path in beside:
            make_durable(path)
        for path, name in zip(beside, names, strict=True):
            os.replace(path, folder / name)
        make_durable(folder)
    except (OSError, RuntimeError) as error:  # MLX's writer raises the second
        for path in beside:
            with suppress(OSError):
                path.unlink()
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
        raise StorageError(f"{folder / file} cannot be written: {reason[:200]}", hint=WRITABLE) from None
