"""Sizes in words, both ways."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli import sizes
from mlxone.core.errors import UsageError


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("10GB", 10**10),
        ("10", 10**10),
        ("500MB", 5 * 10**8),
        ("1.5TB", 15 * 10**11),
        (" 2 gb ", 2 * 10**9),
        ("7g", 7 * 10**9),
        (".5G", 5 * 10**8),
        ("64kB", 64_000),
        ("0", 0),
    ],
)
def test_read(text, bytes_):
    assert sizes.read_size(text) == bytes_


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e3", "10XB", "1 000", "nan", "inf", "9" * 400, "10GBs"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="--max-size"):
        sizes.read_size(text, "--max-size")


@given(st.text(max_size=8))
def test_any_text_is_a_size_or_refused(text):
    with contextlib.suppress(UsageError):
        assert sizes.read_size(text) >= 0


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (135_000_000, "135.0 MB"),
        (999_949_999, "999.9 MB"),
        (999_960_000, "1.0 GB"),
        (7_100_000_000, "7.1 GB"),
        (2_500_000_000_000, "2.5 TB"),
    ],
)
def test_in_words(size, words):
    assert sizes.in_words(size) == words


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (540_000_000, 5_100_000_000, "0.54 of 5.1 GB"),
        (0, 1_000_000_000, "0.00 of 1.0 GB"),
        (4_600_000, 20_000_000, "5 of 20 MB"),
        (0, 999_000_000, "0 of 999 MB"),
    ],
)
def test_shares(part, whole, words):
    assert sizes.share_in_words(part, whole) == words


@given(st.integers(10**6, 10**15))
def test_what_is_said_can_be_read_again(size):
    assert sizes.read_size(sizes.in_words(size)) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize(
    ("count", "words"), [(4_022_468_096, "4.0B"), (134_515_008, "135M"), (999_600_000, "1.0B"), (9_000, "9K")]
)
def test_parameters(count, words):
    assert sizes.count_in_words(count) == words


@pytest.mark.parametrize(
    ("tokens", "words"),
    [(131072, "128k"), (8192, "8k"), (1048576, "1M"), (10_485_760, "10M"), (2000, "2000"), (200_000, "200k")],
)
def test_contexts(tokens, words):
    assert sizes.context_in_words(tokens) == words


@pytest.mark.parametrize(("bits", "words"), [(4, "4"), (4.0, "4"), (4.5, "4.5"), (5.123456, "5.123")])
def test_bits(bits, words):
    assert sizes.bits_in_words(bits) == words
