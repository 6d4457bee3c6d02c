from __future__ import annotations

import pytest

from mlxone.cli.message_reader import MessageReader


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello"], "hello"),
        ([""], ""),
        (["a\\", "b\\", "c"], "a\nb\nc"),
        (["C:\\dir\\\\"], "C:\\dir\\\\"),  # an even number is meant as written
        (["\\", "x"], "\nx"),
        (['"""', "a", "", 'b "c"', '"""'], 'a\n\nb "c"'),
        (['"""a', 'b"""'], "a\nb"),
        (['"""one line"""'], "one line"),
        (['  """', "  a\\", '"""  '], "  a\\"),
        (['""""""'], ""),
        (['"""', '"""'], ""),
        (["pasted\nlines"], "pasted\nlines"),
        (['"""\npasted\nblock\n"""'], "pasted\nblock"),
        (['"""', "pasted\ninto", '"""'], "pasted\ninto"),
        (["a\\", '"""b'], 'a\n"""b'),
        (['say """hi"""'], 'say """hi"""'),
    ],
)
def test_lines_to_message(lines, message):
    reader = MessageReader()
    for line in lines[:-1]:
        assert reader.feed(line) is None
        assert reader.waiting
    assert reader.feed(lines[-1]) == message
    assert not reader.waiting
    assert reader.feed("next") == "next"


def test_the_end_of_input_ends_an_open_message():
    reader = MessageReader()
    assert reader.finish() is None
    reader.feed("a\\")
    assert reader.finish() == "a"
    reader.feed('"""b')
    assert reader.finish() == "b"
    assert not reader.waiting
