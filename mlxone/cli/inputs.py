"""The text of a prompt: from the command line, from files and from a pipe."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from mlxone.core.errors import UsageError

# Far above any model's context, far below what would trouble the machine.
MAX_BYTES = 64_000_000
PATIENCE = 3.0  # seconds until a silent pipe is mentioned


def compose(files: Sequence[str], prompt: str | None, piped: str) -> str | None:
    """Files first, then the prompt, then what was piped in; None when there is nothing at all.

    An instruction given as an argument reads on into the piped text ("Summarise:" and the notes),
    while --file is asked to stand before the prompt. The texts themselves are left as they are,
    a blank line between them; only a pipe's last newline goes, as in the shell's own $(...).
    """
    piped = piped.removesuffix("\n").removesuffix("\r") if piped.strip() else ""
    parts = [text for text in (*files, prompt, piped) if text]
    if not parts:
        return None
    text = parts[0]
    for part in parts[1:]:
        text += "\n" * max(0, 2 - _newlines_at_end(text)) + part
    return text


def _newlines_at_end(text: str) -> int:
    return len(text) - len(text.rstrip("\n"))


def read_text(path: str, *, shown_as: str) -> str:
    """A text file of the user's, whole and unchanged, or one line that says why not."""
    name = f"{shown_as} {path}"
    try:
        with Path(path).expanduser().open("rb") as file:
            return _decode(_bounded(file, name), name)
    except FileNotFoundError:
        raise UsageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{name} is a folder", hint="name a text file") from None
    except (OSError, RuntimeError, ValueError) as error:  # also an unknown ~user, a NUL in the name
        raise UsageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_stdin(notice: Callable[[str], None]) -> str:
    """Everything that is piped in. A pipe that stays silent and open is waited for, but not silently."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:  # closed by the parent
        return ""
    try:
        if not _ready(stream):
            notice("waiting for text on stdin (Ctrl-D ends it; `< /dev/null` says there is none)")
        return _decode(_bounded(stream, "stdin"), "stdin")
    except IsADirectoryError:
        raise UsageError("stdin is a folder", hint="pipe a text in") from None
    except ValueError:  # closed by ourselves or a test
        return ""


def _ready(stream: BinaryIO) -> bool:
    try:
        return bool(select.select([stream], [], [], PATIENCE)[0])
    except (OSError, ValueError):  # not a thing that can be waited for
        return True


def _bounded(file: BinaryIO, name: str) -> bytes:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name} holds more than {MAX_BYTES // 1_000_000} MB", hint="give a part of it")
    return data


def _decode(data: bytes, name: str) -> str:
    if b"\0" in data:
        where = f"byte 0 at offset {data.index(0)}"
        raise UsageError(f"{name} is not a text ({where})", hint="give it as UTF-8 text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not UTF-8 (byte {data[error.start]:#04x} at offset {error.start})",
            hint="convert it, for example with iconv",
        ) from None
    return text.removeprefix("\ufeff")  # a byte order mark says how the text is encoded, it is not text


def encodable(text: str | None, *, shown_as: str) -> None:
    """Refuses an argument that was not UTF-8: Python hands it over in pieces no tokenizer can read."""
    if text is None:
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{shown_as} is not valid UTF-8", hint="check the terminal's encoding") from None
