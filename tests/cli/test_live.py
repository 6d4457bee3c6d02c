"""The live part of the terminal, looked at through a terminal emulator."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.blocks import Block
from mlxone.cli.live import Line, LiveRegion, MarkdownScreen

COLUMNS, ROWS = 20, 6


class Terminal:
    """Keeps what scrolled away, as a real one does."""

    def __init__(self, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self.screen.set_mode(pyte.modes.LNM)  # a newline returns too, as the tty driver makes it
        self._stream = pyte.Stream(self.screen)
        self.written = ""

    def write(self, text: str) -> None:
        self.written += text
        self._stream.feed(text)

    def lines(self) -> list[str]:
        gone = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        lines = [line.rstrip() for line in [*gone, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines


def wrap(block: Block, width: int) -> list[Line]:
    """Stands in for rich: each line is cut to the width."""
    rows = (
        line[at : at + width] for line in block.text.split("\n") for at in range(0, len(line) or 1, width)
    )
    return [Line(row, len(row)) for row in rows]


def screen_on(terminal: Terminal, clock: Callable[[], float] | None = None) -> MarkdownScreen:
    size = lambda: (terminal.screen.columns, terminal.screen.lines)  # noqa: E731
    ticks = itertools.count()  # every look at the clock is a second later: each piece is shown
    return MarkdownScreen(terminal.write, wrap, size, clock or (lambda: float(next(ticks))))


def lines_of(text: str) -> list[Line]:
    return [Line(line, len(line)) for line in text.split("\n")]


@given(st.lists(st.text("ab\n", max_size=30), min_size=1, max_size=6))
def test_the_region_shows_its_last_update_and_nothing_else(texts):
    terminal, region = Terminal(), LiveRegion()
    terminal.write("above\n")
    for text in texts:
        shown = lines_of(text)[-(ROWS - 1) :]
        terminal.write(region.update([Line(x.text[:19], x.cells) for x in shown], COLUMNS))
        expected = ["above", *(x.text[:19] for x in shown)]
        while not expected[-1]:
            expected.pop()
        assert terminal.lines() == expected


def test_only_what_changed_is_written():
    region = LiveRegion()
    region.update(lines_of("same\nold\nlast"), COLUMNS)
    again = region.update(lines_of("same\nnew\nlast"), COLUMNS)
    assert "same" in LiveRegion().update(lines_of("same"), COLUMNS)
    assert "same" not in again
    assert "new" in again


@given(
    st.lists(
        st.sampled_from(["word ", "two\n", "\n\n", "- item\n", "```\n", "x" * 45, "long line of text\n"]),
        min_size=1,
        max_size=40,
    )
)
def test_a_stream_ends_as_if_it_had_been_written_at_once(pieces):
    streamed, whole = Terminal(), Terminal()
    screen = screen_on(streamed)
    for piece in pieces:
        screen.feed(piece)
    screen.finish()
    at_once = screen_on(whole)
    at_once.feed("".join(pieces))
    at_once.finish()
    assert streamed.lines() == whole.lines()


def test_a_commit_leaves_nothing_of_a_taller_region():
    terminal, region = Terminal(), LiveRegion()
    terminal.write(region.update(lines_of("a\nb\nc"), COLUMNS))
    terminal.write(region.commit(lines_of("final"), COLUMNS))
    assert terminal.lines() == ["final"]
    terminal.write(region.commit(lines_of("next"), COLUMNS))
    assert terminal.lines() == ["final", "next"]


def test_another_width_rewrites_every_line():
    terminal, region = Terminal(), LiveRegion()
    terminal.write(region.update(lines_of("a\nb\nc"), COLUMNS + 9))
    terminal.write(region.update(lines_of("a\nb\nd"), COLUMNS))
    assert terminal.lines() == ["a", "b", "d"]


def test_an_answer_taller_than_the_screen_is_there_exactly_once():
    terminal = Terminal()
    screen = screen_on(terminal)
    text = "\n".join(f"line {n}" for n in range(40))
    for character in text + "\n\n```\n" + text.upper() + "\n```\nend":
        screen.feed(character)
    screen.finish()
    expected = [*text.split("\n"), "", "```", *text.upper().split("\n"), "```", "", "end"]
    assert terminal.lines() == expected


def test_finished_blocks_are_never_written_again():
    terminal = Terminal()
    screen = screen_on(terminal)
    screen.feed("first\n\n")
    before = len(terminal.written)
    for character in "second block\nof words":
        screen.feed(character)
    screen.finish()
    assert "first" not in terminal.written[before:]
    assert terminal.lines() == ["first", "", "second block", "of words"]


def test_a_terminal_made_narrower_keeps_every_line():
    terminal = Terminal(columns=40)
    screen = screen_on(terminal)
    screen.feed("a line of thirty-nine characters, no mo")
    # What a terminal that reflows would then show: two rows of twenty.
    narrow = Terminal()
    narrow.write("above\n" + "a line of thirty-nin\r\ne characters, no mo")
    terminal.screen, terminal._stream = narrow.screen, narrow._stream
    screen.feed("re")
    screen.finish()
    assert terminal.lines() == ["above", "a line of thirty-ni", "ne characters, no m", "ore"]


@pytest.mark.parametrize("render_seconds", [0.0, 0.1])
def test_rewriting_leaves_the_model_its_time(render_seconds):
    now = 0.0
    renders = 0

    def slow(block: Block, width: int) -> list[Line]:
        nonlocal now, renders
        now += render_seconds
        renders += 1
        return wrap(block, width)

    terminal = Terminal()
    screen = MarkdownScreen(terminal.write, slow, lambda: (COLUMNS, ROWS), lambda: now)
    while now < 10:
        screen.feed("x")
        now += 0.01
    assert renders * render_seconds <= 10 / 4 + render_seconds
    assert renders <= 10 / 0.05 + 1
    assert renders > 10
