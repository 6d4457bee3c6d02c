"""The matrix of chips and memory sizes as one picture: an SVG that needs nothing beside itself.

Chips stand below each other, memory sizes beside each other; a cell says how much context is safe and how
fast tokens come. Colours follow the reader's light or dark setting and say nothing that words do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

CELL_WIDTH, CELL_HEIGHT, GAP = 66, 34, 3
MARGIN, NAMES_WIDTH, HEAD_HEIGHT, LEGEND_HEIGHT = 24, 136, 84, 64
FAMILY_GAP = 9  # between the rows of one generation of chips and the next
LEGEND_STEP = 128
CAPTION = "Largest safe context and tokens a second, by chip and GB of memory. Empty: no such machine."

# How much context is safe: from how many tokens, and its colour in light and in dark.
SHADES = (
    (0, "less than 8K", "#fbeec9", "#57461a"),
    (8 << 10, "8K and more", "#d9efcf", "#2c4a2e"),
    (32 << 10, "32K and more", "#a9dca8", "#2a633c"),
    (128 << 10, "128K and more", "#6fc283", "#1f7a46"),
)
REFUSED = ("does not fit", "#e2e6ec", "#262d37")

STYLE = """
text { font-family: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
.title { font-size: 17px; font-weight: 650; }
.head, .name { font-size: 12px; font-weight: 600; }
.big { font-size: 12px; font-weight: 600; }
.small { font-size: 10px; }
"""
LIGHT = {"paper": "#ffffff", "ink": "#1a222d", "dim": "#566171", "row": "#f7f8fa"}
DARK = {"paper": "#12161c", "ink": "#eef3f8", "dim": "#a3afbd", "row": "#171c23"}


@dataclass(frozen=True, slots=True)
class Cell:
    chip: str  # as the row shall be called
    memory_gb: int
    fits: bool
    max_context: int | None  # tokens, the largest that is safe; None where nothing fits
    decode_tps: float | None  # None where speed cannot be predicted


def svg(matrix: Sequence[Cell], title: str = "What fits where") -> str:
    """Chips in the order they come, memory sizes rising; what is not sold stays empty."""
    chips = list(dict.fromkeys(cell.chip for cell in matrix))
    sizes = sorted({cell.memory_gb for cell in matrix})
    tops = _row_tops(chips)
    bottom = max([HEAD_HEIGHT, *tops.values()]) + CELL_HEIGHT
    width, height = _width(len(sizes), title), bottom + LEGEND_HEIGHT
    lefts = {size: MARGIN + NAMES_WIDTH + i * (CELL_WIDTH + GAP) for i, size in enumerate(sizes)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img" aria-label="{escaped(title)}">',
        f"<title>{escaped(title)}</title>",
        f"<style>{STYLE}{_colours()}</style>",
        f'<rect class="paper" width="{width}" height="{height}" rx="8"/>',
        label(MARGIN, 38, "title ink", title),
        label(MARGIN, 57, "small dim", CAPTION),
        *(
            label(left + CELL_WIDTH / 2, HEAD_HEIGHT - 8, "head dim mid", size)
            for size, left in lefts.items()
        ),
        *(_box("row", MARGIN - 8, top, width - 2 * MARGIN + 16) for top in tops.values()),
        *(label(MARGIN, top + 21, "name ink", chip) for chip, top in tops.items()),
        *(_cell(lefts[cell.memory_gb], tops[cell.chip], cell) for cell in matrix),
        *_legend(bottom + 26),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _row_tops(chips: Sequence[str]) -> dict[str, int]:
    """Where each row begins: a little lower where a new generation does (the name's first word)."""
    tops: dict[str, int] = {}
    top, family = HEAD_HEIGHT, None
    for chip in chips:
        first = chip.partition(" ")[0]
        top += FAMILY_GAP if family not in (None, first) else 0
        tops[chip], family = top, first
        top += CELL_HEIGHT + GAP
    return tops


def _width(columns: int, title: str) -> int:
    """Wide enough for the cells, the legend and, about, the title."""
    cells = NAMES_WIDTH + columns * (CELL_WIDTH + GAP) - GAP
    legend = (len(SHADES) + 1) * LEGEND_STEP
    return 2 * MARGIN + max(cells, legend, 9 * len(title))


def _cell(left: float, top: float, cell: Cell) -> str:
    box = _box(_shade(cell), left, top, CELL_WIDTH)
    speed = "" if cell.decode_tps is None or not cell.fits else f"{_figures(cell.decode_tps)} tok/s"
    middle = left + CELL_WIDTH / 2
    lines = [label(middle, top + (15 if speed else 21), "big ink mid", _verdict(cell))]
    if speed:
        lines.append(label(middle, top + 27, "small ink mid", speed))
    hint = f"{cell.chip}, {cell.memory_gb} GB: {_verdict(cell)}" + (f", {speed}" if speed else "")
    return f"<g><title>{escaped(hint)}</title>{box}{''.join(lines)}</g>"


def _box(shade: str, left: float, top: float, width: float) -> str:
    return f'<rect class="{shade}" x="{left}" y="{top}" width="{width}" height="{CELL_HEIGHT}" rx="4"/>'


def _verdict(cell: Cell) -> str:
    if cell.fits:
        return "fits" if cell.max_context is None else _tokens(cell.max_context)
    return f"only {_tokens(cell.max_context)}" if cell.max_context else "no"


def _shade(cell: Cell) -> str:
    if not cell.fits:
        return "no"
    context = cell.max_context or 0
    return f"s{max(i for i, shade in enumerate(SHADES) if context >= shade[0])}"


def _tokens(count: int) -> str:
    """Rounded down: what is shown has to be safe."""
    for unit, name in ((1 << 20, "M"), (1 << 10, "K")):
        if count >= unit:
            whole, rest = divmod(count * 10 // unit, 10)
            return f"{whole}.{rest}{name}" if rest and whole < 10 else f"{whole}{name}"
    return str(count)


def _figures(speed: float) -> str:
    return f"{speed:.1f}" if speed < 9.95 else f"{speed:.0f}"


def _legend(top: float) -> Iterator[str]:
    words = [*((f"s{i}", shade[1]) for i, shade in enumerate(SHADES)), ("no", REFUSED[0])]
    for i, (shade, meaning) in enumerate(words):
        left = MARGIN + i * LEGEND_STEP
        yield f'<rect class="{shade}" x="{left}" y="{top}" width="14" height="14" rx="3"/>'
        yield label(left + 20, top + 11, "small dim", meaning)


def _colours() -> str:
    fills = [(f"s{i}", light, dark) for i, (_, _, light, dark) in enumerate(SHADES)]
    fills += [("no", *REFUSED[1:]), *((name, LIGHT[name], DARK[name]) for name in LIGHT)]
    light, dark = (" ".join(f".{fill[0]} {{ fill: {fill[i]}; }}" for fill in fills) for i in (1, 2))
    return f".mid {{ text-anchor: middle; }}\n{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def label(x: float, y: float, classes: str, words: object) -> str:
    return f'<text x="{x}" y="{y}" class="{classes}">{escaped(words)}</text>'


def escaped(words: object) -> str:
    """Escaped; characters that XML forbids even escaped are left out."""
    return escape("".join(c for c in str(words) if c.isprintable()))
