"""Random adapters in folders as users have them, made for whatever model they are to fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.models.changed import linears_of
from mlxone.models.loading import load_decoder

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(
    folder: Path,
    model: Path,
    *,
    seed: int = 1,
    rank: int = 4,
    scale: float = 8.0,
    kind: str = "lora",
    modules: Sequence[str] = ALL,
    widen: int = 0,
) -> Path:
    """`widen` adds to the dims of the first linear, which then fits no model of this shape."""
    folder.mkdir(parents=True, exist_ok=True)
    linears = {
        path: facts
        for path, facts in linears_of(load_decoder(model)).items()
        if path.rpartition(".")[2] in modules
    }
    with lock, on_stream():
        keys = iter(mx.random.split(mx.random.key(seed), 3 * len(linears)))
        found: dict[str, mx.array] = {}
        for path, facts in linears.items():
            more, widen = widen, 0
            if kind == "full":
                found[f"{path}.weight"] = (
                    mx.random.normal((facts.out_dims, facts.in_dims), key=next(keys)) * 0.2
                )
                continue
            found[f"{path}.lora_a"] = mx.random.normal((facts.in_dims + more, rank), key=next(keys)) * 0.3
            found[f"{path}.lora_b"] = mx.random.normal((rank, facts.out_dims), key=next(keys)) * 0.3
            if kind == "dora":
                found[f"{path}.m"] = mx.random.uniform(0.5, 2.0, (facts.out_dims,), key=next(keys))
        mx.eval(list(found.values()))
        mx.save_safetensors(str(folder / "adapters.safetensors"), found)
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0}
    config = {"fine_tune_type": kind, "num_layers": -1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
