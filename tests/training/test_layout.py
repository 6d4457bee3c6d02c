"""A row holds every token once that has to be read, and each at the place it would have alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.training.layout import Layout, lay_out
from mlxone.training.samples import Pair, Sample

TOKENS = st.lists(st.integers(0, 9), min_size=1, max_size=6).map(tuple)


def texts_read(layout: Layout) -> list[tuple[list[int], list[int]]]:
    """What each place of the row has before it and itself, and the positions of that, in order."""
    found = []
    for segment in layout.segments:
        seen = [i for a, b in segment.sees for i in range(a, b)]
        for place in range(segment.start, segment.end):
            text = seen[: seen.index(place) + 1]
            found.append(([layout.tokens[i] for i in text], [layout.positions[i] for i in text]))
    return found


def scored(layout: Layout) -> list[tuple[list[int], int]]:
    texts = texts_read(layout)
    assert all(positions == list(range(len(positions))) for _, positions in texts)
    return [(texts[row][0], target) for row, target in zip(layout.rows, layout.targets, strict=True)]


def expected(ids: tuple[int, ...], prompt: int) -> list[tuple[list[int], int]]:
    return [(list(ids[:i]), ids[i]) for i in range(max(prompt, 1), len(ids))]


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=5))
def test_samples_are_read_alone_and_scored_after_the_prompt(texts: list[tuple[tuple[int, ...], ...]]):
    layout = lay_out([Sample(a + b, len(a)) for a, b in texts])
    assert scored(layout) == [s for a, b in texts for s in expected(a + b, len(a))]
    assert layout.counts == tuple(len(b) for _, b in texts)
    assert len(layout.tokens) == sum(len(a + b) - 1 for a, b in texts)  # without any padding


@given(st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=4), st.booleans())
def test_a_pair_is_scored_as_two_whole_texts(texts: list[tuple[tuple[int, ...], ...]], shared: bool):
    layout = lay_out([Pair(p, c, r) for p, c, r in texts], shared=shared)
    assert scored(layout) == [
        s for p, c, r in texts for s in expected(p + c, len(p)) + expected(p + r, len(p))
    ]
    again = 0 if shared else sum(len(p) for p, _, _ in texts)
    assert len(layout.tokens) == again + sum(len(p + c + r) - 2 for p, c, r in texts)


def test_a_pair_without_a_prompt_is_scored_from_its_second_token():
    layout = lay_out([Pair((), (1, 2), (3, 4, 5))])
    assert scored(layout) == [([1], 2), ([3], 4), ([3, 4], 5)]


@given(st.lists(TOKENS.filter(lambda ids: len(ids) > 1), min_size=1, max_size=6))
def test_runs_are_the_segments_again(texts: list[tuple[int, ...]]):
    layout = lay_out([Sample(ids) for ids in texts])
    spans = [
        (run.first.start + i * run.first.length, run.first.length)
        for run in layout.runs
        for i in range(run.count)
    ]
    assert spans == [(s.start, s.length) for s in layout.segments]
    alike = len({len(ids) for ids in texts}) == 1
    assert layout.is_batch == alike
    assert layout.shape == ((len(texts), len(texts[0]) - 1) if alike else (1, len(layout.tokens)))


def test_texts_of_one_length_are_computed_together_where_they_are_neighbours():
    layout = lay_out([Sample((1,) * n) for n in (4, 4, 3, 4)])
    assert [run.count for run in layout.runs] == [2, 1, 1]


def test_a_batch_with_nothing_to_score_is_our_own_fault():
    with pytest.raises(ValueError, match="without a token to score"):
        lay_out([Sample((1,))])
