"""Typed lines -> messages. A backslash at a line's end goes on; three quotes open and close a block.

A paste arrives as one line with newlines in it and needs neither.
"""

from __future__ import annotations

QUOTES = '"""'


class MessageReader:
    """Feed lines; each call gives the finished message, or None while more is needed."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._in_block = False

    @property
    def waiting(self) -> bool:
        return bool(self._lines) or self._in_block

    def feed(self, line: str) -> str | None:
        if self._in_block:
            return self._block_line(line)
        if not self._lines and line.lstrip().startswith(QUOTES):
            self._in_block = True
            return self._block_line(line.lstrip().removeprefix(QUOTES))
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:  # an even number of them is meant as written
            self._lines.append(line[:-1])
            return None
        return self._take([*self._lines, line])

    def finish(self) -> str | None:
        """The end of input inside an open message ends the message."""
        return self._take(self._lines) if self.waiting else None

    def _block_line(self, line: str) -> str | None:
        if line.rstrip().endswith(QUOTES):
            text = self._take([*self._lines, line.rstrip().removesuffix(QUOTES)])
            # The quotes usually stand on lines of their own, which then are no part of the text.
            return text.removeprefix("\n").removesuffix("\n")
        self._lines.append(line)
        return None

    def _take(self, lines: list[str]) -> str:
        self._lines, self._in_block = [], False
        return "\n".join(lines)
