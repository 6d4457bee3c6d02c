"""Peak memory of a training step by length, as one SVG that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 380, 64, 64, 176, 48
STYLE = """
text { font-family: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif;
font-size: 12px; fill: #1a222d; }
.title { font-size: 16px; font-weight: 650; } .dim { fill: #566171; font-size: 11px; }
.paper { fill: #ffffff; } .grid { stroke: #e2e6ec; } .line { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) { text { fill: #eef3f8; } .dim { fill: #a3afbd; }
.paper { fill: #12161c; } .grid { stroke: #262d37; } }
"""
COLOURS = ("#1f7a46", "#6fc283", "#b3541e", "#e3a06f", "#2b5f9e", "#86afdd")

Points = Mapping[str, Sequence[tuple[int, float]]]  # what it is -> (length, GB), rising


def points(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Of the lines that carry a peak of one text: `bench.train gpu` says them."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        if "peak" in line and "side" in line and line["batch"] == 1:
            again = ", recomputed" if line["segment"] else ""
            found.setdefault(f"{line['model']}, {line['side']}{again}", {})[line["length"]] = (
                line["peak"] / 1e9
            )
    return {name: sorted(values.items()) for name, values in sorted(found.items())}


def svg(drawn: Points, title: str = "Peak memory of a training step, by length of the text") -> str:
    """Both axes grow by doubling: what doubles with the length is a straight line."""
    lengths = [length for values in drawn.values() for length, _ in values]
    sizes = [size for values in drawn.values() for _, size in values]
    if not lengths:
        raise ValueError("there is no peak to draw")
    across = _Axis(min(lengths), max(lengths), LEFT, WIDTH - RIGHT)
    up = _Axis(min(sizes), max(sizes), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="24" y="34">{escape(title)}</text>',
    ]
    for mark in up.marks():
        y = up.place(mark)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="dim" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{mark:g} GB</text>')
    for mark in across.marks():
        x = across.place(mark)
        words = f'<text class="dim" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
        parts.append(f"{words}{mark:,.0f}</text>")
    last = 0.0
    ends = sorted(drawn.items(), key=lambda item: up.place(item[1][-1][1]))
    for number, (name, values) in enumerate(ends):
        colour = COLOURS[list(drawn).index(name) % len(COLOURS)]
        way = " ".join(f"{across.place(x):.1f},{up.place(y):.1f}" for x, y in values)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{way}"/>')
        parts += [
            f'<circle cx="{across.place(x):.1f}" cy="{up.place(y):.1f}" r="3" fill="{colour}">'
            f"<title>{escape(name)}: {y:.2f} GB at {x:,}</title></circle>"
            for x, y in values
        ]
        last = max(up.place(values[-1][1]) + 4, last + 15 if number else 0.0)  # names never overlap
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{last:.1f}" style="fill: {colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """Powers of two from one place to the other."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = math.floor(math.log2(low)), math.ceil(math.log2(high))
        self.high += self.low == self.high
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        return self.start + (math.log2(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self) -> list[float]:
        return [2.0**power for power in range(self.low, self.high + 1)]
