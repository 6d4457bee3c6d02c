"""python -m bench.serve [--rounds N] [--only NAME] [--shapes …]: our server beside mlx_lm.server.

Each server is a process of its own on this machine, both are asked the same in turn by one small
client, and who goes first alternates. On a CPU the starter, on a GPU random weights at true shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import median, shown, table
from bench.serve_client import Messages, Streamed, ask, idle_connections, requests_per_second
from bench.serve_models import long_text, on_disk, random_model
from bench.serve_sides import OURS, THEIRS, Engine, Server, more_files, running, turns

NAMES = ("start", "first", "decode", "turns", "health", "idle")
PACKINGS: dict[str, dict[str, Any] | None] = {"4-bit": {"group_size": 64, "bits": 4}, "bf16": None}
SHAPES = "Llama-3.2-1B,Qwen3-4B"
HEAD = ["model", "what", "mlxone", "mlx-lm", "mlxone / mlx-lm (95 % interval)", "bar"]
OWN_HEAD = ["model", "what", "mlxone", "mlx-lm", "bar"]
CONNECTIONS = 1_000

Series = dict[str, list[float]]  # a side's figures, a round each


@dataclass(slots=True)
class Plan:
    rounds: int
    count: int  # tokens to decode
    prompt: int  # tokens of a conversation's first turn
    seconds: float  # of GET /health
    only: frozenset[str]
    on_cpu: bool
    alone: bool  # without mlx_lm.server, for what ours is compared with itself in


@dataclass(slots=True)
class Figures:
    """Raw figures by name; a ratio is taken within a round."""

    series: dict[str, Series] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, name: str, side: str, value: float) -> None:
        self.series[name][side].append(value)


def main() -> None:
    plan, args = _arguments()
    more_files()
    print(
        f"mlxone beside mlx_lm.server {version('mlx-lm')}, mlx {version('mlx')}, {_machine()}\n", flush=True
    )
    raw: dict[str, Any] = {}
    rows: list[list[Any]] = []
    own: list[list[Any]] = []
    for name, opened in _models(args, plan.on_cpu):
        with opened as folders, tempfile.TemporaryDirectory() as home:
            figures = measure(plan, folders, Path(home))
        raw[name] = figures.series
        rows += [[name, *row] for row in beside(figures, plan.on_cpu)]
        own += [[name, *row] for row in alone(figures)]
        print("\n\n".join(table(*part) for part in ((HEAD, rows), (OWN_HEAD, own)) if part[1]), flush=True)
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "serve.json").write_text(json.dumps(raw, indent=1))


def _arguments() -> tuple[Plan, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each system")
    parser.add_argument("--count", type=int, help="tokens to decode (32 on a CPU, 192 on a GPU)")
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of a conversation's first turn")
    parser.add_argument("--seconds", type=float, default=5.0, help="of GET /health")
    parser.add_argument("--only", choices=NAMES, action="append", help="may be repeated; all by default")
    parser.add_argument("--alone", action="store_true", help="ours without mlx_lm.server beside it")
    parser.add_argument("--model", type=Path, help="a folder other than the starter's, on a CPU")
    parser.add_argument("--shapes", default=SHAPES, help="comma-separated, on a GPU")
    parser.add_argument("--packings", default=",".join(PACKINGS), help="comma-separated, on a GPU")
    args = parser.parse_args()

    from mlxone.backend.arrays import on_cpu

    count = args.count or (32 if on_cpu() else 192)
    only = frozenset(args.only or NAMES)
    return Plan(args.rounds, count, args.prompt, args.seconds, only, on_cpu(), args.alone), args


def _machine() -> str:
    from bench.__main__ import machine
    from mlxone.backend.arrays import mx

    return machine(mx)


def _models(
    args: argparse.Namespace, on_cpu: bool
) -> list[tuple[str, AbstractContextManager[dict[str, Path]]]]:
    if on_cpu:
        from mlxone.hub.starter import starter

        folder = args.model or starter()
        return [("starter" if args.model is None else folder.name, on_disk(folder))]
    return [
        (f"{shape}, {packing}", random_model(shape, PACKINGS[packing]))
        for shape in args.shapes.split(",")
        for packing in args.packings.split(",")
    ]


# Measuring ----------------------------------------------------------------------------------------


def measure(plan: Plan, folders: dict[str, Path], home: Path) -> Figures:
    figures = Figures()
    if "start" in plan.only:
        for number in range(plan.rounds):
            for side in turns(sides_of(plan), number):
                with Server(side, folders[side], home) as server:
                    answer = ask(server.port, short(number), 1)
                figures.add("start", side, (answer.first - server.started) * 1e3)
    if plan.only - {"start"}:
        with running({side: folders[side] for side in sides_of(plan)}, home) as servers:
            for server in servers.values():  # kernels are compiled and weights read at their first use
                ask(server.port, short(999), 8)
            for name, step in (("first", _first), ("turns", _turns)):
                for number in range(plan.rounds if name in plan.only else 0):
                    step(plan, figures, servers, folders[OURS], number)
            if "decode" in plan.only:
                _decode(plan, figures, servers, folders[OURS])
            _connections(plan, figures, servers)
    return figures


def sides_of(plan: Plan) -> list[str]:
    return [OURS] if plan.alone else [OURS, THEIRS]


def short(number: int) -> Messages:
    return [{"role": "user", "content": f"Which city is number {number} on your list, and why?"}]


def endless(number: int) -> Messages:
    """What is answered at length."""
    return [{"role": "user", "content": f"Write a long story about a ship with {number + 3} sailors."}]


def _first(plan: Plan, figures: Figures, servers: dict[str, Server], folder: Path, number: int) -> None:
    for side in turns(tuple(servers), number):
        figures.add("first", side, ask(servers[side].port, short(number), 1).first_ms)


def _turns(plan: Plan, figures: Figures, servers: dict[str, Server], folder: Path, number: int) -> None:
    question = {"role": "user", "content": long_text(folder, plan.prompt, number)}
    for side in turns(tuple(servers), number):
        port = servers[side].port
        turn = _whole(ask(port, [question], plan.count), plan.count)
        said = {"role": "assistant", "content": turn.text}
        more = {"role": "user", "content": "Go on, please."}
        figures.add("first turn", side, turn.first_ms)
        figures.add("second turn", side, ask(port, [question, said, more], 1).first_ms)


def _decode(plan: Plan, figures: Figures, servers: dict[str, Server], folder: Path) -> None:
    engine = Engine(folder)
    try:
        engine.ask(short(999), 8)
        for number in range(plan.rounds):
            for side in turns((*servers, "in process"), number):
                messages = endless(number)
                if side in servers:
                    speed = _whole(ask(servers[side].port, messages, plan.count), plan.count).decode_tps
                else:
                    speed = engine.ask(messages, plan.count)["decode_tps"]
                figures.add("decode", side, speed)
    finally:
        engine.stop()


def _connections(plan: Plan, figures: Figures, servers: dict[str, Server]) -> None:
    if "health" in plan.only:
        for number in range(plan.rounds):
            for side in turns(tuple(servers), number):
                figures.add("health", side, requests_per_second(servers[side].port, plan.seconds))
    if "idle" in plan.only:
        ours = servers[OURS]
        before = ours.resident_bytes
        with idle_connections(ours.port, CONNECTIONS):
            figures.add("idle", OURS, (ours.resident_bytes - before) / 1e6)


def _whole(answer: Streamed, count: int) -> Streamed:
    if answer.tokens != count:  # an answer that ended by itself would be timed on less
        raise SystemExit(f"an answer has {answer.tokens} tokens, not {count}: choose another --count")
    return answer


# Showing --------------------------------------------------------------------------------------------


def beside(figures: Figures, on_cpu: bool) -> list[list[Any]]:
    bars = {"start": "<= 0.25", "first": "<= 0.15" if on_cpu else "<= 0.6"}
    names = {
        "start": "process start to first token, ms",
        "first": "first token of a short prompt, ms",
        "first turn": "first token of a long first turn, ms",
        "second turn": "first token of the second turn, ms",
        "decode": "decode over HTTP, tok/s",
        "health": "GET /health on one connection, a second",
    }
    rows: list[list[Any]] = []
    for key, name in names.items():
        if THEIRS in figures.series.get(key, {}):
            ours, theirs = figures.series[key][OURS], figures.series[key][THEIRS]
            bar = bars.get(key, "")
            rows.append([name, f"{median(ours):.1f}", f"{median(theirs):.1f}", shown(ours, theirs), bar])
    return rows


def alone(figures: Figures) -> list[list[Any]]:
    """What a side is compared with itself in."""
    series, rows = figures.series, []
    if "second turn" in series:
        first, second = series["first turn"], series["second turn"]
        ratios = [shown(second[side], first[side]) if side in second else "" for side in (OURS, THEIRS)]
        rows.append(["second turn / first turn", *ratios, "<= 0.15"])
    if "decode" in series:
        ratio = shown(series["decode"][OURS], series["decode"]["in process"])
        rows.append(["decode over HTTP / in process", ratio, "", ">= 0.97"])
    if "health" in series:
        health = series["health"]
        speeds = [f"{median(health[side]):.0f}" if side in health else "" for side in (OURS, THEIRS)]
        rows.append(["GET /health, a second", *speeds, ">= 2500"])
    if "idle" in series:
        rows.append([f"{CONNECTIONS:,} idle connections, MB", f"{series['idle'][OURS][0]:.1f}", "", "< 30"])
    return rows


if __name__ == "__main__":
    main()
