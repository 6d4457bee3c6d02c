"""The three standard streams: made fit to use at the start, and safe to leave at the end."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def prepare() -> None:
    """A stream that the parent closed is replaced, and no answer dies of the locale's encoding."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def settle() -> None:
    """Flushes what an interrupted answer left; if that fails, sends the rest nowhere.

    Without it the interpreter would try once more at its exit and print its own complaint.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def complain(text: str) -> None:
    """A line on stderr. Where even that is gone, the exit code has to do."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
