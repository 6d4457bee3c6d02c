from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.hub.readme import front_matter, parse, texts

CARD = """\
---
# a comment
license: apache-2.0  # as upstream
language: [en, "pt-br"]
tags:
- mlx
- 'text: generation'
  - chat
pipeline_tag: "text-generation"
model-index:
  - name: x
    results: none
base_model:
  org/model
empty:
---
# Title
license: not-this-one
"""


def test_a_card():
    assert parse(CARD) == {
        "license": "apache-2.0",
        "language": ["en", "pt-br"],
        "tags": ["mlx", "text: generation", "chat"],
        "pipeline_tag": "text-generation",
        "model-index": ["name: x"],
        "base_model": "",
        "empty": "",
    }


@pytest.mark.parametrize("text", ["", "# Title", "\n---\nlicense: mit\n---", "----\nlicense: mit\n---"])
def test_no_front_matter(text: str):
    assert parse(text) == {}


def test_files(tmp_path: Path):
    assert front_matter(tmp_path / "README.md") == {}
    assert front_matter(tmp_path) == {}
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n\xff")
    assert front_matter(tmp_path / "README.md") == {"license": "mit"}
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n" + b"a: b\n" * 1_000_000)
    assert front_matter(tmp_path / "README.md")["license"] == "mit"


def test_one_or_many():
    assert texts("a") == ["a"]
    assert texts(["a", "b"]) == ["a", "b"]
    assert texts(None) == texts("") == []


@given(st.text(alphabet="ab:-[]'\"# \n\t,", max_size=60))
def test_any_text_is_read(text: str):
    for value in parse("---\n" + text).values():
        assert isinstance(value, str) or all(isinstance(item, str) for item in value)
