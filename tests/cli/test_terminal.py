from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.terminal import StatusLine, dimmed, neutralise, one_line, plain_wanted


@given(st.text())
def test_nothing_a_terminal_would_obey_is_left(text):
    clean = neutralise(text)
    assert all(c in "\n\t" or not (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0) for c in clean)
    assert neutralise(clean) == clean


@given(st.text(st.characters(exclude_categories=["Cc"])))
def test_ordinary_text_is_left_alone(text):
    assert neutralise(text) == text


def test_escape_sequences_become_visible():
    assert neutralise("a\x1b[31mb\x07\x9bc\r\nd\te") == "a␛[31mb␇\ufffdc\nd\te"


def test_one_line():
    assert one_line("a\nb\x1b[2J  c\r") == "a b␛[2J c"


@pytest.mark.parametrize(
    ("environ", "plain"),
    [
        ({"TERM": "xterm"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, False),
        ({"TERM": "xterm", "NO_COLOR": "0"}, True),
        ({"TERM": "dumb"}, True),
        ({}, True),
    ],
)
def test_when_plain_text_is_wanted(environ, plain):
    assert plain_wanted(environ) is plain


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_status_line_leaves_no_trace(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    line = StatusLine(screen)
    line.clear()
    assert screen.getvalue() == ""
    line.show("reading\nall")
    line.clear()
    line.clear()
    assert screen.getvalue() == "\rreading all\x1b[K\r\x1b[K"


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Screen(), True)])
def test_no_status_line_off_a_terminal_or_when_quiet(monkeypatch, stream, quiet):
    monkeypatch.setenv("TERM", "xterm")
    StatusLine(stream, quiet=quiet).show("x")
    assert stream.getvalue() == ""


def test_what_is_said_on_the_side_is_dim_where_that_can_be_seen(monkeypatch: pytest.MonkeyPatch):
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert dimmed("aside", Screen()) == "\x1b[2maside\x1b[0m"
    assert dimmed("aside", io.StringIO()) == "aside"
    monkeypatch.setenv("NO_COLOR", "1")
    assert dimmed("aside", Screen()) == "aside"
