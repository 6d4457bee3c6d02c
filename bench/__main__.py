"""python -m bench [--rounds N] [--json FILE]: mlxone beside mlx-lm, taking turns in one call."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="beside this: bench.serve (the servers), bench.train (training), bench.families (model "
        "families), bench.fit and "
        "bench.train_memory (memory), bench.registry (a full cache), bench.start (the packed file)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each system")
    parser.add_argument("--prompt", type=int, help="prompt tokens (256 on a CPU, 2048 on a GPU)")
    parser.add_argument("--count", type=int, help="tokens to decode (32 on a CPU, 192 on a GPU)")
    parser.add_argument("--model", type=Path, help="a folder other than the starter's, for the CPU table")
    parser.add_argument("--shapes", help="comma-separated, for the GPU table; all by default")
    parser.add_argument("--json", type=Path, help="also write the raw figures here")
    args = parser.parse_args()

    from mlxone.backend.arrays import mx, on_cpu

    print(f"mlxone {version_of_ours()}, mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, {machine(mx)}\n")
    if on_cpu():
        from bench import cpu
        from mlxone.hub.starter import starter

        figures = cpu.measure(args.model or starter(), args.rounds, args.prompt or 256, args.count or 32)
        print(cpu.report(figures))
        raw: object = figures
    else:
        from bench import gpu
        from bench.figures import table
        from bench.random_models import SHAPES

        shapes = args.shapes.split(",") if args.shapes else list(SHAPES)
        rows = gpu.measure(args.rounds, args.prompt or 2048, args.count or 192, shapes)
        print("\n" + table(gpu.HEAD, rows))
        raw = rows
    if args.json:
        args.json.write_text(json.dumps(raw, indent=1))


def version_of_ours() -> str:
    import mlxone

    return mlxone.__version__


def machine(mx: object) -> str:
    """The device's name, as the tables should carry it."""
    info = mx.device_info()  # type: ignore[attr-defined]
    name = info.get("device_name") or info.get("architecture") or platform.processor()
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {name}"


if __name__ == "__main__":
    main()
