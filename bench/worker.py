"""One system in a process of its own: from start to first token, then warm speed, then peak memory.

    python -m bench.worker mlxone FOLDER [--prompt 256] [--count 32] [--text "…"]

With --text the whole public road is taken (tokenizer, template); the parent's clock is read from
the line `first`, so that the interpreter's own start is in the number.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

from bench.sides import SIDES, Generate, drive_mlx_lm, drive_mlxone, time_once


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["mlxone", "mlx-lm"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--text")
    args = parser.parse_args()
    if args.text:
        generate = (answer_of_mlxone if args.side == "mlxone" else answer_of_mlx_lm)(args.folder, args.text)
    else:
        generate = SIDES[args.side](args.folder)
        next(generate(range(10, 42), 1))
    print("first", time.time(), flush=True)
    if args.count:
        print(json.dumps(warm(generate, args.prompt, args.count)), flush=True)


def answer_of_mlxone(folder: Path, text: str) -> Generate:
    import mlxone

    model = mlxone.load(folder)
    next(iter(mlxone.generate(model, text, max_tokens=1)))
    return drive_mlxone(model.decoder)


def answer_of_mlx_lm(folder: Path, text: str) -> Generate:
    from mlx_lm import load, stream_generate

    model, tokenizer = load(str(folder))[:2]
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    next(stream_generate(model, tokenizer, prompt, max_tokens=1))
    return drive_mlx_lm(model)


def warm(generate: Generate, prompt: int, count: int) -> dict[str, float]:
    import mlx.core as mx

    run = time_once(generate, [10 + i % 1000 for i in range(prompt)], count)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "prefill_tps": run.prefill_tps,
        "decode_tps": run.decode_tps,
        "mlx_peak_bytes": mx.get_peak_memory(),
        "resident_peak_bytes": resident,
    }


if __name__ == "__main__":
    main()
