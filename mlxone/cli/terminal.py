"""What the command line knows of terminals, without any library: cleaning text, a status line."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any, TextIO

# What a terminal would obey instead of show. Tab and newline are wanted; a carriage return is
# dropped (it could overwrite what is already read); the rest becomes visible.
_CONTROL: dict[int, str | None] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x0D: None,
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


def neutralise(text: str) -> str:
    """The text with every control character made harmless, escape sequences therefore too."""
    return text.translate(_CONTROL)


def one_line(text: str) -> str:
    return neutralise(" ".join(text.split()))


def is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:  # closed
        return False


def plain_wanted(environ: Mapping[str, str]) -> bool:
    """True where no colour, cursor movement or rewriting may be used."""
    return bool(environ.get("NO_COLOR")) or environ.get("TERM", "dumb") in ("", "dumb")


def dimmed(text: str, stream: Any) -> str:
    """For what is said on the side."""
    return f"\x1b[2m{text}\x1b[0m" if is_terminal(stream) and not plain_wanted(os.environ) else text


def size() -> tuple[int, int]:
    """Columns and rows."""
    columns, rows = shutil.get_terminal_size((80, 24))
    return max(columns, 20), max(rows, 4)


class StatusLine:
    """One line on a terminal that says what is going on, and leaves no trace."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._on = not quiet and is_terminal(self._stream) and not plain_wanted(os.environ)
        self._shown = False

    def show(self, text: str) -> None:
        if self._on:
            self._write(f"\r{one_line(text)[: size()[0] - 1]}\x1b[K")
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
