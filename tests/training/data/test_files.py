from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import DataError, MlxoneError, StorageError, UsageError
from mlxone.training.data.files import Raw, read_file, read_stream
from mlxone.training.data.rows import BadRow

TEXTS = [{"text": "a"}, {"text": "b"}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def file_of(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def raws(folder: Path, name: str, content: bytes | str) -> list[Raw]:
    return list(read_file(file_of(folder, name, content), name))


def said(raw: Raw) -> str:
    assert isinstance(raw.value, BadRow)
    return f"{raw.place}: {raw.value}"


# JSONL -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.jsonl", "train.ndjson", "train.json"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_are_rows_with_their_numbers(tmp_path: Path, name: str, end: str, mark: str):
    content = mark + end.join(['{"text": "a"}', "", "  ", '{"text": "b"}', ""])
    assert raws(tmp_path, name, content) == [
        Raw(f"{name}:1", {"text": "a"}),
        Raw(f"{name}:4", {"text": "b"}),
    ]


def test_a_last_line_needs_no_end_and_a_line_may_be_huge(tmp_path: Path):
    huge = {"text": "x" * 5_000_000}
    assert [raw.value for raw in raws(tmp_path, "t.jsonl", json.dumps(huge) + "\n" + '{"text": "b"}')] == [
        huge,
        {"text": "b"},
    ]


def test_only_a_newline_ends_a_line(tmp_path: Path):
    odd = '{"text": "a\u2028b\u0085c"}'
    for name in ("t.jsonl", "t.json"):
        assert len(raws(tmp_path, name, f"{odd}\n{odd}\n")) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\xff{}", "not UTF-8 at byte 1"),
        ('{"text": "a"}'.encode("utf-16"), "not UTF-8 at byte 1"),
        (b"{", "not JSON: expecting property name enclosed in double quotes at column 2"),
        (b"{} {}", "not JSON: extra data at column 4"),
        (b"[" * 200_000, "not JSON that can be read: nested too deeply"),
        (b"1" * 9_000, "not JSON that can be read: a number is too long"),
        (b'["text"]', 'a row must be an object with keys, as in {"text": "..."}'),
        (b"null", 'a row must be an object with keys, as in {"text": "..."}'),
    ],
)
def test_a_bad_line_is_named_and_the_next_one_read(tmp_path: Path, line: bytes, words: str):
    good = b'{"text": "a"}\n'
    found = raws(tmp_path, "t.jsonl", good + line.replace(b"\n", b" ") + b"\n" + good)
    assert said(found[1]) == f"t.jsonl:2: {words}"
    assert (found[0].value, found[2]) == ({"text": "a"}, Raw("t.jsonl:3", {"text": "a"}))


@given(content=st.binary() | st.lists(VALUES.map(json.dumps)).map("\n".join).map(str.encode))
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_any_bytes_are_rows_or_an_error_of_ours(tmp_path_factory: Any, suffix: str, content: bytes):
    folder = tmp_path_factory.getbasetemp()
    try:
        found = raws(folder, "any" + suffix, content)
    except MlxoneError as error:
        assert suffix == ".json" and isinstance(error, DataError)
        return
    assert all(isinstance(raw.value, dict | BadRow) for raw in found)
    if suffix == ".jsonl":
        assert len(found) == sum(bool(line.strip()) for line in content.split(b"\n"))


@given(st.lists(st.dictionaries(st.text(), VALUES), min_size=1))
def test_what_was_written_is_read(values: list[dict[str, Any]]):
    lines = "\n".join(json.dumps(value) for value in values).encode()
    as_list = json.dumps(values, indent=1).encode()
    for content in (lines, as_list):
        assert [raw.value for raw in read_stream(io.BytesIO(content), "stdin")] == values


def test_a_stream_numbers_its_lines_from_the_first():
    stream = io.BytesIO(b'\xef\xbb\xbf\n\n{"text": "a"}\n{')
    first, second = read_stream(stream, "stdin")
    assert first == Raw("stdin:3", {"text": "a"})
    assert said(second).startswith("stdin:4: not JSON")


def test_an_empty_stream_has_no_rows():
    assert (
        list(read_stream(io.BytesIO(b"\n \n"), "stdin")) == list(read_stream(io.BytesIO(b""), "stdin")) == []
    )


# JSON ------------------------------------------------------------------------------------


def test_a_list_has_numbered_rows(tmp_path: Path):
    found = raws(tmp_path, "t.json", json.dumps([{"text": "a"}, 7], indent=2))
    assert found[0] == Raw("t.json row 1", {"text": "a"})
    assert said(found[1]).startswith("t.json row 2: a row must be an object")


def test_an_object_may_hold_the_rows_or_the_splits(tmp_path: Path):
    assert raws(tmp_path, "t.json", json.dumps({"data": TEXTS, "version": 1})) == [
        Raw("t.json `data` row 1", {"text": "a"}),
        Raw("t.json `data` row 2", {"text": "b"}),
    ]
    found = raws(tmp_path, "t.json", json.dumps({"validation": TEXTS[:1], "train": TEXTS}))
    assert [(raw.split, raw.value) for raw in found] == [
        ("train", TEXTS[0]),
        ("train", TEXTS[1]),
        ("valid", TEXTS[0]),
    ]


def test_one_object_is_one_row(tmp_path: Path):
    assert raws(tmp_path, "t.json", '{\n"text":\n"a"}') == [Raw("t.json:1", {"text": "a"})]


def test_an_empty_file_has_no_rows(tmp_path: Path):
    assert (
        raws(tmp_path, "t.json", "\n")
        == raws(tmp_path, "t.jsonl", "")
        == raws(tmp_path, "t.json", "[]")
        == []
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1,\n2", "t.json is not JSON: expecting ',' delimiter at line 2, column 2"),
        ("7", "t.json holds no rows"),
        (b"\xff[]", "t.json is not UTF-8 at byte 1"),
    ],
)
def test_json_that_cannot_be_rows(tmp_path: Path, content: bytes | str, words: str):
    with pytest.raises(DataError) as caught:
        raws(tmp_path, "t.json", content)
    assert caught.value.message == words


def test_a_file_that_goes_away(tmp_path: Path):
    with pytest.raises(StorageError, match=r"gone\.jsonl cannot be read: No such file"):
        list(read_file(tmp_path / "gone.jsonl", "gone.jsonl"))


# Parquet ---------------------------------------------------------------------------------


class _Batch:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def to_pylist(self) -> list[dict[str, Any]]:
        return self._rows


class _ParquetFile:
    """As much of pyarrow's as reading needs: batches of columns, here of JSON beside a mark."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        if not data.startswith(b"PAR1"):
            raise ValueError("Parquet magic bytes not found in footer.\nEither the file is corrupted or")
        self._rows = json.loads(data[4:])

    def iter_batches(self) -> Iterator[_Batch]:
        for start in range(0, len(self._rows), 2):
            yield _Batch(self._rows[start : start + 2])


@pytest.fixture
def pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    package, parquet = ModuleType("pyarrow"), ModuleType("pyarrow.parquet")
    parquet.ParquetFile = _ParquetFile  # type: ignore[attr-defined]
    package.parquet = parquet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", package)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)


@pytest.mark.usefixtures("pyarrow")
def test_parquet_is_read_batch_by_batch(tmp_path: Path):
    values = [{"text": text, "id": None} for text in "abc"]
    found = raws(tmp_path, "train.parquet", b"PAR1" + json.dumps(values).encode())
    assert found == [Raw(f"train.parquet row {at}", value) for at, value in enumerate(values, 1)]


@pytest.mark.usefixtures("pyarrow")
def test_a_broken_parquet_file_is_named(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        raws(tmp_path, "train.parquet", b"nothing")
    assert caught.value.message == (
        "train.parquet cannot be read as Parquet: Parquet magic bytes not found in footer."
    )


def test_without_its_reader_parquet_is_one_line_with_the_way_out(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError) as caught:
        raws(tmp_path, "train.parquet", b"PAR1[]")
    assert "pyarrow" in caught.value.message and "pip install pyarrow" in caught.value.hint
