"""What a server logs, as lines: for people, or as JSON with one object on each.

A record may carry `fields`, a dict of plain values that its message says in words: JSON has them apart.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from mlxone.cli.terminal import neutralise

LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
_NAMES = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "error"}


class PlainFormatter(logging.Formatter):
    """`12:03:04 info  a message`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        head = f"{clock} {level_name(record):<5} "
        return head + neutralise("\n".join([record.getMessage(), *_traceback(self, record)]))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds, milliseconds = divmod(round(record.created * 1000), 1000)
        at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03}Z"
        words = {"time": at, "level": level_name(record), "message": record.getMessage()}
        if trace := _traceback(self, record):
            words["traceback"] = "\n".join(trace)
        line = {**words, **getattr(record, "fields", {}), **words}  # no field takes the place of a word
        return json.dumps(line, default=str)


class LineHandler(logging.Handler):
    """Hands each line to `write`. A log that cannot be written is no reason to stop a server."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except Exception:  # noqa: BLE001 - a boundary: whoever logs must not fail for it
            self._write(f"a message of {record.name} could not be logged")


class Logging:
    """While it is open, what is logged by our rooms, and asyncio's complaints, goes to `write` alone."""

    def __init__(self, write: Callable[[str], object], *, level: str, as_json: bool) -> None:
        self._handler = LineHandler(write)
        self._handler.setFormatter(JsonFormatter() if as_json else PlainFormatter())
        self._levels = {"mlxone": LEVELS[level], "asyncio": logging.WARNING}
        self._before: list[tuple[logging.Logger, int, bool]] = []

    def __enter__(self) -> None:
        for name, level in self._levels.items():
            logger = logging.getLogger(name)
            self._before.append((logger, logger.level, logger.propagate))
            logger.addHandler(self._handler)
            logger.setLevel(level)
            logger.propagate = False

    def __exit__(self, *_: object) -> None:
        for logger, level, propagate in self._before:
            logger.removeHandler(self._handler)
            logger.setLevel(level)
            logger.propagate = propagate


def level_name(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, record.levelname.lower())


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    return [formatter.formatException(record.exc_info)] if record.exc_info else []
