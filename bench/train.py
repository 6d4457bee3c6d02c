"""python -m bench.train cpu|gpu: mlxone's training beside mlx-lm's tuner, taking turns in one call.

`cpu` trains the starter, `gpu` models of random 4-bit weights at true sizes. Figures are said as they
come, as JSON lines also written to --json (by default to train.jsonl in the folder that OUT names).
`plot FILE…` draws peak memory by length from such lines, in which `gpu --lengths …` or `cpu` left them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.__main__ import machine, version_of_ours
from bench.train_sides import Shape


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cpu = commands.add_parser("cpu", help="the starter, each system in processes of its own")
    cpu.add_argument("--rounds", type=int, default=5)
    cpu.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    cpu.add_argument("--batch", type=int, default=4)
    cpu.add_argument("--length", type=int, default=256)
    cpu.add_argument("--only", choices=["mlx-lm-blas", "mlx-lm"], help="one of the two comparisons")
    cpu.add_argument("--model", type=Path, help="a folder other than the starter's, of one file")
    gpu = commands.add_parser("gpu", help="random weights, both systems in one process")
    gpu.add_argument("--seconds", type=float, default=200, help="for everything, models made included")
    gpu.add_argument("--models", default="Llama-3.2-1B,Qwen3-4B")
    gpu.add_argument("--cases", help="comma-separated lengths: 512,2048,8192; all by default")
    gpu.add_argument("--variants", action="store_true", help="ours alone, one thing changed at a time")
    gpu.add_argument("--lengths", help="peak memory alone, at these lengths, batch 1, for the plot")
    gpu.add_argument("--no-check", action="store_true", help="skip the comparison of gradients and losses")
    gpu.add_argument("--tiny", action="store_true", help="rehearse with tiny shapes")
    plot = commands.add_parser("plot", help="an SVG of peak memory by length")
    plot.add_argument("lines", type=Path, nargs="+")
    plot.add_argument("--svg", type=Path, required=True)
    for command in (cpu, gpu):
        command.add_argument("--json", type=Path, help="append the figures here")
    args = parser.parse_args()
    {"cpu": on_cpu, "gpu": on_gpu, "plot": draw}[args.command](args)


def on_cpu(args: argparse.Namespace) -> None:
    from bench import train_cpu
    from mlxone.hub.starter import starter

    say = speaker(args.json)
    _introduce(say)
    shape = Shape(args.batch, args.length)
    # As it installs, mlx-lm takes a minute for a hundred tokens here: one short text has to do.
    shapes = {"mlx-lm-blas": shape, "mlx-lm": Shape(1, min(args.length, 64))}
    wanted = {other: shape for other, shape in shapes.items() if args.only in (None, other)}
    print(train_cpu.measure(args.model or starter(), wanted, args.rounds, args.steps, say))


def on_gpu(args: argparse.Namespace) -> None:
    deadline = time.perf_counter() + args.seconds
    from bench import train_gpu
    from bench.random_models import SHAPES
    from bench.train_models import TINY, save_packed_model

    say = speaker(args.json)
    _introduce(say)
    configs = TINY if args.tiny else SHAPES
    made: dict[str, Path] = {}

    def folder_of(model: str) -> Path:
        if model not in made:
            start = time.perf_counter()
            made[model] = Path(tempfile.mkdtemp(prefix="mlxone-bench-"))
            save_packed_model(made[model], configs[model])
            say({"made": model, "seconds": time.perf_counter() - start})
        return made[model]

    try:
        if not args.no_check:
            with train_gpu.reported({"check": "gradients"}, say):
                small = Path(tempfile.mkdtemp(prefix="mlxone-bench-"))
                made["check"] = small
                save_packed_model(small, TINY["Qwen3-4B"])
                train_gpu.check(small, say)
        models = args.models.split(",")
        shapes = [train_gpu.SHORT, train_gpu.MIDDLE, train_gpu.LONG]
        if args.tiny:
            shapes = [Shape(shape.batch, shape.length // 16, shape.segment) for shape in shapes]
        if args.variants:
            for model in models:
                train_gpu.variants(folder_of(model), shapes[:2], 0.2 if args.tiny else 1.5, say)
        elif args.lengths:
            lengths = [int(length) for length in args.lengths.split(",")]
            train_gpu.peaks(folder_of, models, lengths, deadline, say)
        else:
            wanted = set(args.cases.split(",")) if args.cases else None
            cases = train_gpu.cases(models, shapes, wanted)
            print("\n" + train_gpu.measure(folder_of, cases, deadline, say))
    finally:
        for folder in made.values():
            shutil.rmtree(folder, ignore_errors=True)


def draw(args: argparse.Namespace) -> None:
    from bench.train_plot import points, svg

    lines = [json.loads(line) for path in args.lines for line in path.read_text().splitlines()]
    args.svg.write_text(svg(points(lines)), encoding="utf-8")


def speaker(file: Path | None) -> Callable[[dict[str, Any]], None]:
    """Prints a line and keeps it at once: a run that is cut off still leaves its numbers."""
    out = os.environ.get("OUT")
    path = file or (Path(out, "train.jsonl") if out else None)

    def say(line: dict[str, Any]) -> None:
        text = json.dumps(line)
        print(text, flush=True)
        if path:
            with path.open("a", encoding="utf-8") as lines:
                lines.write(text + "\n")

    return say


def _introduce(say: Callable[[dict[str, Any]], None]) -> None:
    from mlxone.backend.arrays import mx

    versions = f"mlxone {version_of_ours()}, mlx {version('mlx')}, mlx-lm {version('mlx-lm')}"
    say({"about": f"{versions}, {machine(mx)}"})


if __name__ == "__main__":
    main()
