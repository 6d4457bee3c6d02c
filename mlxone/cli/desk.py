"""The person's side of a chat on a real terminal: line editing, history, questions, the editor."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from mlxone.cli import editor
from mlxone.cli.history import History
from mlxone.cli.terminal import neutralise
from mlxone.core.errors import UsageError


class TerminalDesk:
    def __init__(self, history_file: Path) -> None:
        self._history = History(history_file)
        self._readline = _readline()
        self._keeps_history = True
        self._recall()

    def read(self, prompt: str) -> str:
        try:
            return input(prompt)
        except UnicodeDecodeError:
            raise UsageError("what was typed is not UTF-8", hint="check the terminal's encoding") from None

    def remember(self, text: str) -> None:
        """A whole message is one entry, however many lines it took to type."""
        if self._readline is not None:
            self._readline.add_history(text)
        if not self._keeps_history:
            return
        try:
            self._history.add(text)
        except OSError as error:
            self._give_up_history(error)

    def say(self, text: str) -> None:
        print(neutralise(text), flush=True)

    def agrees(self, question: str) -> bool:
        try:
            return input(neutralise(question)).strip().lower() in ("y", "yes")
        except EOFError:
            self.say("")
            return False

    def edit(self, text: str) -> str:
        return editor.edit(text)

    def _recall(self) -> None:
        try:
            for entry in self._history.load():
                if self._readline is not None:
                    self._readline.add_history(entry)
        except OSError as error:
            self._give_up_history(error)

    def _give_up_history(self, error: OSError) -> None:
        self._keeps_history = False
        print(f"mlxone: history is not kept: {self._history.path}: {error.strerror}", file=sys.stderr)


def _readline() -> ModuleType | None:
    """Some builds of Python have none; the chat then does without arrow keys."""
    try:
        import readline
    except ImportError:
        return None
    readline.set_auto_history(False)
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")
    return readline
