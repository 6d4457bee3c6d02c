"""A run on a terminal, looked at through an emulator; in a log; and where nothing is wanted."""

from __future__ import annotations

import io

import pytest

from mlxone.cli.log_screen import LogScreen
from mlxone.cli.train_panel import text_of
from mlxone.cli.train_progress import Progress
from mlxone.cli.train_view import (
    FRAME,
    KEPT_FREE,
    SHARE,
    Colours,
    Lines,
    Panel,
    Silent,
    may_draw,
    takes_unicode,
    view,
)
from tests.cli.test_live import Terminal
from tests.cli.test_train_panel import run, shown

SIZE = (80, 24)


def panel_on(terminal: Terminal, clock=lambda: 0.0) -> Panel:
    size = lambda: (terminal.screen.columns, terminal.screen.lines)  # noqa: E731
    screen = LogScreen(terminal.write, live=True, size=size)
    return Panel(screen, Colours(), size=size, clock=clock)


def test_notices_stand_above_and_the_last_panel_stays():
    terminal = Terminal(*SIZE)
    panel = panel_on(terminal)
    panel.note("data: 90 samples")
    for done in (1, 60, 120):
        panel.show(run(done=done), now=True)
    panel.report("not shown: the panel says it")
    panel.note("step 120, asked: why?\n  BECAUSE")
    panel.close()
    assert terminal.lines() == [
        "data: 90 samples",
        "step 120, asked: why?",
        "  BECAUSE",
        *shown(run(), 80 - KEPT_FREE),
    ]


def test_it_is_not_drawn_more_often_than_it_is_seen():
    drawn: list[object] = []
    terminal, now = Terminal(*SIZE), 0.0
    panel = panel_on(terminal, lambda: now)
    panel._screen.bar = drawn.append  # type: ignore[method-assign, assignment]
    for _ in range(100):
        panel.show(run(done=3))
        now += 0.01
    panel.close()
    assert 1 / FRAME - 1 <= len(drawn) <= 1 / FRAME + 2


def test_a_slow_terminal_costs_the_training_little():
    terminal, now, drawn = Terminal(*SIZE), 0.0, 0
    panel = panel_on(terminal, lambda: now)

    def slow(lines: object) -> None:
        nonlocal now, drawn
        now, drawn = now + 0.5, drawn + 1

    panel._screen.bar = slow  # type: ignore[method-assign]
    while now < 100:
        panel.show(run(done=3))
        now += 0.01
    panel.close()
    assert 5 <= drawn <= 100 / (0.5 * SHARE) + 1


def test_no_control_character_gets_through():
    terminal = Terminal(*SIZE)
    panel = panel_on(terminal)
    panel.note("\x1b[2Jan answer\x07")
    panel.close()
    assert terminal.lines() == ["␛[2Jan answer␇"]


@pytest.mark.parametrize("size", [(20, 10), (40, 12), (200, 60), (20, 4)])
def test_every_size(size):
    terminal = Terminal(*size)
    panel = panel_on(terminal)
    for done in range(1, 30):
        panel.show(run(done=done), now=True)
    panel.close()
    expected = shown(run(done=29), size[0] - KEPT_FREE, size[1])
    assert terminal.lines()[-len(expected) :] == expected


def test_a_status_before_there_is_anything_to_show_leaves_no_trace():
    terminal = Terminal(*SIZE)
    panel = panel_on(terminal)
    panel.status("preparing, train: 200 of 900")
    panel.close()
    assert terminal.lines() == []


def test_colours_change_no_text():
    for row in ([("loss", "train"), (" 1.0", "")], [("[bold]no markup[/]", "axis")]):
        line = Colours()(row)
        assert line.cells == len(text_of(row))
        assert text_of(row) in __import__("re").sub(r"\x1b\[[0-9;]*m", "", line.text)


def test_a_log_gets_lines():
    said: list[str] = []
    lines = Lines(said.append)
    lines.show(Progress(), now=True)
    lines.status("preparing")
    lines.note("a\x1b notice")
    lines.report("step 1: loss 2")
    lines.close()
    assert said == ["a␛ notice", "step 1: loss 2"]


class Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, tty: bool = True, encoding: str = "utf-8") -> None:
        super().__init__()
        self.tty, self.encoding = tty, encoding

    def isatty(self) -> bool:
        return self.tty


@pytest.mark.parametrize(
    ("stream", "environ", "drawn"),
    [
        (Stream(), {}, True),
        (Stream(), {"NO_COLOR": "1"}, False),
        (Stream(), {"TERM": "dumb"}, False),
        (Stream(tty=False), {}, False),
        (Stream(encoding="ascii"), {}, False),
    ],
)
def test_where_it_may_draw(monkeypatch, stream, environ, drawn):
    for name, value in ({"TERM": "xterm"} | environ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", stream)
    assert may_draw() is drawn
    assert isinstance(view(quiet=True), Silent)
    if not drawn:
        assert isinstance(view(), Lines)


def test_encodings():
    assert takes_unicode(Stream()) and takes_unicode(Stream(encoding="UTF8"))
    assert not takes_unicode(Stream(encoding="latin-1")) and not takes_unicode(object())
