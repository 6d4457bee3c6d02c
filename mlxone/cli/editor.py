"""The user's own editor on a text."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlxone.cli.inputs import read_text
from mlxone.core.errors import UsageError


def edit(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text as the user leaves it, without the newline that editors put at the end."""
    command = editor_command(environ)
    with tempfile.TemporaryDirectory(prefix="mlxone-") as folder:
        path = Path(folder) / "message.md"
        path.write_text(text, encoding="utf-8")
        try:
            with _interrupts_left_to_the_editor():
                code = subprocess.call([*command, str(path)])
        except OSError as error:
            why = error.strerror or error
            raise UsageError(f"cannot start the editor {command[0]!r}: {why}", hint="set EDITOR") from None
        if code:
            raise UsageError(f"the editor {command[0]!r} ended with code {code}", hint="nothing was changed")
        return read_text(str(path), shown_as="the edited message").removesuffix("\n")


def editor_command(environ: Mapping[str, str]) -> list[str]:
    named = environ.get("VISUAL") or environ.get("EDITOR") or "vi"
    try:
        command = shlex.split(named)
    except ValueError:
        command = []
    if not command:
        raise UsageError(f"VISUAL or EDITOR cannot be read as a command: {named!r}", hint="check its quotes")
    return command


@contextlib.contextmanager
def _interrupts_left_to_the_editor() -> Iterator[None]:
    # A handler that does nothing, not SIG_IGN: that would be inherited by the editor.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
