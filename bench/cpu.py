"""The starter on this CPU, each system in processes of its own, taking turns."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from bench.figures import median, shown, table

TEXT = "Name the capital of France."


def run_worker(side: str, folder: Path, *options: str) -> dict[str, float]:
    """One process; `first_ms` is from its start to its first token."""
    start = time.time()
    command = [sys.executable, "-m", "bench.worker", side, str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = [line for line in process.stdout if line.startswith(("first ", "{"))]
    if process.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    figures: dict[str, float] = {"first_ms": (float(lines[0].split()[1]) - start) * 1e3}
    return figures | (json.loads(lines[1]) if len(lines) > 1 else {})


def in_float32(folder: Path, copy: Path) -> Path:
    """The same model with float32 scales and norms: what mlx-lm computes fastest on a CPU.

    With the float16 scales of the starter it needs seconds for each token.
    """
    from mlxone.backend.arrays import mx

    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = cast("dict[str, mx.array]", mx.load(str(folder / "model.safetensors")))
    wide = {name: a if a.dtype == mx.uint32 else a.astype(mx.float32) for name, a in weights.items()}
    mx.save_safetensors(str(copy / "model.safetensors"), wide, {"format": "mlx"})
    return copy


def measure(folder: Path, rounds: int, prompt: int, count: int) -> dict[str, list[dict[str, float]]]:
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"mlxone": folder, "mlx-lm": in_float32(folder, Path(temporary, "model"))}
        return _take_turns(folders, rounds, prompt, count)


def _take_turns(
    folders: dict[str, Path], rounds: int, prompt: int, count: int
) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = {side: [] for side in folders}
    for number in range(rounds):
        for side in sorted(results, reverse=number % 2 == 1):  # who goes first takes turns, too
            options = ("--prompt", str(prompt), "--count", str(count), "--text", TEXT)
            results[side].append(run_worker(side, folders[side], *options))
    return results


def report(results: dict[str, list[dict[str, float]]]) -> str:
    names = [
        ("first_ms", "process start to first token, ms", 1),
        ("prefill_tps", "prefill, tok/s", 1),
        ("decode_tps", "decode, tok/s", 1),
        ("mlx_peak_bytes", "MLX's peak memory, MB", 1e6),
        ("resident_peak_bytes", "peak resident memory, MB", 1e6),
    ]
    rows: list[list[Any]] = []
    for key, name, unit in names:
        ours, theirs = ([run[key] for run in results[side]] for side in ("mlxone", "mlx-lm"))
        rows.append([name, f"{median(ours) / unit:.1f}", f"{median(theirs) / unit:.1f}", shown(ours, theirs)])
    return table(["starter", "mlxone", "mlx-lm", "mlxone / mlx-lm (95 % interval)"], rows)
