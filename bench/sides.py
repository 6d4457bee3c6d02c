"""The two systems behind one shape: open a folder, then time one generation from token ids.

Both are driven below their text layers, so that random models need no tokenizer; timed as mlx-lm
times itself: the prompt's clock runs until the first token is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Run(NamedTuple):
    prefill_tps: float
    decode_tps: float
    tokens: list[int]


Generate = Callable[[Sequence[int], int], Iterator[int]]


def open_mlxone(folder: Path) -> Generate:
    from mlxone.models.loading import load_decoder

    return drive_mlxone(load_decoder(folder))


def drive_mlxone(decoder: Any) -> Generate:
    from mlxone.core.words import Sampling
    from mlxone.engine.loop import decode, prefill
    from mlxone.engine.row import Row

    def generate(ids: Sequence[int], count: int) -> Iterator[int]:
        row = Row(decoder, ids, decoder.new_state(), Sampling(), seed=0)
        for _ in prefill(row, 2048):
            pass
        return (drawn.token for drawn in decode(row, count))

    return generate


def open_mlx_lm(folder: Path) -> Generate:
    from mlx_lm.utils import load_model

    return drive_mlx_lm(load_model(folder)[0])


def drive_mlx_lm(model: Any) -> Generate:
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    return lambda ids, count: (
        token for token, _ in generate_step(mx.array(list(ids)), model, max_tokens=count)
    )


SIDES: dict[str, Callable[[Path], Generate]] = {"mlxone": open_mlxone, "mlx-lm": open_mlx_lm}


def time_once(generate: Generate, ids: Sequence[int], count: int) -> Run:
    start = time.perf_counter()
    tokens: list[int] = []
    first = start
    for token in generate(ids, count):
        if not tokens:
            first = time.perf_counter()
        tokens.append(token)
    end = time.perf_counter()
    return Run(len(ids) / (first - start), len(tokens) / (end - first), tokens)
