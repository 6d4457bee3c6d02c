"""Where data comes from, and its division into train, valid and test.

A source is a folder, a file, a binary stream (the command line's "-"), rows of a program's own, or
a dataset on the Hub (`org/name`, also `org/name:config` and `@revision`); a path that exists always
wins. All splits have one format, told by the rows. Only a source without a valid set of its own may
be split, by a share and a seed: the same rows, share and seed give the same split.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

from mlxone.core.amounts import first_of
from mlxone.core.errors import DataError, UsageError
from mlxone.hub import datasets
from mlxone.hub.datasets import SPLITS, SUFFIXES
from mlxone.hub.watch import Watch
from mlxone.training.data.files import WHOLE, Raw, check_parquet, explained, read_file, read_stream
from mlxone.training.data.formats import (
    Format,
    Names,
    checked,
    detect,
    fits,
    unrecognised,
)
from mlxone.training.data.rows import BadRow, Row, Tally

Source = str | os.PathLike[str] | BinaryIO | Iterable[Mapping[str, Any]]

VALID_SHARE = 0.1  # of what comes in one piece


@dataclass(slots=True)
class Data:
    train: list[Row]
    valid: list[Row]
    test: list[Row]
    format: Format
    skipped: dict[str, int] = field(default_factory=dict)  # bad rows by reason
    notes: list[str] = field(default_factory=list)  # a line each, for people
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of one origin; `split` is None where they are for us to divide."""

    name: str
    split: str | None
    rows: Iterable[Raw]


def read(
    source: Source,
    *,
    valid_share: float | None = None,
    seed: int = 0,
    features: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    need: Collection[str] = ("train",),
) -> Data:
    """Reads and checks every row. `need`: the splits that may not be missing.

    A `valid_share` of None means the default share for what comes in one piece (a file, a stream,
    a dataset of the Hub) and nothing for a folder, whose owner could have put a valid set into it.
    """
    if valid_share is not None and not 0 <= valid_share < 1:
        raise UsageError(f"the share of valid rows is from 0 to below 1, not {valid_share}", param="val_size")
    name, parts, is_one_piece = _open(source)
    reader = _Reader(Names.given(features), Tally(skip_bad))
    splits = reader.read(parts)
    reader.tally.finish()
    if reader.format is None:
        tally = reader.tally
        said = f"no row of {name} can be used: {tally.summary()} ({tally.first})" if tally.skipped else ""
        raise DataError(said or f"{name} holds no rows", hint=tally.hint)
    data = Data(**splits, format=reader.format, skipped=reader.tally.skipped, notes=reader.notes, name=name)
    _divide(data, valid_share if valid_share is not None else VALID_SHARE * is_one_piece, valid_share, seed)
    for split in need:
        if not getattr(data, split):
            raise DataError(f"{name} has no {split} set", hint=_how_to_add(split))
    return data


def _how_to_add(split: str) -> str:
    return f"a folder needs a {split}.jsonl (or .json, .parquet)"


def fetch(source: Source, watch: Watch) -> None:
    """Downloads a dataset that `read` would download, for who wants to watch; all else is left alone."""
    if isinstance(source, str) and _path(source) is None:
        _from_hub(source, watch)


class _Reader:
    """One format for all parts, the first row's."""

    def __init__(self, names: Names, tally: Tally) -> None:
        self.names, self.tally = names, tally
        self.notes: list[str] = []
        self.format: Format | None = None
        self._decided_by = ""

    def read(self, parts: Iterable[_Part]) -> dict[str, list[Row]]:
        splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for part in parts:
            count, unread = 0, list[str]()
            for raw in part.rows:
                with self.tally.row(raw.place):
                    row = self._row(raw)
                    splits[raw.split or part.split or WHOLE].append(row)
                    if not count and isinstance(raw.value, dict):
                        unread = self.names.unused(raw.value, row.value)
                    count += 1
            self._note(part, count, unread)
        return splits

    def _note(self, part: _Part, count: int, unread: list[str]) -> None:
        if self.format is None:
            return
        keys = f" (not used: {first_of(unread)})" if unread else ""
        self.notes.append(f"{part.name}: {self.format}, {count:,} {'row' if count == 1 else 'rows'}{keys}")

    def _row(self, raw: Raw) -> Row:
        if isinstance(raw.value, BadRow):
            raise raw.value
        value = self.names.renamed(raw.value)
        format = self.format if self.format is not None and fits(value, self.format) else detect(value)
        if format is None:
            raise unrecognised(raw.value, self.names)
        if self.format is not None and format != self.format:
            raise DataError(
                f"{self._decided_by} is {self.format} data and {raw.place} is {format} data",
                hint="all rows of a set must have one format",
            )
        row = Row(checked(value, format), raw.place)
        if self.format is None:  # by a good row: a bad one may be anything
            self.format, self._decided_by = format, raw.place
        return row


def _divide(data: Data, share: float, asked: float | None, seed: int) -> None:
    """Some of train becomes valid where there is none; at least one row of train stays."""
    if data.valid:
        if asked:
            data.notes.append("there is a valid set, so none is split off")
        return
    count = min(max(round(len(data.train) * share), 1), len(data.train) - 1) if share and data.train else 0
    if count < 1:
        why = ": one row cannot be split" if share and data.train else ""
        data.notes.append(f"no valid set{why}: nothing will say how it does on new rows")
        return
    chosen = set(Random(f"{seed} split").sample(range(len(data.train)), count))
    data.valid = [row for at, row in enumerate(data.train) if at in chosen]
    data.train = [row for at, row in enumerate(data.train) if at not in chosen]
    data.notes.append(f"{count:,} of {count + len(data.train):,} rows are kept as the valid set")


def _open(source: Source) -> tuple[str, Iterable[_Part], bool]:
    """What it is called, its parts, and whether it comes in one piece."""
    if isinstance(source, str | os.PathLike):
        name, path = str(source), _path(source)
        if path is None:
            return name, _from_hub(name), True
        if path.is_dir():
            return name, _folder(path), False
        _check_suffix(path)
        return name, [_Part(path.name, None, _rows_of(path, path.name))], True
    if hasattr(source, "read"):
        return "stdin", [_Part("stdin", None, read_stream(_bytes(source), "stdin"))], True
    if isinstance(source, Iterable):
        return "the data", [_Part("the data", None, _given(source))], True
    raise UsageError(f"data is a path, a stream or rows, not {type(source).__name__}", param="data")


def _path(source: str | os.PathLike[str]) -> Path | None:
    """None where nothing is there; an empty name is not the current folder."""
    path = os.path.expanduser(source)
    return Path(path) if os.path.exists(path) else None


def _bytes(stream: Any) -> BinaryIO:
    stream = getattr(stream, "buffer", stream)  # of a stream of text
    if not isinstance(stream.read(0), bytes):
        raise UsageError("data comes as a stream of bytes, not of text", param="data")
    opened: BinaryIO = stream
    return opened


def _given(values: Iterable[Any]) -> Iterator[Raw]:
    for number, value in enumerate(values, 1):
        bad = BadRow("not an object", f"a row must be a mapping, not {type(value).__name__}")
        yield Raw(f"row {number}", dict(value) if isinstance(value, Mapping) else bad)


def _check_suffix(path: Path) -> None:
    if path.is_file() and path.suffix not in SUFFIXES:
        raise DataError(f"{path} is none of {', '.join(SUFFIXES)}", hint="rename it to what it is")


def _rows_of(path: Path, name: str) -> Iterator[Raw]:
    """A pipe has no suffix to go by."""
    if path.suffix in SUFFIXES:
        yield from read_file(path, name)
    else:
        with explained(path), path.open("rb") as stream:
            yield from read_stream(stream, name)


def _folder(folder: Path) -> list[_Part]:
    parts = []
    for split, spellings in SPLITS.items():
        found = [folder / (word + suffix) for word in spellings for suffix in SUFFIXES]
        found = [path for path in found if path.is_file()]
        if len(found) > 1:
            names = " and ".join(path.name for path in found[:2])
            raise DataError(f"{folder} has more than one {split} set: {names}", hint="keep one of them")
        parts += [_Part(path.name, split, read_file(path, path.name)) for path in found]
    if not parts:
        with explained(folder):
            there = sorted(path.name for path in folder.iterdir())
        holds = f"it holds {first_of(there)}" if there else "it is empty"
        raise DataError(f"{folder} has no train.jsonl (or .json, .parquet)", hint=holds)
    return parts


def _from_hub(source: str, watch: Watch | None = None) -> list[_Part]:
    wanted = datasets.parse(source)
    if wanted is None or Path(source).suffix in SUFFIXES:
        raise DataError(
            f"there is no file or folder {source}", hint="a dataset of the Hub is named like org/name"
        )
    found = datasets.fetch(wanted, check_parquet, watch)
    return [
        _Part(file.name, file.split, read_file(found.folder / file.name, file.name)) for file in found.files
    ]
