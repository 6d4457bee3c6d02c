"""Answers beside what the data says: who is right, whose turn it is, and what cannot be compared."""

from __future__ import annotations

import pytest

from mlxone.core.errors import DataError
from mlxone.training.data.rows import Row
from mlxone.training.exact import SPARE, Compared, answers
from tests.service.rig import scripted


def row(**value) -> Row:
    return Row(value, "rows.jsonl:1")


def compared(said: str, expected: str, **more) -> Compared:
    model = scripted(said, **more)
    (found,) = answers(model, [row(prompt="say it", completion=expected)], "completion")
    return found


@pytest.mark.parametrize(
    ("said", "expected", "is_match"),
    [
        ("GREEN", "GREEN", True),
        (" GREEN\n", "GREEN", True),
        ("GREEN", "Green", False),
        ("GREEN", "GREEN RIVER", False),
        ("GREEN RIVER", "GREEN", False),
        ("GREEN" + "x" * 500, "GREEN", False),
    ],
)
def test_word_for_word(said, expected, is_match):
    assert compared(said, expected).is_match is is_match


def test_an_answer_that_is_another_is_not_waited_for():
    assert len(compared("x" * 5_000, "GREEN").said) <= len("GREEN") + SPARE


def test_the_last_answer_of_a_conversation_is_compared_after_all_that_came_before():
    turns = [
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"}, {"role": "assistant", "content": "2"},
        {"role": "user", "content": "left away"},
    ]  # fmt: skip
    told: list[tuple[int, int]] = []
    found = list(
        answers(scripted("2"), [row(messages=turns)] * 2, "messages", lambda *so_far: told.append(so_far))
    )
    assert [one.expected for one in found] == ["2", "2"] and all(one.is_match for one in found)
    assert told == [(0, 2), (1, 2)]


@pytest.mark.parametrize("format", ["text", "preference"])
def test_data_without_answers(format):
    with pytest.raises(DataError, match="no answers"):
        list(answers(scripted("x"), [row(text="x")], format))


def test_a_row_without_an_answer_is_named():
    with pytest.raises(DataError, match="rows.jsonl:1"):
        list(answers(scripted("x"), [row(messages=[{"role": "user", "content": "?"}])], "messages"))


def test_a_model_without_a_template():
    with pytest.raises(DataError, match="no chat template"):
        compared("x", "x", template=None)
