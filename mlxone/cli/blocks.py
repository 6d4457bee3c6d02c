"""Cuts streaming markdown into blocks that can be shown for good while the last one still grows.

Knows nothing of terminals. A block is cut off only when no later text can change how it looks:
paragraphs, tables and quotes at a blank line or where another block begins, list items where the
next item begins, and fenced code line by line. Not covered: link definitions and footnotes, which
reach across blocks and are shown as they are written.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "fence", "code"]

CONTEXT = 60  # lines of code that a code line takes along; more would make colouring long code slow

_FENCE = re.compile(r"^( {0,3})(`{3,}|~{3,})([^`]*|(?<=~).*)$")
_INNER_FENCE = re.compile(r"^\s*(?:[-*+]\s+|\d{1,9}[.)]\s+)?(`{3,}|~{3,})")
_HEADING = re.compile(r"^ {0,3}#{1,6}(\s|$)")
_RULE = re.compile(r"^ {0,3}([-*_])(\s*\1){2,}\s*$")
_UNDERLINE = re.compile(r"^ {0,3}(-+|=+)\s*$")
_ITEM = re.compile(r"^ {0,1}(?:[-*+]|(\d{1,9})[.)])(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class Block:
    """`gap` says that an empty line goes before it. A code line takes along what its colours depend
    on: the word behind the opening fence (`info`) and the lines before it (`context`)."""

    text: str
    kind: Kind = "text"
    gap: bool = True
    info: str = ""
    context: tuple[str, ...] = ()


class BlockSplitter:
    """Feed text in any pieces; finished blocks come back, `rest` is the unfinished one."""

    def __init__(self) -> None:
        self._partial = ""  # the line that has not ended
        self._lines: list[str] = []  # the open block
        self._gap = True
        self._blanks = 0  # inside a list item: blank lines that may belong to it
        self._in_list = False
        self._fence = ""  # the marker that closes the open fence, at top level
        self._inner_fence = ""  # the same, inside a list item
        self._info = ""
        self._code: deque[str] = deque(maxlen=CONTEXT)
        self._done: list[Block] = []

    def feed(self, text: str) -> list[Block]:
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._line(line)
        return self._take()

    def finish(self) -> list[Block]:
        if self._partial:
            self._line(self._partial)
            self._partial = ""
        self._close()
        return self._take()

    @property
    def rest(self) -> Block | None:
        """What stands there so far, without changing any state."""
        if self._fence:
            return self._code_block(self._partial) if self._partial else None
        lines = [*self._lines, *[""] * self._blanks * bool(self._partial), self._partial]
        text = "\n".join(lines).rstrip("\n")
        return Block(text, gap=self._gap) if text.strip() else None

    def _take(self) -> list[Block]:
        done, self._done = self._done, []
        return done

    def _line(self, line: str) -> None:
        if self._fence:
            self._code_line(line)
        elif self._inner_fence:
            self._lines.append(line)
            if _closes(line, self._inner_fence):
                self._inner_fence = ""
        elif not line.strip():
            self._blank_line()
        elif self._in_list:
            self._line_in_list(line)
        else:
            self._plain_line(line)

    def _code_line(self, line: str) -> None:
        if _closes(line, self._fence) and not line.startswith("    "):
            self._fence = ""
            self._done.append(Block(line, "fence", gap=False))
        else:
            self._done.append(self._code_block(line))
            self._code.append(line)

    def _code_block(self, line: str) -> Block:
        return Block(line, "code", gap=False, info=self._info, context=tuple(self._code))

    def _blank_line(self) -> None:
        if self._in_list:
            self._blanks += 1
        else:
            self._close()

    def _line_in_list(self, line: str) -> None:
        if line.startswith(("  ", "\t")):
            self._append_to_item(line)
        elif _ITEM.match(line) and not _RULE.match(line):
            tight = not self._blanks
            self._close()
            self._open_item(line, gap=not tight)
        elif not self._blanks and not _starts_block(line):
            self._append_to_item(line)  # the item's paragraph goes on without indentation
        else:
            self._close()
            self._plain_line(line)

    def _append_to_item(self, line: str) -> None:
        self._lines += [""] * self._blanks + [line]
        self._blanks = 0
        self._note_inner_fence(line)

    def _open_item(self, line: str, *, gap: bool) -> None:
        self._in_list, self._gap = True, gap
        self._lines = [line]
        self._note_inner_fence(line)

    def _note_inner_fence(self, line: str) -> None:
        found = _INNER_FENCE.match(line)
        self._inner_fence = found[1] if found else ""

    def _plain_line(self, line: str) -> None:
        if fence := _FENCE.match(line):
            self._close()
            self._fence, self._info = fence[2], fence[3].strip()
            self._code.clear()
            self._done.append(Block(line, "fence", info=self._info))
        elif self._lines and _UNDERLINE.match(line):  # makes the paragraph above a heading
            self._lines.append(line)
            self._close()
        elif _HEADING.match(line) or _RULE.match(line):
            self._close()
            self._done.append(Block(line))
        elif self._begins_list(line):
            self._close()
            self._open_item(line, gap=True)
        else:
            self._lines.append(line)

    def _begins_list(self, line: str) -> bool:
        item = _ITEM.match(line)
        if item is None or not self._lines:
            return item is not None
        # Inside a paragraph only a first item with words begins a list: "in\n1984. Then" is none.
        return item[1] in (None, "1") and item.end() < len(line)

    def _close(self) -> None:
        if self._lines:
            self._done.append(Block("\n".join(self._lines), gap=self._gap))
        self._lines, self._blanks, self._gap = [], 0, True
        self._in_list = False


def _starts_block(line: str) -> bool:
    return bool(_FENCE.match(line) or _HEADING.match(line) or _RULE.match(line) or line.startswith(">"))


def _closes(line: str, marker: str) -> bool:
    bare = line.strip()
    return len(bare) >= len(marker) and not bare.strip(marker[0])
