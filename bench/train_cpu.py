"""The starter trained on this CPU, each system in processes of its own, taking turns.

mlx-lm runs twice: as it installs, on the packed weights with float32 scales (see bench/cpu.py), and on
plain float32 weights with the matrix library that mlxone brings along, which is the hard comparison.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from bench.cpu import in_float32
from bench.figures import median, shown, table
from bench.train_sides import Shape

HEAD = ["starter", "mlxone", "mlx-lm", "mlxone / mlx-lm (95 % interval)", "bar"]
AGAINST = {"mlx-lm-blas": "float32 and OpenBLAS", "mlx-lm": "as it installs"}
BAR = 2.0


def measure(
    folder: Path, shapes: Mapping[str, Shape], rounds: int, steps: int, say: Callable[[dict[str, Any]], None]
) -> str:
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folders = {
            "mlxone": folder,
            "mlx-lm": in_float32(folder, Path(temporary, "scales")),
            "mlx-lm-blas": plain_float32(folder, Path(temporary, "plain")),
        }
        for other, shape in shapes.items():
            sides = {side: folders[side] for side in ("mlxone", other)}
            rows += report(other, shape, _take_turns(sides, shape, rounds, steps, say))
    return table(HEAD, rows)


def _take_turns(
    folders: dict[str, Path], shape: Shape, rounds: int, steps: int, say: Callable[[dict[str, Any]], None]
) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in folders}
    for number in range(rounds):
        for side in sorted(results, reverse=number % 2 == 1):  # who goes first takes turns, too
            found = run_worker(side, folders[side], shape, steps)
            say(
                {
                    "side": side,
                    "against": sorted(folders),
                    "batch": shape.batch,
                    "length": shape.length,
                    **found,
                }
            )
            results[side].append(found)
    return results


def run_worker(side: str, folder: Path, shape: Shape, steps: int) -> dict[str, Any]:
    sizes = ["--batch", shape.batch, "--length", shape.length, "--segment", shape.segment, "--steps", steps]
    command = [sys.executable, "-m", "bench.train_worker", side, str(folder), *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def report(other: str, shape: Shape, results: dict[str, list[dict[str, Any]]]) -> list[list[object]]:
    what = f"batch {shape.batch}, {shape.length} tokens; mlx-lm {AGAINST[other]}"
    ours, theirs = results["mlxone"], results[other]
    rows: list[list[object]] = []
    for key, name, unit in (("tps", "tok/s", 1.0), ("mlx_peak_bytes", "MLX's peak memory, GB", 1e9)):
        a, b = ([run[key] / unit for run in runs] for runs in (ours, theirs))
        digits = 1 if key == "tps" else 2
        bar = f">= {BAR:g}" if key == "tps" else ""
        rows.append(
            [f"{what}: {name}", f"{median(a):.{digits}f}", f"{median(b):.{digits}f}", shown(a, b), bar]
        )
    losses = [f"{runs[0]['losses'][0]:.4f}" for runs in (ours, theirs)]
    return [*rows, [f"{what}: first loss", *losses, "", ""]]


def plain_float32(folder: Path, copy: Path) -> Path:
    """The same model unpacked."""
    from mlxone.backend.arrays import mx

    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    settings = config.pop("quantization")
    config.pop("quantization_config", None)
    (copy / "config.json").write_text(json.dumps(config))
    stored = cast("dict[str, mx.array]", mx.load(str(folder / "model.safetensors")))
    wide = {name: a if a.dtype == mx.uint32 else a.astype(mx.float32) for name, a in stored.items()}
    plain: dict[str, mx.array] = {}
    for name, array in wide.items():
        path, _, part = name.rpartition(".")
        if array.dtype == mx.uint32:
            how = settings | settings.get(path, {})
            plain[name] = mx.dequantize(
                array, wide[f"{path}.scales"], wide[f"{path}.biases"], how["group_size"], how["bits"]
            )
        elif part not in ("scales", "biases"):
            plain[name] = array
    mx.save_safetensors(str(copy / "model.safetensors"), plain, {"format": "mlx"})
    return copy
