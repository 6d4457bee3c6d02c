"""Random models at true shapes on a GPU: both systems in one process, taking turns.

Peak memory comes from processes of their own, loading included. Logits are compared first: a
faster wrong answer is no result.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from bench.cpu import run_worker
from bench.figures import median, shown, table
from bench.random_models import SHAPES, save_random_model
from bench.sides import SIDES, Run, time_once

PACKINGS: dict[str, dict[str, Any] | None] = {"4-bit": {"group_size": 64, "bits": 4}, "bf16": None}
HEAD = ["model", "weights", "what", "mlxone", "mlx-lm", "mlxone / mlx-lm (95 % interval)"]


def measure(rounds: int, prompt: int, count: int, shapes: list[str]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for shape in shapes:
        for packing, quantization in PACKINGS.items():
            folder = Path(tempfile.mkdtemp(prefix="mlxone-bench-"))
            try:
                save_random_model(folder, SHAPES[shape], quantization=quantization)
                rows += [[shape, packing, *row] for row in _one(folder, rounds, prompt, count)]
            finally:
                shutil.rmtree(folder)
            print(table(HEAD, rows[-4:]), flush=True)
    return rows


def _one(folder: Path, rounds: int, prompt: int, count: int) -> list[list[Any]]:
    runs, equal = _alternate(folder, rounds, prompt, count)
    rows: list[list[Any]] = []
    for index, what in enumerate(("prefill, tok/s", "decode, tok/s")):
        ours, theirs = ([run[:2][index] for run in runs[side]] for side in ("mlxone", "mlx-lm"))
        rows.append([what, f"{median(ours):.0f}", f"{median(theirs):.0f}", shown(ours, theirs)])
    peaks = {
        side: run_worker(side, folder, "--prompt", str(prompt), "--count", "8")["mlx_peak_bytes"]
        for side in SIDES
    }
    ours_peak, theirs_peak = peaks["mlxone"] / 1e9, peaks["mlx-lm"] / 1e9
    rows.append(
        ["peak memory, GB", f"{ours_peak:.2f}", f"{theirs_peak:.2f}", f"{ours_peak / theirs_peak:.3f}"]
    )
    rows.append(["equal logits", *equal, ""])
    return rows


def _alternate(
    folder: Path, rounds: int, prompt: int, count: int
) -> tuple[dict[str, list[Run]], tuple[str, str]]:
    from mlxone.backend.arrays import mx

    sides = {side: opener(folder) for side, opener in SIDES.items()}
    ids = [10 + (i * 7919) % 30000 for i in range(prompt)]
    for generate in sides.values():  # kernels are compiled at their first use
        time_once(generate, ids, 16)
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sorted(sides, reverse=number % 2 == 1):
            # An untimed turn first, from an empty buffer cache: neither system should be timed on
            # what the other left behind.
            mx.clear_cache()
            time_once(sides[side], ids, 8)
            runs[side].append(time_once(sides[side], ids, count))
    del sides
    return runs, _compare_logits(folder, ids)


def _compare_logits(folder: Path, ids: list[int]) -> tuple[str, str]:
    """Prefill in two chunks and eight steps, every logit: (yes or no, the largest difference)."""
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    from mlxone.backend.arrays import mx, on_stream
    from mlxone.models.loading import load_decoder

    ids = ids[:1000]
    half = len(ids) // 2
    chunks = [ids[:half], ids[half:], *([i] for i in ids[:8])]
    theirs, _ = load_model(folder)
    cache = make_prompt_cache(theirs)
    expected = [theirs(mx.array([chunk]), cache=cache) for chunk in chunks]
    mx.eval(expected)
    decoder = load_decoder(folder)
    state = decoder.new_state()
    with on_stream():
        ours = [decoder.logits(decoder.hidden(mx.array([chunk]), state)) for chunk in chunks]
        mx.eval(ours)
    worst = max(cast(float, mx.abs(a - b).max().item()) for a, b in zip(ours, expected, strict=True))
    return ("yes" if worst == 0 else "no", f"max difference {worst:g}")
