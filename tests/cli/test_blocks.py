from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.blocks import Block, BlockSplitter

SAMPLE = """\
# Title
A paragraph
of two lines
- one
- two

  still two
- three
  ```py
  x = 1

  - no item
  ```

- loose
after

1. first
2. second
```python
def f():

    - no list
```
| a | b |
|---|---|
| 1 | 2 |

> quoted
> more

in the year
1984. Not a list
Head
===
***
end"""


def split(text: str, size: int = 10**6) -> list[Block]:
    splitter = BlockSplitter()
    done = [b for at in range(0, len(text), size) for b in splitter.feed(text[at : at + size])]
    return done + splitter.finish()


def test_the_sample():
    assert [(b.kind, b.gap, b.text) for b in split(SAMPLE)] == [
        ("text", True, "# Title"),
        ("text", True, "A paragraph\nof two lines"),
        ("text", True, "- one"),
        ("text", False, "- two\n\n  still two"),
        ("text", False, "- three\n  ```py\n  x = 1\n\n  - no item\n  ```"),
        ("text", True, "- loose\nafter"),
        ("text", True, "1. first"),
        ("text", False, "2. second"),
        ("fence", True, "```python"),
        ("code", False, "def f():"),
        ("code", False, ""),
        ("code", False, "    - no list"),
        ("fence", False, "```"),
        ("text", True, "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("text", True, "> quoted\n> more"),
        ("text", True, "in the year\n1984. Not a list\nHead\n==="),
        ("text", True, "***"),
        ("text", True, "end"),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_make_no_difference(size):
    assert split(SAMPLE, size) == split(SAMPLE)


MARKDOWN = st.lists(
    st.sampled_from(
        [
            "- a",
            "  b",
            "1. c",
            "```",
            "```py",
            "~~~~",
            "~~~",
            "# d",
            "---",
            "",
            " ",
            "> e",
            "f|g",
            "\t",
            "*",
            "``",
        ]
    )
).map("\n".join)


@given(MARKDOWN, st.integers(1, 5))
def test_no_line_is_lost_doubled_or_moved(text, size):
    blocks = split(text, size)
    lines = [line for block in blocks for line in block.text.split("\n")]
    assert [x for x in lines if x.strip()] == [x for x in text.split("\n") if x.strip()]
    assert blocks == split(text)


@given(MARKDOWN, st.integers(1, 5))
def test_the_rest_is_what_is_not_done_yet(text, size):
    splitter = BlockSplitter()
    done = ""
    for at in range(0, len(text), size):
        done += "".join(f"{block.text}\n" for block in splitter.feed(text[at : at + size]))
        rest = splitter.rest
        shown = (done + (rest.text if rest else "")).split()
        assert shown == text[: at + size].split()


def test_a_code_line_knows_what_its_colours_depend_on():
    *_, last, _ = split('```py extra\n"""doc\ntext\n```')
    assert (last.info, last.context, last.text) == ("py extra", ('"""doc',), "text")


def test_code_does_not_depend_on_the_code_before_it():
    assert split("```\na\n```\n```\nb\n```")[4] == Block("b", "code", gap=False)


def test_the_context_is_bounded():
    blocks = split("```\n" + "x\n" * 500)
    assert max(len(block.context) for block in blocks) == 60


def test_an_open_fence_shows_the_line_that_is_being_written():
    splitter = BlockSplitter()
    splitter.feed("```py\na = 1\nb =")
    assert splitter.rest == Block("b =", "code", gap=False, info="py", context=("a = 1",))
    splitter.feed(" 2\n")
    assert splitter.rest is None
