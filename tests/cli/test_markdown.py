"""What rich makes of a block. Text is compared without colours, colours where they are the point."""

from __future__ import annotations

import io
import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mlxone.cli.blocks import Block, BlockSplitter
from mlxone.cli.markdown import RichRenderer

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def renderer(colours: Literal["standard"] | None = "standard") -> RichRenderer:
    return RichRenderer(Console(file=io.StringIO(), force_terminal=True, color_system=colours))


def plain(text: str, width: int = 40) -> list[str]:
    splitter = BlockSplitter()
    blocks = [*splitter.feed(text), *splitter.finish()]
    lines = [line for block in blocks for line in renderer()(block, width)]
    return [COLOUR.sub("", line.text) for line in lines]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("roses are red\nviolets are blue", ["roses are red", "violets are blue"]),
        ("a **bold** and `code`", ["a bold and code"]),
        ("List<int> and <b>html</b>", ["List<int> and <b>html</b>"]),
        ("<div>\nx\n</div>", ["<div>", "x", "</div>"]),
        ("[link](http://x.y)", ["link (http://x.y)"]),
        ("# Title", ["Title"]),
        ("- a\n- b", [" • a", " • b"]),
        ("3. c\n4. d", [" 3 c", " 4 d"]),
        ("> q", ["▌ q"]),
        ("```py\nx  =  1\n\n```", ["```py", "x  =  1", "", "```"]),
        ("```nonsense\n<&>\n```", ["```nonsense", "<&>", "```"]),
        ("1. a\n   ```sh\n   ls\n   ```", [" 1 a", "   ls"]),
    ],
)
def test_text(text, expected):
    assert plain(text) == expected


def test_a_table():
    assert [line.split() for line in plain("| a | b |\n|---|---|\n| 1 | 2 |") if "─" not in line] == [
        ["a", "b"],
        ["1", "2"],
    ]


def test_code_is_coloured_in_the_light_of_the_lines_before():
    inside = Block("words", "code", info="python", context=('"""doc',))
    string = Block('"words"', "code", info="python")
    colour = COLOUR.search(renderer()(string, 40)[0].text)
    assert renderer()(inside, 40)[0].text.startswith(colour[0])


SPELLED = ["&#27;[31m", "&#x9b;31m", "&#x1b;]8;;x&#7;", "`&#27;`", "[a](<&#27;[2J>)", "\x1b[31m", "`\x9b`"]


@pytest.mark.parametrize("kind", ["text", "fence", "code"])
@pytest.mark.parametrize("text", SPELLED)
def test_an_escape_character_stays_harmless_however_it_is_spelled(text, kind):
    for line in renderer(colours=None)(Block(text, kind), 60):
        assert [c for c in line.text if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0] == []


@given(st.text(st.sampled_from("ab *_`#-1.|>[]()<&;\n~!世"), max_size=60), st.integers(19, 50))
def test_any_text_renders_within_the_width(text, width):
    splitter = BlockSplitter()
    render = renderer()
    for block in [*splitter.feed(text), *splitter.finish()]:
        assert all(line.cells <= width for line in render(block, width))
