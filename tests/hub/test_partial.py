"""Ranges against sets of numbers; partial files against the bytes they were given."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.hub import partial
from mlxone.hub.partial import NOTES, SUFFIX, Partial, Ranges, held_bytes

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


@given(SPANS, st.integers(0, 40), st.integers(0, 40))
def test_ranges_are_sets_of_numbers(spans: list[tuple[int, int]], start: int, end: int):
    held = {i for a, b in spans for i in range(a, b)}
    ranges = Ranges(spans)
    assert {i for a, b in ranges for i in range(a, b)} == held
    assert ranges.total == len(held)
    assert {i for a, b in ranges.gaps(start, end) for i in range(a, b)} == set(range(start, end)) - held
    flat = [edge for span in ranges for edge in span]
    assert flat == sorted(set(flat))  # disjoint, apart, none empty


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"name{SUFFIX}"


@given(spans=SPANS, torn=st.integers(0, 30))
def test_what_is_noted_was_written(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]], torn: int
):
    """However much of the notes reached the disk, they never claim what was not written."""
    path = tmp_path_factory.mktemp("partial") / f"name{SUFFIX}"
    data = bytes(range(1, 41))
    with Partial(path, 40) as opened:
        for start, end in spans:
            opened.write(start, data[start:end])
            opened.flush()
    notes = path.with_name(f"name{NOTES}")
    notes.write_bytes(notes.read_bytes()[: -torn or None])
    with Partial(path, 40) as again:
        claimed = Ranges([(0, 40)]).total - sum(b - a for a, b in again.gaps())
        assert claimed == again.held <= len({i for a, b in spans for i in range(a, b)})
        for start, end in again._held:
            assert path.read_bytes()[start:end] == data[start:end]
        if not torn:
            assert again.held == len({i for a, b in spans for i in range(a, b)})


def test_what_is_written_is_noted_from_time_to_time(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(partial, "NOTE_EVERY", 10)
    opened = Partial(path, 40)
    opened.write(0, b"x" * 9)
    assert held_bytes(path, 40) == 0
    opened.write(20, b"x")
    assert held_bytes(path, 40) == 10
    opened.write(9, b"x")
    opened.close()
    assert held_bytes(path, 40) == 11


@pytest.mark.parametrize(
    "notes", [b"", b"size 40\n0 41\n", b"size 40\n5 5\n", b"size 40\n-1 3\n", b"size 39\n0 3\n",
              b"size 40\n0 3", b"\0\n\0\n", b"size 40\nx 3\n1 2 3\n"]
)  # fmt: skip
def test_notes_that_make_no_sense_count_for_nothing(path: Path, notes: bytes):
    path.write_bytes(bytes(40))
    path.with_name(f"name{NOTES}").write_bytes(notes)
    assert held_bytes(path, 40) == 0
    with Partial(path, 40) as opened:
        assert opened.gaps() == [(0, 40)]


def test_data_without_notes_and_notes_without_data(path: Path):
    path.write_bytes(bytes(40))
    assert held_bytes(path, 40) == 0
    with Partial(path, 40) as opened:
        opened.write(0, b"x" * 40)
    assert held_bytes(path, 40) == 40
    path.write_bytes(b"short")
    assert held_bytes(path, 40) == 0
    partial.discard(path)
    assert list(path.parent.iterdir()) == []
