"""The losses of a run as one picture: an SVG that needs nothing beside itself.

Steps run to the right. What was learned from is a line with a smoother one through it, what was held back
another with a dot at each measurement. Drawn like the picture of `fit`, in the reader's light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mlxone.fitting.plot import DARK, LIGHT, STYLE, escaped, label

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 72, 44
LEGEND_STEP = 110
NAMES = {"train": "train", "valid": "valid"}
COLOURS = {"train": ("#2563b0", "#7db4f5"), "valid": ("#b45309", "#f5b25c"), "grid": ("#e2e6ec", "#262d37")}
SMOOTHING = 0.9  # how much of a smooth line comes from the points before
FEWEST_SMOOTHED = 20

Points = Sequence[tuple[float, float]]  # step, loss


def svg(train: Points, valid: Points, title: str = "Loss") -> str:
    """Points that are no number leave a gap."""
    lines = {"train": _finite(train), "valid": _finite(valid)}
    frame = _Frame([point for points in lines.values() for point in points])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(title)}">',
        f"<title>{escaped(title)}</title>",
        f"<style>{STYLE}{_style()}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        label(LEFT, 34, "title ink", title),
        *_legend([name for name in NAMES if lines[name]]),
        *frame.grid(),
        *_train(frame, lines["train"]),
        *_valid(frame, lines["valid"]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Frame:
    """From steps and losses to places in the picture."""

    def __init__(self, points: Points) -> None:
        steps, losses = [step for step, _ in points], [loss for _, loss in points]
        self._steps = _ticks(min(steps, default=0), max(steps, default=1))
        self._losses = _ticks(min(losses, default=0), max(losses, default=1))

    def place(self, step: float, loss: float) -> tuple[float, float]:
        return self._x(step), self._y(loss)

    def grid(self) -> Iterator[str]:
        for loss in self._losses:
            y = self._y(loss)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield label(LEFT - 8, round(y + 4, 1), "small dim end", f"{loss:.4g}")
        for step in self._steps:
            yield label(round(self._x(step), 1), HEIGHT - BOTTOM + 18, "small dim mid", f"{step:,.4g}")
        yield label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "small dim mid", "step")

    def _x(self, step: float) -> float:
        return LEFT + _share(step, self._steps) * (WIDTH - LEFT - RIGHT)

    def _y(self, loss: float) -> float:
        return HEIGHT - BOTTOM - _share(loss, self._losses) * (HEIGHT - TOP - BOTTOM)


def _train(frame: _Frame, points: Points) -> Iterator[str]:
    if not points:
        return
    if len(points) < FEWEST_SMOOTHED:
        yield _line(frame, points, "train")
        return
    yield _line(frame, points, "train faint")
    yield _line(frame, _smooth(points), "train")


def _valid(frame: _Frame, points: Points) -> Iterator[str]:
    if points:
        yield _line(frame, points, "valid")
    for step, loss in points:
        x, y = frame.place(step, loss)
        hint = f"<title>{escaped(f'step {step:,.0f}: valid loss {loss:.4f}')}</title>"
        yield f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3">{hint}</circle>'


def _line(frame: _Frame, points: Points, classes: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.place(*point) for point in points))
    return f'<polyline class="{classes}" points="{places}"/>'


def _smooth(points: Points) -> Points:
    """The mean of all before, later ones counting more: without a pull towards where it began."""
    smoothed, total, weight = [], 0.0, 0.0
    for step, loss in points:
        total, weight = SMOOTHING * total + loss, SMOOTHING * weight + 1
        smoothed.append((step, total / weight))
    return smoothed


def _legend(names: Sequence[str]) -> Iterator[str]:
    for at, name in enumerate(names):
        left = LEFT + at * LEGEND_STEP
        yield f'<line class="{name}" x1="{left}" x2="{left + 20}" y1="52" y2="52"/>'
        yield label(left + 27, 56, "small dim", NAMES[name])


def _style() -> str:
    lines = (
        ".train, .valid { fill: none; stroke-width: 2; stroke-linejoin: round; }\n.faint { opacity: 0.35; }\n"
    )
    lines += ".grid { stroke-width: 1; }\n.mid { text-anchor: middle; }\n.end { text-anchor: end; }\n"
    light, dark = (_scheme(colours, at) for at, colours in enumerate((LIGHT, DARK)))
    return f"{lines}{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _scheme(fills: dict[str, str], at: int) -> str:
    rules = [f".{name} {{ fill: {colour}; }}" for name, colour in fills.items()]
    rules += [f".{name} {{ stroke: {colours[at]}; }}" for name, colours in COLOURS.items()]
    return " ".join([*rules, f".dot {{ fill: {COLOURS['valid'][at]}; }}"])


def _finite(points: Points) -> Points:
    return [point for point in points if math.isfinite(point[1])]


def _share(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, four to eight or so."""
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size or not size:  # flat, as far as numbers can tell
        low, high = low - max(size / 10, 0.5), high + max(size / 10, 0.5)
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [at * step for at in range(first, last + 1)]
