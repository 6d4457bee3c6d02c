"""One trainer in a process of its own: warm speed, then peak memory.

    python -m bench.train_worker mlx-lm FOLDER --batch 4 --length 256 --steps 3

`mlx-lm-blas` is mlx-lm on the matrix library that mlxone brings along; `mlx-lm` is as it installs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from bench.train_sides import SIDES, Shape


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["mlxone", "mlx-lm", "mlx-lm-blas"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--segment", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    if args.side == "mlx-lm-blas":
        import mlxone.backend.arrays  # noqa: F401 - it brings the BLAS, and has to come before MLX
    shape = Shape(args.batch, args.length, args.segment)
    side = SIDES[args.side.removesuffix("-blas")](args.folder, shape)
    losses = [side.step()]
    start = time.perf_counter()
    losses += [side.step() for _ in range(args.steps)]
    seconds = time.perf_counter() - start
    import mlx.core as mx

    tps = args.steps * shape.tokens / seconds
    print(json.dumps({"tps": tps, "losses": losses, "mlx_peak_bytes": mx.get_peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
