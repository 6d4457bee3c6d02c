from __future__ import annotations

import stat

import pytest

from mlxone.cli import history
from mlxone.cli.history import History


@pytest.fixture
def kept(tmp_path) -> History:
    return History(tmp_path / "new" / "history")


def test_entries_come_back_in_order_with_their_lines(kept):
    for text in ("one", "two\nlines", 'q"é\\', "   ", ""):
        kept.add(text)
    assert kept.load() == ["one", "two\nlines", 'q"é\\']


def test_nothing_kept_yet(kept):
    assert kept.load() == []


def test_it_is_private_even_if_it_was_not(kept):
    kept.path.parent.mkdir()
    kept.path.write_text("")
    kept.path.chmod(0o644)
    kept.add("x")
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600


def test_it_is_bounded(kept, monkeypatch):
    monkeypatch.setattr(history, "ENTRIES", 3)
    monkeypatch.setattr(history, "LONGEST", 5)
    for text in "abcdefg":
        kept.add(text)
    kept.add("too long")
    assert "too long" not in kept.path.read_text()
    assert kept.load() == ["e", "f", "g"]
    assert len(kept.path.read_text().splitlines()) == 3
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert [p.name for p in kept.path.parent.iterdir()] == ["history"]


def test_damaged_lines_are_passed_over(kept):
    kept.add("good")
    with kept.path.open("ab") as file:
        file.write(b'\xff\xfe\n{"a": 1}\n[[[\n"cut of\n5\n' + b"[" * 99_999 + b"\n")
    kept.add("better")
    assert kept.load() == ["good", "better"]
