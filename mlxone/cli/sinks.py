"""Where an answer's text goes: a pipe, a plain terminal, or a terminal with live markdown."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from mlxone.cli import terminal

if TYPE_CHECKING:
    from mlxone.cli.live import MarkdownScreen


class Sink(Protocol):
    def write(self, text: str) -> None: ...

    def finish(self) -> None:
        """The answer is complete."""

    def abandon(self) -> None:
        """It was stopped or failed: what is there stays, and the cursor goes to a fresh line."""


class Nowhere:
    """For --json, which prints when all is known."""

    def write(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class Plain:
    """The text as it comes; at the end exactly one newline, however many the model wrote."""

    def __init__(self, stream: TextIO, clean: Callable[[str], str] = str) -> None:
        self._stream, self._clean = stream, clean
        self._newlines = ""  # held back: the last ones of the answer are dropped
        self._begun = False

    def write(self, text: str) -> None:
        text = self._newlines + self._clean(text)
        bare = text.rstrip("\n")
        self._newlines = text[len(bare) :]
        if bare:
            self._begun = True
            self._put(bare)

    def finish(self) -> None:
        self._put("\n")

    def abandon(self) -> None:
        if self._begun:
            self._put("\n")

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class LiveMarkdown:
    """Loads rich while the model reads the prompt: the first word would otherwise wait for it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._screen: MarkdownScreen | None = None
        self._loading = threading.Thread(target=self._load, daemon=True)
        self._loading.start()

    def write(self, text: str) -> None:
        if self._screen is None:
            self._loading.join()
            self._screen = self._load()
        self._screen.feed(terminal.neutralise(text))

    def finish(self) -> None:
        if self._screen is not None:
            self._screen.finish()

    def abandon(self) -> None:
        self.finish()

    def _load(self) -> MarkdownScreen:
        from rich.console import Console

        from mlxone.cli.live import MarkdownScreen
        from mlxone.cli.markdown import RichRenderer

        console = Console(file=self._stream, force_terminal=True, highlight=False)
        return MarkdownScreen(self._put, RichRenderer(console), terminal.size, time.monotonic)

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def for_stdout(*, markdown: bool = True) -> Sink:
    stream = sys.stdout
    if not terminal.is_terminal(stream):
        return Plain(stream)
    if not markdown or terminal.plain_wanted(os.environ):
        return Plain(stream, terminal.neutralise)
    return LiveMarkdown(stream)
