from __future__ import annotations

import io
import signal

import pytest

from mlxone.cli.answers import Answer, consume
from mlxone.cli.interrupts import StopOnInterrupt
from mlxone.core.words import Event, Finished, Progress, Stats, Token


class Status:
    """Notes what is shown, and that nothing is when words appear."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.visible = False

    def show(self, text: str) -> None:
        self.log.append(text)
        self.visible = True

    def clear(self) -> None:
        self.visible = False


class Sink:
    def __init__(self, status: Status) -> None:
        self.status = status
        self.log: list[str] = []

    def write(self, text: str) -> None:
        assert not (text and self.status.visible)
        self.log.append(text)

    def finish(self) -> None:
        assert not self.status.visible
        self.log.append("<finished>")

    def abandon(self) -> None:
        assert not self.status.visible
        self.log.append("<abandoned>")


@pytest.fixture
def status() -> Status:
    return Status()


@pytest.fixture
def sink(status) -> Sink:
    return Sink(status)


def token(text: str) -> Token:
    return Token(5, 0, text)


def test_reading_a_long_prompt_is_shown_until_the_first_word(sink, status):
    events: list[Event] = [
        Progress(2048, 12000),
        Progress(12000, 12000),
        token("a"),
        token(""),
        Finished(Stats()),
    ]
    answer = consume(iter(events), sink, status)
    assert status.log == [
        "reading the prompt: 2,048 of 12,000 tokens (17 %)",
        "reading the prompt: 12,000 of 12,000 tokens (100 %)",
    ]
    assert sink.log == ["a", "", "<finished>"]
    assert answer == Answer("a", [5, 5], Stats())


def test_a_short_prompt_shows_no_progress(sink, status):
    consume(iter([Progress(7, 7), Finished(Stats())]), sink, status)
    assert status.log == []


def test_stopping_closes_the_iterator_and_keeps_the_words(sink, status):
    closed = []

    def events():
        try:
            yield token("a")
            yield token("b")
        finally:
            closed.append(True)

    answering = events()
    answer = consume(answering, sink, status, stopped=lambda: sink.log == ["a"])
    # `closed` before anyone could drop the iterator: a reference to it is still held here.
    assert (answer.text, answer.stats, closed) == ("a", None, [True])
    assert sink.log == ["a", "<abandoned>"]


def test_a_sink_that_breaks_closes_the_iterator_too(sink, status, monkeypatch):
    closed = []

    def events():
        try:
            yield token("a")
        finally:
            closed.append(True)

    def broken(text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(sink, "write", broken)
    answering = events()
    with pytest.raises(BrokenPipeError):
        consume(answering, sink, status)
    assert closed == [True]


def test_the_first_ctrl_c_asks_and_the_second_insists():
    before = signal.getsignal(signal.SIGINT)
    with StopOnInterrupt() as stop:
        assert not stop.pressed
        signal.raise_signal(signal.SIGINT)
        assert stop.pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_plain_text_is_written_as_it_comes():
    from mlxone.cli.sinks import Plain

    stream = io.StringIO()
    sink = Plain(stream)
    seen = []
    for piece in ("a\n", "\n", "b", "\n"):
        sink.write(piece)
        seen.append(stream.getvalue())
    sink.finish()
    assert seen == ["a", "a", "a\n\nb", "a\n\nb"]
    assert stream.getvalue() == "a\n\nb\n"


@pytest.mark.parametrize(("pieces", "out"), [([], ""), (["\n"], ""), (["half"], "half\n"), (["a\n"], "a\n")])
def test_an_abandoned_answer_ends_its_line_if_it_has_one(pieces, out):
    from mlxone.cli.sinks import Plain

    stream = io.StringIO()
    sink = Plain(stream)
    for piece in pieces:
        sink.write(piece)
    sink.abandon()
    assert stream.getvalue() == out
