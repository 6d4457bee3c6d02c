"""The log and the bar below it, looked at through a terminal emulator."""

from __future__ import annotations

import io
import os
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.live import Line
from mlxone.cli.log_screen import LogScreen, writer
from tests.cli.test_live import Terminal

WORDS = st.text("ab ", min_size=1, max_size=50).map(lambda text: f"<{text}>")


def bar(*texts: str) -> list[Line]:
    return [Line(text, len(text)) for text in texts]


def plain(*lines: str, waiting: int = 100) -> str:
    out = io.StringIO()
    with LogScreen(out.write, live=False, waiting=waiting) as screen:
        for line in lines:
            screen.line(line)
        screen.bar(bar("never"))
    return out.getvalue()


def test_where_it_is_not_live_lines_are_all_there_is():
    assert plain("one", "two\nthree") == "one\ntwo\nthree\n"


def draw(terminal: Terminal, steps: list[tuple[bool, str]]) -> None:
    """The steps of a log with a bar, one by one: the thread may leave bars out."""
    screen = LogScreen(terminal.write, live=True, size=lambda: (terminal.screen.columns, 6))
    for is_bar, text in steps:
        terminal.write(screen._drawn(bar(text[:19], "second") if is_bar else text))


@given(st.lists(st.tuples(st.booleans(), WORDS), max_size=12))
def test_every_line_stays_once_and_the_last_bar_stands_below_them(steps: list[tuple[bool, str]]):
    terminal = Terminal()
    draw(terminal, steps)
    shown = terminal.lines()
    bars = [text[:19].rstrip() for is_bar, text in steps if is_bar]
    logged = [text for is_bar, text in steps if not is_bar]
    if bars:
        assert shown[-2:] == [bars[-1], "second"]
        shown = shown[:-2]
    # Long lines are wrapped by the terminal; their brackets say where each begins and ends.
    assert re.findall("<[^>]*>", "".join(line.ljust(20) for line in shown).replace(" ", "")) == [
        text.replace(" ", "") for text in logged
    ]


def test_the_bar_goes_at_the_end_and_the_lines_stay():
    terminal = Terminal(40)
    with LogScreen(terminal.write, live=True, size=lambda: (40, 6)) as screen:
        screen.bar(bar("working", "hard"))
        screen.line("one")
    assert terminal.lines() == ["one"]
    assert (terminal.screen.cursor.x, terminal.screen.cursor.y) == (0, 1)


def test_cleared_the_terminal_is_for_others_until_the_next_bar():
    terminal = Terminal(40)

    def write(text: str) -> None:
        threading.Event().wait(0.02)  # a terminal that takes its time
        terminal.write(text)

    with LogScreen(write, live=True, size=lambda: (40, 6)) as screen:
        screen.bar(bar("loading"))
        screen.clear()
        terminal.write("ready\n")
        screen.bar(bar("working"))
        screen.clear()
        assert terminal.lines() == ["ready"]
        screen.line("one")
    assert terminal.lines() == ["ready", "one"]


def test_lines_from_many_threads_are_never_mixed():
    out = io.StringIO()
    with LogScreen(out.write, live=False) as screen:

        def work(word: str) -> None:
            for _ in range(50):
                screen.line(word * 50)

        threads = [threading.Thread(target=work, args=(word,)) for word in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = out.getvalue().splitlines()
    assert len(lines) == 400
    assert {len(set(line)) for line in lines} == {1}


def test_a_reader_that_stops_reading_stops_nobody():
    let_go, got = threading.Event(), []

    def write(text: str) -> None:
        let_go.wait()
        got.append(text)

    with LogScreen(write, live=False, waiting=5) as screen:
        for number in range(100):
            screen.line(str(number))  # returns at once, or this test never ends
        screen.end(patience=0.01)
        let_go.set()
    # What found a place came out, in order; the rest was counted.
    lines = "".join(got).splitlines()
    numbers = [line for line in lines if line.isdigit()]
    assert numbers == [str(n) for n in range(len(numbers))]
    assert sum(int(line[1:].split()[0]) for line in lines if "were lost" in line) == 100 - len(numbers)


def test_a_reader_that_went_away_is_no_error():
    ours, theirs = os.pipe()
    os.close(ours)
    stream = os.fdopen(theirs, "w")
    with LogScreen(writer(stream), live=False) as screen:
        screen.line("one")
        screen.line("two")
    stream.close()


def test_the_writer_goes_past_the_buffer_and_is_never_lost_for_a_letter(tmp_path):
    with open(tmp_path / "log", "w", encoding="ascii") as stream:
        writer(stream)("naïve " + "x" * 100_000)
        assert (tmp_path / "log").read_bytes() == b"na?ve " + b"x" * 100_000
    out = io.StringIO()
    writer(out)("naïve")
    assert out.getvalue() == "naïve"


@pytest.mark.parametrize("live", [True, False])
def test_it_may_end_twice(live: bool):
    terminal = Terminal(40)
    with LogScreen(terminal.write, live=live, size=lambda: (40, 6)) as screen:
        screen.line("one")
        screen.end()
    assert terminal.lines() == ["one"]
