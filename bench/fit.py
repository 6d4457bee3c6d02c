"""python -m bench.fit [--json FILE]: what `fit` predicts beside what MLX measures.

On a CPU with the starter, on a GPU with random weights of three sizes. Each context is really read
and decoded past the next growth of its buffers. Then a budget is set, and the largest context that
`fit` calls safe within it is run, and 1.15 times as much is asked for.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.__main__ import machine as described
from bench.figures import table
from mlxone.backend.arrays import mx, on_cpu
from mlxone.core.words import Sampling
from mlxone.engine.loop import decode, prefill
from mlxone.engine.row import Row
from mlxone.fitting.admission import Admission
from mlxone.fitting.machine import Machine, this_machine, weight_rule
from mlxone.fitting.report import Case
from mlxone.fitting.store import Store
from mlxone.fitting.work import Work
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder

GPU_CONTEXTS, CPU_CONTEXTS = (2048, 8192, 32768), (1024, 4096, 8192)
PACKINGS: dict[str, dict[str, Any] | None] = {"bf16": None, "4-bit": {"group_size": 64, "bits": 4}}
DECODED = 48
# Beside the weights, for the run at the largest safe context: enough for tens of thousands of tokens.
GPU_SPARE, CPU_SPARE = 6_000_000_000, 700_000_000
HEAD = [
    "model",
    "weights",
    "context",
    "predicted GB",
    "weights, states, transients",
    "measured GB",
    "ratio",
]
SPEED_HEAD = ["model", "weights", "context", "decode tok/s", "predicted", "prefill tok/s", "predicted"]
LIMIT_HEAD = ["model", "weights", "budget GB", "largest safe context", "measured GB", "1.15 times that"]


@dataclass(frozen=True, slots=True)
class Seen:
    context: int
    predicted: int
    parts: tuple[int, int, int]
    measured: int
    decode: float
    prefill: float
    predicted_decode: float | None
    predicted_prefill: float | None


@dataclass(frozen=True, slots=True)
class Limit:
    budget: int
    context: int
    measured: int
    beyond: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fit", description=__doc__)
    parser.add_argument("--shapes", help="comma-separated, on a GPU; all by default")
    parser.add_argument("--contexts", help="comma-separated; 2048,8192,32768 on a GPU")
    parser.add_argument("--json", type=Path, help="also write the raw figures here")
    args = parser.parse_args()
    contexts = tuple(int(c) for c in args.contexts.split(",")) if args.contexts else None
    with tempfile.TemporaryDirectory() as folder:  # nothing learned here before corrects anything
        here = this_machine(Store(Path(folder, "learned.sqlite")))
    print(f"{described(mx)}; {here}\n", flush=True)
    raw = on_starter(here, contexts) if on_cpu() else on_shapes(here, contexts, args.shapes)
    if args.json:
        args.json.write_text(json.dumps(raw, indent=1))


def on_starter(here: Machine, contexts: tuple[int, ...] | None) -> list[Any]:
    from mlxone.hub.starter import starter

    return [show("starter", "as stored", *measure(starter(), here, contexts or CPU_CONTEXTS, CPU_SPARE))]


def on_shapes(here: Machine, contexts: tuple[int, ...] | None, shapes: str | None) -> list[Any]:
    from bench.random_models import SHAPES, save_random_model

    raw = []
    for shape in shapes.split(",") if shapes else SHAPES:
        for packing, quantization in PACKINGS.items():
            folder = Path(tempfile.mkdtemp(prefix="mlxone-bench-"))
            try:
                save_random_model(folder, SHAPES[shape], quantization=quantization)
                found = measure(folder, here, contexts or GPU_CONTEXTS, GPU_SPARE)
                raw.append(show(shape, packing, *found))
            finally:
                shutil.rmtree(folder)
    return raw


def measure(folder: Path, here: Machine, contexts: tuple[int, ...], spare: int) -> tuple[list[Seen], Limit]:
    facts = read_facts(folder, Config.read(folder))
    case = Case(facts, here, weight_rule(here)(facts.wide_bytes))
    _clear()
    before = mx.get_active_memory()
    decoder = load_decoder(folder)
    run(decoder, 300, 8)  # brings the weights in
    seen = []
    for context in contexts:
        peak, decode_tps, prefill_tps = run(decoder, context - DECODED, DECODED)
        needs = case.needs(Work(context))
        speeds = case.speeds(Work(context))
        parts = (needs.weights_bytes, needs.kv_bytes, needs.transient_bytes)
        seen.append(Seen(context, needs.total_bytes, parts, peak - before, decode_tps, prefill_tps, *speeds))
    return seen, at_the_limit(decoder, case, before, spare)


def at_the_limit(decoder: Decoder, case: Case, before: int, spare: int) -> Limit:
    budget = case.needs(Work(1)).weights_bytes + spare
    context = case.max_context(Work(), budget)
    peak, _, _ = run(decoder, context - DECODED, DECODED)
    answer = Admission(case, budget).admit(round(context * 1.15) - DECODED, DECODED)
    beyond = "admitted" if answer else f"refused: {answer.reason}"  # type: ignore[union-attr]
    return Limit(budget, context, peak - before, beyond)


def run(decoder: Decoder, prompt: int, count: int) -> tuple[int, float, float]:
    """Peak bytes, and tokens a second of decoding and reading."""
    _clear()
    mx.reset_peak_memory()
    ids = [(i * 7919) % decoder.spec.vocab_size for i in range(prompt)]
    row = Row(decoder, ids, decoder.new_state(), Sampling(), seed=0)
    start = time.perf_counter()
    for _ in prefill(row, Work().prefill_step):
        pass
    steps = decode(row, count)
    next(steps)
    first = time.perf_counter()
    for _ in steps:
        pass
    end = time.perf_counter()
    return mx.get_peak_memory(), (count - 1) / (end - first), prompt / (first - start)


def _clear() -> None:
    gc.collect()
    mx.clear_cache()


def show(model: str, packing: str, seen: list[Seen], limit: Limit) -> dict[str, Any]:
    rows, speeds = [], []
    for s in seen:
        parts = "  ".join(f"{part / 1e9:.2f}" for part in s.parts)
        ratio = s.predicted / s.measured
        rows.append(
            [
                model,
                packing,
                s.context,
                f"{s.predicted / 1e9:.2f}",
                parts,
                f"{s.measured / 1e9:.2f}",
                f"{ratio:.3f}",
            ]
        )
        speeds.append(
            [model, packing, s.context, f"{s.decode:.1f}", _speed(s.predicted_decode), f"{s.prefill:.0f}",
             _speed(s.predicted_prefill)]
        )  # fmt: skip
    end = [
        model,
        packing,
        f"{limit.budget / 1e9:.2f}",
        limit.context,
        f"{limit.measured / 1e9:.2f}",
        limit.beyond,
    ]
    for head, lines in ((HEAD, rows), (SPEED_HEAD, speeds), (LIMIT_HEAD, [end])):
        print(table(head, lines) + "\n", flush=True)
    return {"model": model, "packing": packing, "seen": [asdict(s) for s in seen], "limit": asdict(limit)}


def _speed(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
