from __future__ import annotations

import builtins

import pytest

from mlxone.cli.desk import TerminalDesk
from mlxone.core.errors import UsageError


@pytest.fixture
def desk(tmp_path) -> TerminalDesk:
    return TerminalDesk(tmp_path / "history")


def typing(monkeypatch, what: str | BaseException) -> None:
    def typed(prompt: str) -> str:
        if isinstance(what, BaseException):
            raise what
        return what

    monkeypatch.setattr(builtins, "input", typed)


def test_bytes_that_are_no_text_are_the_persons_error(desk, monkeypatch):
    typing(monkeypatch, UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
    with pytest.raises(UsageError, match="not UTF-8"):
        desk.read("> ")


@pytest.mark.parametrize(
    ("typed", "agreed"), [("y", True), (" YES ", True), ("", False), ("n", False), (EOFError(), False)]
)
def test_a_question(desk, monkeypatch, typed, agreed):
    typing(monkeypatch, typed)
    assert desk.agrees("really? ") is agreed


def test_what_is_said_cannot_steer_the_terminal(desk, capsys):
    desk.say("a\x1b[2J")
    assert capsys.readouterr().out == "a␛[2J\n"
