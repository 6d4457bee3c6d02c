"""python -m bench.train_memory [--quick]: what a training step is predicted to take, and what it takes.

On a CPU the starter and random float32 models of three shapes, on a GPU random 4-bit models at true sizes;
lengths, batches, and with and without recomputing layers. *Measured* is MLX's peak over one whole step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.figures import table
from bench.random_models import SHAPES, save_random_model
from bench.train_gpu import peak_of
from bench.train_models import save_packed_model
from bench.train_sides import Ours, Shape
from mlxone.backend.arrays import mx, on_cpu
from mlxone.fitting.machine import Kind
from mlxone.fitting.training import TrainingWork, peak_parts
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.hub.starter import starter

HEAD = ["model", "batch", "length", "layers together", "predicted GB", "measured GB", "ratio"]
_LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 8192}
SMALL: dict[str, dict[str, Any]] = {
    "wide": _LLAMA
    | {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 1024, "num_attention_heads": 4,
       "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192, "tie_word_embeddings": True},
    "many heads": _LLAMA
    | {"hidden_size": 384, "num_hidden_layers": 8, "intermediate_size": 768, "num_attention_heads": 12,
       "num_key_value_heads": 12, "head_dim": 32, "vocab_size": 4096, "tie_word_embeddings": False},
    "qwen3": _LLAMA
    | {"model_type": "qwen3", "hidden_size": 256, "num_hidden_layers": 10, "intermediate_size": 640,
       "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 32768,
       "tie_word_embeddings": True},
}  # fmt: skip
CPU_GRID = [(1, 128), (4, 128), (1, 512), (3, 512), (1, 1024), (2, 1024), (1, 2048), (1, 4096)]
STARTER_GRID = [(1, 128), (4, 128), (1, 512), (2, 512)]
GPU_GRID = [(4, 512), (1, 2048), (1, 8192)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.train_memory", description=__doc__)
    parser.add_argument("--models", help="comma-separated; all by default")
    parser.add_argument("--quick", action="store_true", help="nothing longer than 1,024 tokens in all")
    parser.add_argument("--json", type=Path, help="append the figures here")
    args = parser.parse_args()
    rows: list[list[object]] = []
    for line in measured(args.models.split(",") if args.models else None, args.quick):
        print(json.dumps(line), flush=True)
        if args.json:
            with args.json.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
        sizes = [line["predicted"], line["peak"]]
        rows.append(
            [*(line[key] for key in ("model", "batch", "length", "segment"))]
            + [f"{size / 1e9:.3f}" for size in sizes]
            + [f"{sizes[0] / sizes[1]:.3f}"]
        )
    print(table(HEAD, rows))


def measured(wanted: list[str] | None, quick: bool) -> Iterator[dict[str, Any]]:
    temporary = Path(tempfile.mkdtemp(prefix="mlxone-bench-"))
    kind: Kind = "cpu" if on_cpu() else "apple" if mx.metal.is_available() else "cuda"
    try:
        for name in ["starter", *SMALL] if on_cpu() else ["Llama-3.2-1B", "Qwen3-4B"]:
            if wanted is not None and name not in wanted:
                continue
            folder = _folder(name, temporary)
            grid = STARTER_GRID if name == "starter" else CPU_GRID if on_cpu() else GPU_GRID
            for (batch, length), segment in itertools.product(grid, (0, 1, 3)):
                shape = Shape(batch, length, segment)
                if not quick or shape.tokens <= 1024:
                    yield {"model": name, **asdict(shape), **_one(folder, shape, kind)}
    finally:
        shutil.rmtree(temporary)


def _folder(name: str, temporary: Path) -> Path:
    if name == "starter":
        return starter()
    if name in SMALL:
        save_random_model(temporary / name, SMALL[name], dtype=mx.float32)
    else:
        save_packed_model(temporary / name, SHAPES[name])
    return temporary / name


def _one(folder: Path, shape: Shape, kind: Kind) -> dict[str, Any]:
    mx.clear_cache()
    before = mx.get_active_memory()
    side = Ours(folder, shape)
    try:
        side.step()
        peak = peak_of(side) - before
        form = side.decoder.form
    finally:
        side.close()
    facts = read_facts(folder, Config.read(folder))
    work = TrainingWork(rows=shape.batch, length=shape.length, rank=8, checkpoint=shape.segment)
    parts = peak_parts(facts, work, kind, form)
    return {"peak": peak, "predicted": sum(parts.values()), "parts": parts}


if __name__ == "__main__":
    main()
