"""One side of `bench.serve` in a process of its own.

    python -m bench.serve_worker server FOLDER PORT     mlxone's server, through the library
    python -m bench.serve_worker engine FOLDER          mlxone.generate: a JSON line in, a JSON line out

The library road needs nothing of what `mlxone serve` shows on a terminal.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import Any


def main() -> None:
    what, folder, *rest = sys.argv[1:]
    if what == "server":
        asyncio.run(serve(folder, int(rest[0])))
    else:
        answer_lines(folder)


async def serve(folder: str, port: int) -> None:
    import mlxone

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = mlxone.create_server(mlxone.load_context(folder), port=port)
    await server.serve_forever(stop=stop)


def answer_lines(folder: str) -> None:
    import mlxone

    model = mlxone.load(folder)
    for line in sys.stdin:
        print(json.dumps(timed(mlxone, model, **json.loads(line))), flush=True)


def timed(mlxone: Any, model: Any, messages: list[dict[str, str]], count: int) -> dict[str, float]:
    """As the client times a stream: between the first text and the last."""
    start = time.perf_counter()
    stamps: list[float] = []
    tokens = 0
    for token in mlxone.generate(model, messages, max_tokens=count):
        tokens += 1
        if token.text:
            stamps.append(time.perf_counter())
    return {
        "first_ms": (stamps[0] - start) * 1e3,
        "decode_tps": (tokens - 1) / (stamps[-1] - stamps[0]),
        "tokens": tokens,
    }


if __name__ == "__main__":
    main()
