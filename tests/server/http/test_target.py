"""Targets: decoded once, strictly, and nothing of them lost."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.server.errors import HttpError
from mlxone.server.target import read_target

text = st.text(st.characters(exclude_categories=["Cc", "Cs"]))
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E))


@given(text, st.sampled_from(["/", ""]))
def test_any_path_comes_through(path: str, safe: str):
    assert read_target("GET", "/" + quote(path, safe=safe)) == ("/" + path, {})


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.text(), max_size=5))
def test_any_query_comes_through(query: dict[str, str]):
    query = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
    assert read_target("GET", "/x?" + urlencode(query)) == ("/x", query)


@given(st.sampled_from(["GET", "POST", "CONNECT", "OPTIONS"]), visible)
def test_anything_is_read_or_refused(method: str, target: str):
    try:
        path, _ = read_target(method, target)
    except HttpError as error:
        assert error.status == 400
    else:
        assert path.startswith("/") or (method, path) == ("OPTIONS", "*")


def test_decoding_happens_once():
    assert read_target("GET", "/a%252Fb?c=%2525") == ("/a%2Fb", {"c": "%25"})


def test_a_plus_is_a_blank_only_in_the_query():
    assert read_target("GET", "/a+b?c=d+e%2B") == ("/a+b", {"c": "d e+"})


@pytest.mark.parametrize("target", ["/a?b=%", "/a?%c3=1", "/a?b=%ff"])
def test_a_query_is_as_strict_as_a_path(target: str):
    with pytest.raises(HttpError):
        read_target("GET", target)
