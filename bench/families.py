"""python -m bench.families [--models …] [--packings …]: mlxone beside mlx-lm, one family after another.

Random weights at published sizes on one GPU, made in its memory. Each system is alone there when its peak
and its logits are taken; then both are loaded and take turns with the same prompt. GPU time is short: the
cases come by importance, each has its share of the seconds left, and every figure is said, and with --json
appended to a file, the moment it is there. `--report` prints the table of such files again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.family_figures import HEAD, SIDES, Seen, read_back, report
from bench.family_shapes import MODELS, ORDER
from bench.figures import table
from bench.sides import Generate, drive_mlx_lm, drive_mlxone, time_once

if TYPE_CHECKING:
    from bench.family_models import RandomModel

PACKINGS = ("4-bit", "bf16")
FEWEST_SECONDS = 20.0  # with less left, a case is not begun
FEWEST_ROUNDS, MOST_COMPARED, STEPS_COMPARED = 3, 1100, 4

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    count: int
    size: str
    deadline: float


def main() -> None:
    args = _arguments()
    if args.report:
        print(report(read_back(args.report)))
        return
    if args.size == "tiny":
        os.environ.setdefault("MLXONE_CPU", "native")  # the same BLAS for both; settled at import
    from bench.__main__ import machine, version_of_ours
    from mlxone.backend.arrays import mx

    say = _sayer(args.json)
    say({"mlxone": version_of_ours(), "machine": machine(mx), "size": args.size})
    if args.profile:
        from bench.family_profile import profile

        profile(args.profile, args.packings.split(",")[0], args.size, say)
        return
    plan = Plan(args.rounds, args.count, args.size, time.perf_counter() + args.seconds)
    found = measure(_cases(args.models.split(","), args.packings.split(",")), plan, say)
    print("\n" + report(found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.families", description=__doc__)
    parser.add_argument("--models", default=",".join(ORDER), help="comma-separated, by importance")
    parser.add_argument("--packings", default=",".join(PACKINGS), help="4-bit, bf16 or both")
    parser.add_argument("--seconds", type=float, default=560, help="no case is begun when these are over")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each system at most")
    parser.add_argument("--count", type=int, default=96, help="tokens decoded in a turn")
    parser.add_argument("--json", type=Path, help="append every figure to this file, a line each")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--cut", dest="size", action="store_const", const="cut", help="few layers, true sizes")
    sizes.add_argument(
        "--tiny", dest="size", action="store_const", const="tiny", help="small ones, for a CPU"
    )
    parser.set_defaults(size="full")
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help="the table of earlier calls")
    parser.add_argument("--profile", metavar="MODEL", help="where a step of ours spends its time, instead")
    args = parser.parse_args()
    for name in (*args.models.split(","), *([args.profile] if args.profile else [])):
        if name not in MODELS:
            parser.error(f"no model {name!r}; there are {', '.join(MODELS)}")
    for packing in args.packings.split(","):
        if packing not in PACKINGS:
            parser.error(f"no packing {packing!r}; there are {', '.join(PACKINGS)}")
    return args


def _sayer(file: Path | None) -> Say:
    def say(line: dict[str, Any]) -> None:
        text = json.dumps(line, default=str)
        print(text, flush=True)
        if file:
            with file.open("a") as lines:
                lines.write(text + "\n")

    return say


def _cases(models: Sequence[str], packings: Sequence[str]) -> list[tuple[str, str]]:
    """All models in the first packing, then all in the second."""
    return [(m, packing) for packing in packings for m in models if packing in MODELS[m].packings]


def measure(cases: Sequence[tuple[str, str]], plan: Plan, say: Say) -> list[Seen]:
    found = []
    for number, (model, packing) in enumerate(cases):
        left = plan.deadline - time.perf_counter()
        if left < FEWEST_SECONDS:
            say({"skipped": [model, packing], "seconds_left": round(left, 1)})
            continue
        seen = Seen(model, packing, 40 if plan.size == "tiny" else MODELS[model].prompt)
        found.append(seen)
        _about(seen, say)({"prompt": seen.prompt})
        until = time.perf_counter() + left / (len(cases) - number)
        try:
            _one_case(seen, plan, until, _about(seen, say))
        except Exception as error:  # noqa: BLE001 - MLX raises all sorts, and the rest shall still be measured
            traceback.print_exc()
            say({"failed": [model, packing], "error": f"{type(error).__name__}: {error}"[:400]})
        _freed()
        print(table(HEAD, seen.rows()), flush=True)
    return found


def _about(seen: Seen, say: Say) -> Say:
    def taken(line: dict[str, Any]) -> None:
        seen.take(line)
        say({"model": seen.model, "weights": seen.packing} | line)

    return taken


def _one_case(seen: Seen, plan: Plan, until: float, say: Say) -> None:
    from bench.family_models import RandomModel

    made = RandomModel(MODELS[seen.model].sized(plan.size), seen.packing)
    most = made.config.get("text_config", made.config)["vocab_size"]
    ids = [10 + (i * 7919) % (most - 20) for i in range(seen.prompt)]
    expected = _alone(made, "mlx-lm", ids, say)
    got = _alone(made, "mlxone", ids, say)
    say(
        {
            "largest_difference": _largest_difference(got, expected),
            "logits_compared": sum(a.shape[1] for a in got),
        }
    )
    del got, expected
    _freed()
    _take_turns(made, ids, plan, until, say)


def _open(made: RandomModel, side: str) -> tuple[Any, Generate]:
    if side == "mlxone":
        decoder = made.for_mlxone()
        return decoder, drive_mlxone(decoder)
    model = made.for_mlx_lm()
    return model, drive_mlx_lm(model)


def _alone(made: RandomModel, side: str, ids: list[int], say: Say) -> list[Any]:
    """Its peak above what was in memory before it was loaded, and its logits."""
    from mlxone.backend.arrays import mx

    _freed()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = time.perf_counter()
    model, generate = _open(made, side)
    loaded, load_peak = time.perf_counter() - start, mx.get_peak_memory() - before
    start = time.perf_counter()
    time_once(generate, ids, 8)  # kernels are compiled at their first use
    warm = time.perf_counter() - start
    _freed()
    weights = mx.get_active_memory() - before
    mx.reset_peak_memory()
    time_once(generate, ids, 16)
    peak = mx.get_peak_memory() - before
    say({"side": side, "peak": peak, "weights_bytes": weights, "load_peak": load_peak,
         "load_s": round(loaded, 2), "warm_s": round(warm, 2)})  # fmt: skip
    return list(_logits(side, model, ids))


def _logits(side: str, model: Any, ids: list[int]) -> Iterator[Any]:
    """Prefill in two chunks and a few steps, every logit of them."""
    from mlx_lm.models.cache import make_prompt_cache

    from mlxone.backend.arrays import mx, on_stream

    ids = ids[:MOST_COMPARED]
    cut = len(ids) * 2 // 3
    chunks = [ids[:cut], ids[cut:], *([i] for i in ids[:STEPS_COMPARED])]
    if side == "mlx-lm":
        cache = make_prompt_cache(model)
        for chunk in chunks:
            logits = model(mx.array([chunk]), cache=cache)
            mx.eval(logits)
            yield logits
        return
    state = model.new_state()
    for chunk in chunks:
        with on_stream():
            logits = model.logits(model.hidden(mx.array([chunk]), state))
            mx.eval(logits)
        yield logits


def _largest_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """0 only where every logit is equal; not a number where one of them is not."""
    from mlxone.backend.arrays import mx

    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if bool(mx.isnan(a).any()) or bool(mx.isnan(b).any()):
            return float("nan")
        if a.dtype != b.dtype or not bool(mx.array_equal(a, b)):
            apart: Any = mx.abs(a.astype(mx.float32) - b.astype(mx.float32)).max().item()
            worst = max(worst, apart or 1e-30)
    return worst


def _take_turns(made: RandomModel, ids: list[int], plan: Plan, until: float, say: Say) -> None:
    """Both in memory where they fit; else each is loaded anew for its turn."""
    together = 2.4 * made.bytes < _memory_size()
    held: dict[str, tuple[Any, Generate]] = {}
    for number in range(plan.rounds):
        for side in sorted(SIDES, reverse=number % 2 == 1):  # who goes first takes turns, too
            if side not in held:
                if not together:
                    held.clear()
                    _freed()
                held[side] = _open(made, side)
            # An untimed turn first, from an empty buffer cache: neither is timed on what the other left.
            _freed()
            time_once(held[side][1], ids, 4)
            run = time_once(held[side][1], ids, plan.count)
            say({"side": side, "prefill_tps": run.prefill_tps, "decode_tps": run.decode_tps})
        now = time.perf_counter()
        if number + 1 >= FEWEST_ROUNDS and now > until:
            break


def _memory_size() -> int:
    from mlxone.backend.arrays import mx

    info = mx.device_info()
    return int(info.get("memory_size") or info.get("total_memory") or 1 << 62)


def _freed() -> None:
    from mlxone.backend.arrays import mx

    gc.collect()
    mx.clear_cache()


if __name__ == "__main__":
    main()
