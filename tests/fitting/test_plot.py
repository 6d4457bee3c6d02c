"""The picture of the matrix: one well-formed SVG, every cell in it, nothing outside it, legible."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.fitting import plot
from mlxone.fitting.chips import APPLE
from mlxone.fitting.plot import Cell, svg

SVG = "{http://www.w3.org/2000/svg}"
MATRIX = [
    Cell("M1 8-core", 8, False, None, None),
    Cell("M1 8-core", 16, False, 3000, 20.0),
    Cell("M4 Max 40-core", 64, True, 131_072, 61.26),
    Cell("M4 Max 40-core", 128, True, None, None),
]


def parsed(matrix: list[Cell], **options: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg(matrix, **options))


def groups(matrix: list[Cell]) -> list[list[str]]:
    """The words of each cell: its hint first."""
    return [[*group.itertext()] for group in parsed(matrix).iter(f"{SVG}g")]


def test_each_cell_says_what_it_knows():
    assert groups(MATRIX) == [
        ["M1 8-core, 8 GB: no", "no"],
        ["M1 8-core, 16 GB: only 2.9K", "only 2.9K"],
        ["M4 Max 40-core, 64 GB: 128K, 61 tok/s", "128K", "61 tok/s"],
        ["M4 Max 40-core, 128 GB: fits", "fits"],
    ]


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [(1, "1"), (1023, "1023"), (1024, "1K"), (8191, "7.9K"), (10_239, "9.9K"), (10_240, "10K"),
     (131_071, "127K"), (131_072, "128K"), (1_048_575, "1023K"), (1_048_576, "1M"), (2_621_440, "2.5M")],
)  # fmt: skip
def test_tokens_are_rounded_down(tokens: int, shown: str):
    assert groups([Cell("M1", 8, True, tokens, None)])[0][1] == shown


@pytest.mark.parametrize(("speed", "shown"), [(0.44, "0.4"), (9.94, "9.9"), (9.96, "10"), (123.4, "123")])
def test_figures_of_speed(speed: float, shown: str):
    assert groups([Cell("M1", 8, True, 1, speed)])[0][2] == f"{shown} tok/s"


def test_title_caption_legend_rows_and_columns():
    words = [text.text for text in parsed(MATRIX, title="A model").iter(f"{SVG}text")]
    assert words[:2] == ["A model", plot.CAPTION]
    assert {"8", "16", "64", "128", "M1 8-core", "M4 Max 40-core"} <= set(words)
    assert words[-5:] == ["less than 8K", "8K and more", "32K and more", "128K and more", "does not fit"]


def shade_of(cell: Cell) -> str:
    [group] = parsed([cell]).iter(f"{SVG}g")
    return group.find(f"{SVG}rect").get("class")


def test_colours_follow_what_is_safe():
    contexts = (None, 0, 8191, 8192, 32_767, 32_768, 131_071, 131_072, 10**7)
    shades = [shade_of(Cell("M1", 8, True, context, 1.0)) for context in contexts]
    assert shades == ["s0", "s0", "s0", "s1", "s1", "s2", "s2", "s3", "s3"]
    assert shade_of(Cell("M1", 8, False, 10**7, 1.0)) == "no"


def test_memory_rises_to_the_right_and_chips_keep_their_order():
    chips = ["M2", "M1", "M3"]
    cells = [Cell(chip, size, True, 1, 1.0) for chip in chips for size in (64, 8, 16)]
    boxes = [group.find(f"{SVG}rect") for group in parsed(cells).iter(f"{SVG}g")]
    places = {
        (c.chip, c.memory_gb): (float(b.get("x")), float(b.get("y")))
        for c, b in zip(cells, boxes, strict=True)
    }
    assert len(set(places.values())) == len(cells)
    for chip in chips:
        assert places[chip, 8][0] < places[chip, 16][0] < places[chip, 64][0]
    assert places["M2", 8][1] < places["M1", 8][1] < places["M3", 8][1]


def assert_within(root: ElementTree.Element) -> None:
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter(f"{SVG}rect"):
        x, y = float(box.get("x", 0)), float(box.get("y", 0))
        assert x >= 0 and x + float(box.get("width")) <= width
        assert y >= 0 and y + float(box.get("height")) <= height
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("x")) < width
        assert 0 < float(text.get("y")) < height


names = st.text(max_size=30)
cells = st.builds(
    Cell,
    names,
    st.integers(1, 1024),
    st.booleans(),
    st.none() | st.integers(0, 2**40),
    st.none() | st.floats(0, 1e6),
)


@given(st.lists(cells, max_size=12), st.text(max_size=60))
def test_any_words_give_a_picture_that_holds_them(matrix: list[Cell], title: str):
    root = parsed(matrix, title=title)
    assert_within(root)
    shown = "".join(c for c in title if c.isprintable())
    assert (root.find(f"{SVG}title").text or "") == shown
    assert len([*root.iter(f"{SVG}g")]) == len(matrix)


def test_the_whole_line_of_chips():
    matrix = [Cell(c.label, size, True, 131_072, 33.3) for c in APPLE for size in c.memory_options]
    root = parsed(matrix)
    assert_within(root)
    assert len([*root.iter(f"{SVG}g")]) == len(matrix)


def test_a_long_title_finds_its_place():
    """A letter of the title is about 9 wide."""
    assert float(parsed(MATRIX[:1], title="m" * 200).get("width")) >= 1800


def test_words_cannot_become_markup():
    text = svg([Cell("<script>\"&'", 8, True, 1, 1.0)], title="</title><script>alert(1)</script>")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_it_needs_nothing_beside_itself():
    text = svg(MATRIX)
    assert re.findall(r"https?://[^\"\s]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"\b(href|url\(|@import|src=)", text)


# Legible: contrast as the Web's accessibility guidelines count it ----------------------------


def luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("scheme", "column"), [(plot.LIGHT, 2), (plot.DARK, 3)], ids=["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(scheme: dict[str, str], column: int):
    for shade in plot.SHADES:
        assert contrast(scheme["ink"], str(shade[column])) >= 4.5
    assert contrast(scheme["ink"], plot.REFUSED[column - 1]) >= 4.5
    assert contrast(scheme["ink"], scheme["row"]) >= 4.5
    assert contrast(scheme["dim"], scheme["paper"]) >= 4.5


def test_both_schemes_are_in_the_picture():
    light, _, dark = svg(MATRIX).partition("@media (prefers-color-scheme: dark)")
    for name in plot.LIGHT:
        assert f".{name} {{ fill: {plot.LIGHT[name]}; }}" in light
        assert f".{name} {{ fill: {plot.DARK[name]}; }}" in dark
