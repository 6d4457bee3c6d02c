"""What was typed in earlier chats: one JSON string per line, private, bounded.

Not readline's own file: that has one entry per line, so a message of several lines would come
back in pieces, and its format differs between the two readline libraries.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

ENTRIES = 1000
LONGEST = 20_000  # characters; a pasted book is not worth recalling


class History:
    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> list[str]:
        """The newest entries, oldest first. Lines that are damaged are passed over."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        entries = [entry for entry in map(_entry, lines) if entry]
        if len(lines) > 2 * ENTRIES:
            self._rewrite(entries[-ENTRIES:])
        return entries[-ENTRIES:]

    def add(self, text: str) -> None:
        """Appended at once: a chat that is killed, or one beside it, loses nothing."""
        if not text.strip() or len(text) > LONGEST:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append(self.path, [text], os.O_APPEND)

    def _rewrite(self, entries: list[str]) -> None:
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        self._append(fresh, entries, os.O_TRUNC)
        fresh.replace(self.path)

    @staticmethod
    def _append(path: Path, entries: list[str], how: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # an older file may have been made less private
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))


def _entry(line: str) -> str:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return entry if isinstance(entry, str) and len(entry) <= LONGEST else ""
