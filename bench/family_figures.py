"""What `bench.families` found: its rows, its bars, and the lines of JSON that it is read back from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.family_shapes import OWN_PACKING
from bench.figures import median, ratio, shown, table

HEAD = ["model", "weights", "what", "mlxone", "mlx-lm", "mlxone / mlx-lm (95 % interval)", "bar"]
SIDES = ("mlxone", "mlx-lm")
GEOMEAN_BAR = 1.03


@dataclass(slots=True)
class Seen:
    model: str
    packing: str
    prompt: int
    speeds: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: {what: {side: [] for side in SIDES} for what in ("prefill", "decode")}
    )
    peaks: dict[str, int] = field(default_factory=dict)
    difference: float | None = None

    def take(self, line: dict[str, Any]) -> None:
        """One figure, as it was said."""
        side = line.get("side")
        if "peak" in line:
            self.peaks[side] = line["peak"]
        if "decode_tps" in line:
            self.speeds["prefill"][side].append(line["prefill_tps"])
            self.speeds["decode"][side].append(line["decode_tps"])
        self.difference = line.get("largest_difference", self.difference)

    def pairs(self, what: str) -> tuple[list[float], list[float]]:
        """A case that was cut off leaves one side a turn ahead."""
        ours, theirs = (self.speeds[what][side] for side in SIDES)
        count = min(len(ours), len(theirs))
        return ours[:count], theirs[:count]

    def rows(self) -> list[list[object]]:
        packing = OWN_PACKING.get(self.model, self.packing) if self.packing == "4-bit" else self.packing
        return [[self.model, packing, *row] for row in (*self._speed_rows(), *self._other_rows())]

    def _speed_rows(self) -> Iterable[list[object]]:
        for what, label in (("prefill", f"prefill of {self.prompt:,}, tok/s"), ("decode", "decode, tok/s")):
            ours, theirs = self.pairs(what)
            if ours:
                middles = [f"{median(ours):.0f}", f"{median(theirs):.0f}"]
                reaches = ratio(ours, theirs)[2] >= 1
                yield [label, *middles, shown(ours, theirs), judged("reaches 1", reaches)]

    def _other_rows(self) -> Iterable[list[object]]:
        if len(self.peaks) == len(SIDES):
            ours, theirs = (self.peaks[side] for side in SIDES)
            sizes = [f"{ours / 1e9:.2f}", f"{theirs / 1e9:.2f}"]
            yield ["peak memory, GB", *sizes, f"{ours / theirs:.3f}", judged("<= 1", ours <= theirs)]
        if self.difference is not None:
            same = self.difference == 0
            yield ["equal logits", "yes" if same else "no", f"largest difference {self.difference:g}", "",
                   judged("equal", same)]  # fmt: skip


def judged(bar: str, met: bool) -> str:
    return f"{bar}: {'met' if met else 'missed'}"


def report(found: Sequence[Seen]) -> str:
    rows = [row for seen in found for row in seen.rows()]
    return f"{table(HEAD, rows)}\n\n{summary(found)}"


def summary(found: Sequence[Seen]) -> str:
    """The geometric mean over all speeds, and which bars were missed."""
    logs = {
        what: [math.log(ratio(*seen.pairs(what))[0]) for seen in found if seen.pairs(what)[0]]
        for what in ("prefill", "decode")
    }
    lines = []
    if every := logs["prefill"] + logs["decode"]:
        means = {k: math.exp(sum(v) / len(v)) for k, v in (logs | {"both": every}).items()}
        words = ", ".join(f"{what} {value:.3f}" for what, value in means.items())
        verdict = judged(f">= {GEOMEAN_BAR}", means["both"] >= GEOMEAN_BAR)
        lines.append(f"geometric mean of mlxone / mlx-lm: {words} ({verdict})")
    missed = [row for seen in found for row in seen.rows() if str(row[-1]).endswith("missed")]
    lines += [f"missed: {', '.join(map(str, row[:3]))}: {row[5] or row[4]}" for row in missed]
    return "\n".join(lines or ["no bar is missed, and no speed was measured"])


def read_back(files: Sequence[Path]) -> list[Seen]:
    """What was said in earlier calls, each case once; what failed or was skipped is not among it."""
    cases: dict[tuple[str, str], Seen] = {}
    for file in files:
        for line in map(json.loads, file.read_text().splitlines()):
            key = (line.get("model"), line.get("weights"))
            if "prompt" in line:  # a case begins; begun again, only the last time counts
                cases[key] = Seen(*key, line["prompt"])
            elif key in cases:
                cases[key].take(line)
    return list(cases.values())
