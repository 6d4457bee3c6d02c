"""The table: fits the terminal it is on, and is plain text for programs anywhere else."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli import table, terminal
from mlxone.cli.table import Column

COLUMNS = (
    Column("MODEL", comfortable=12),
    Column("SIZE", right=True),
    Column("CONTEXT", right=True, optional=2),
    Column("CAN", optional=1),
    Column("RUNS"),
)
ROWS = [
    ("mlx-community/gemma-4-12B-it-4bit", "7.1 GB", "256k", ("vision tools", "VT"), ("no: too new", "no")),
    ("org/m", "135.0 MB", "8k", ("", ""), ("yes", "yes")),
]


def test_with_room_everything_is_there():
    assert table.aligned(COLUMNS, ROWS, 100) == [
        "MODEL                                  SIZE  CONTEXT  CAN           RUNS",
        "mlx-community/gemma-4-12B-it-4bit    7.1 GB     256k  vision tools  no: too new",
        "org/m                              135.0 MB       8k                yes",
    ]


@pytest.mark.parametrize(
    ("width", "header"),
    [
        (79, "MODEL SIZE CONTEXT CAN RUNS"),
        (42, "MODEL SIZE CONTEXT CAN RUNS"),
        (41, "MODEL SIZE CAN RUNS"),
        (30, "MODEL SIZE RUNS"),
    ],
)
def test_columns_go_in_their_order(width, header):
    lines = table.aligned(COLUMNS, ROWS, width)
    assert lines[0].split() == header.split()
    assert max(map(len, lines)) <= width


def test_shorter_forms_come_before_anything_is_left_out():
    assert table.aligned(COLUMNS, ROWS, 78)[1].endswith("vision tools  no")
    assert table.aligned(COLUMNS, ROWS, 65)[1].endswith("256k  VT   no")


def test_the_name_is_shortened_in_the_middle_at_last():
    assert table.aligned(COLUMNS, ROWS, 30)[1] == "mlx-com…t-4bit    7.1 GB  no"


TEXT = st.text(st.sampled_from("abc-/ \t\n\x1b日本é\u0301🙂"), max_size=30)


@given(st.lists(st.tuples(TEXT, TEXT.map(lambda t: (t, t[:1]))), max_size=5), st.integers(20, 100))
def test_no_line_is_wider_than_the_terminal_and_every_row_is_one(rows, width):
    columns = (Column("NAME", comfortable=10), Column("X", optional=1))
    lines = table.aligned(columns, rows, width)
    assert len(lines) == len(rows) + 1
    assert all(table.display_width(line) <= width for line in lines)
    assert not any(c in line for line in lines for c in "\n\t\x1b")


@given(TEXT, st.integers(1, 30))
def test_a_shortened_text_keeps_both_ends_and_the_width(text, width):
    short = table.shortened(text, width)
    assert table.display_width(short) <= max(width, 1)
    if short != text:
        start, _, end = short.partition("…")
        assert text.startswith(start) and text.endswith(end)


def test_tab_separated_is_never_shortened():
    lines = table.tab_separated(COLUMNS, [*ROWS, ("a\tb\nc", "", "", "", "")]).splitlines()
    assert lines[1] == "mlx-community/gemma-4-12B-it-4bit\t7.1 GB\t256k\tvision tools\tno: too new"
    assert {line.count("\t") for line in lines} == {4}
    assert lines[3].startswith("a b c\t")


@pytest.mark.parametrize(("no_color", "bold"), [("", True), ("1", False)])
def test_the_header_is_bold_on_a_terminal_that_wants_it(monkeypatch, capsys, no_color, bold):
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream is sys.stdout)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("COLUMNS", "60")
    table.show(COLUMNS, ROWS)
    out = capsys.readouterr().out
    assert out.startswith("\x1b[1mMODEL") == bold
    assert max(table.display_width(line) for line in out.splitlines()[1:]) <= 60
    table.show(COLUMNS, ROWS, wide=True)
    assert "vision tools  no: too new" in capsys.readouterr().out
