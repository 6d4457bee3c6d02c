"""One file of data to raw rows: JSONL, JSON or Parquet. What a row should hold is not known here.

A row comes as `Raw`: its place and either its value or what is wrong with it. JSONL is read line by
line and never as a whole. Parquet needs pyarrow, which is imported where such a file is met.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from mlxone.core.errors import DataError, StorageError, UsageError
from mlxone.hub.datasets import SPLITS
from mlxone.training.data.rows import BadRow

WHOLE = "train"  # the split of rows that say nothing of splits
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Raw:
    place: str
    value: dict[str, Any] | BadRow
    split: str | None = None  # where the file itself divides its rows


def read_file(path: Path, name: str) -> Iterator[Raw]:
    """`name` is what places call it."""
    if path.suffix == ".parquet":
        yield from _parquet(path, name)
        return
    with explained(path), path.open("rb") as stream:
        yield from (_json if path.suffix == ".json" else _lines)(stream, name)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


def read_stream(stream: BinaryIO, name: str) -> Iterator[Raw]:
    """JSONL, or JSON by its first sign: a list has no place in JSONL."""
    head: list[bytes] = []
    for line in stream:
        head.append(line)
        if line.removeprefix(BOM).strip():
            break
    if head and head[-1].removeprefix(BOM).lstrip()[:1] == b"[":
        yield from _json_text(b"".join(head) + stream.read(), name)
    else:
        yield from _lines(chain(head, stream), name)


def _lines(stream: Iterable[bytes], name: str) -> Iterator[Raw]:
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield Raw(f"{name}:{number}", _object(line.rstrip(b"\r\n")))


def _json(stream: BinaryIO, name: str) -> Iterator[Raw]:
    yield from _json_text(stream.read(), name)


def _json_text(data: bytes, name: str) -> Iterator[Raw]:
    """A list of rows; an object that holds such lists; or, as many such files are, JSONL after all."""
    data = data.removeprefix(BOM)
    if not data.strip():
        return
    value = _parsed(data)
    if isinstance(value, BadRow) and data.lstrip()[:1] == b"{":
        yield from _lines(io.BytesIO(data), name)
    elif isinstance(value, BadRow):
        raise DataError(f"{name} is {value}")
    elif isinstance(value, list):
        yield from _listed(value, name)
    elif isinstance(value, dict):
        yield from _held(value, name)
    else:
        raise DataError(f"{name} holds no rows", hint="a JSON file of data is a list of objects")


def _held(value: dict[str, Any], name: str) -> Iterator[Raw]:
    found = False
    for split, spellings in (*SPLITS.items(), (None, ("data",))):
        for key in spellings:
            if isinstance(value.get(key), list):
                found = True
                yield from _listed(value[key], f"{name} `{key}`", split)
    if not found:  # JSONL of one row
        yield Raw(f"{name}:1", value)


def _listed(values: list[Any], name: str, split: str | None = None) -> Iterator[Raw]:
    for number, value in enumerate(values, 1):
        yield Raw(f"{name} row {number}", value if isinstance(value, dict) else _no_object(value), split)


def _object(line: bytes) -> dict[str, Any] | BadRow:
    value = _parsed(line)
    return value if isinstance(value, dict | BadRow) else _no_object(value)


def _parsed(data: bytes) -> Any:
    """What the JSON says, or what is wrong with it."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        return BadRow("not UTF-8", f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return BadRow("not JSON", f"not JSON: {error.msg[:1].lower()}{error.msg[1:]} at {at}")
    except RecursionError:
        return BadRow("not JSON", "not JSON that can be read: nested too deeply")
    except ValueError:  # a number with thousands of digits
        return BadRow("not JSON", "not JSON that can be read: a number is too long")


def _no_object(value: object) -> BadRow:
    return BadRow("not an object", 'a row must be an object with keys, as in {"text": "..."}')


def _parquet(path: Path, name: str) -> Iterator[Raw]:
    parquet = _parquet_reader(name)
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield Raw(f"{name} row {number}", value)
    except (OSError, ValueError) as error:  # what its own errors derive from
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{name} cannot be read as Parquet: {lines[0][:200]}") from error


def check_parquet(name: str) -> None:
    """Before such a file is downloaded."""
    _parquet_reader(name)


def _parquet_reader(name: str) -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"{name} is a Parquet file, and pyarrow, which reads those, is not installed",
            hint="`pip install pyarrow`, or convert the file to JSONL",
        ) from error
