from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxone.core.errors import UsageError
from mlxone.text.stops import StopStrings

letters = st.sampled_from("ab")
texts = st.text(letters, max_size=24)
many = settings(max_examples=600)
stop_lists = st.lists(st.text(letters, min_size=1, max_size=5), max_size=4)


def first_match(text: str, stops: list[str]) -> tuple[int, str] | None:
    """What the module promises, the slow way."""
    found = [
        (start, len(stop), stop)
        for stop in stops
        for start in range(len(text))
        if text.startswith(stop, start)
    ]
    return (min(found)[0], min(found)[2]) if found else None


def safe_length(text: str, stops: list[str]) -> int:
    """How much may be emitted: up to where a match begins, or could still."""
    for start in range(len(text)):
        tail = text[start:]
        if any(tail.startswith(stop) or stop.startswith(tail) for stop in stops):
            return start
    return len(text)


@st.composite
def chunked(draw: st.DrawFn) -> list[str]:
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(chunked(), stop_lists)
@many
def test_any_chunking_gives_the_text_before_the_first_match(chunks: list[str], stops: list[str]) -> None:
    text = "".join(chunks)
    search = StopStrings(stops)
    emitted = "".join(search.feed(chunk) for chunk in chunks) + search.finish()
    match = first_match(text, stops)
    assert emitted == (text if match is None else text[: match[0]])
    assert search.hit == (None if match is None else match[1])


@given(chunked(), stop_lists)
@many
def test_at_any_moment_exactly_what_is_safe_is_out(chunks: list[str], stops: list[str]) -> None:
    search, emitted, fed = StopStrings(stops), "", ""
    for chunk in chunks:
        emitted += search.feed(chunk)
        fed += chunk
        assert emitted == fed[: safe_length(fed, stops)]


@given(chunked(), stop_lists)
@many
def test_a_match_is_told_as_soon_as_nothing_can_precede_it(chunks: list[str], stops: list[str]) -> None:
    search, fed = StopStrings(stops), ""
    for chunk in chunks:
        search.feed(chunk)
        fed += chunk
        match = first_match(fed, stops)
        certain = match is not None and safe_length(fed, stops) == match[0]
        assert (search.hit is not None) == certain


def test_nothing_comes_after_a_hit() -> None:
    search = StopStrings(["END"])
    assert search.feed("one E") == "one "
    assert search.feed("ND two") == ""
    assert search.hit == "END"
    assert search.feed("three") == ""
    assert search.finish() == ""


def test_an_earlier_match_under_way_is_awaited() -> None:
    search = StopStrings(["abcd", "bc"])
    assert (search.feed("abc"), search.hit) == ("", None)
    assert (search.feed("x"), search.hit) == ("a", "bc")
    search = StopStrings(["abcd", "bc"])
    assert (search.feed("abc"), search.feed("d"), search.hit) == ("", "", "abcd")
    search = StopStrings(["abcd", "bc"])
    assert (search.feed("xxabc"), search.finish(), search.hit) == ("xx", "a", "bc")
    search = StopStrings(["abcd", "bc"])
    assert (search.feed("xxabc"), search.feed("x"), search.hit) == ("xx", "a", "bc")


def test_a_very_long_stop_string_costs_no_more_per_character() -> None:
    search = StopStrings(["a" * 100_000 + "b"])
    for _ in range(100):
        assert search.feed("a" * 2_000) in ("", "a" * 2_000)
    assert search.feed("b") == ""
    assert search.hit is not None


def test_one_string_is_one_stop() -> None:
    search = StopStrings("ab")
    assert search.feed("b a") == "b "
    assert search.finish() == "a"


@pytest.mark.parametrize("stops", [[""], ["a", ""], [None], [7]])
def test_an_empty_stop_string_is_refused(stops: list[str]) -> None:
    with pytest.raises(UsageError, match="stop string"):
        StopStrings(stops)


def test_stops_load_neither_library() -> None:
    code = "import sys, mlxone.text.stops, mlxone.text.template as _; "
    code += "print({'tokenizers', 'jinja2'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
