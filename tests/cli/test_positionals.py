from __future__ import annotations

import pytest

from mlxone.cli.positionals import split_positionals
from mlxone.core.errors import UsageError


def is_model(word: str) -> bool:
    return word == "m"


@pytest.mark.parametrize(
    ("words", "model", "prompt", "expected"),
    [
        ([], None, None, (None, None)),
        (["m"], None, None, ("m", None)),
        (["hello"], None, None, (None, "hello")),
        (["m", "hello"], None, None, ("m", "hello")),
        (["hello", "m"], None, None, ("hello", "m")),  # two words are never guessed at
        ([], "x", None, ("x", None)),
        ([], None, "p", (None, "p")),
        ([], "x", "p", ("x", "p")),
        (["m"], "x", None, ("x", "m")),  # the flag decides: the word is the prompt
        (["hello"], None, "p", ("hello", "p")),  # and here it is the model
    ],
)
def test_which_word_is_what(words, model, prompt, expected):
    assert split_positionals(words, model, prompt, is_model) == expected


@pytest.mark.parametrize(
    ("words", "model", "prompt", "says"),
    [
        (["m", "two", "words"], None, None, "3 words where MODEL and PROMPT are expected (put the prompt"),
        (["m", "two"], "x", None, "2 words where PROMPT is expected"),
        (["m", "two"], None, "p", "2 words where MODEL is expected"),
        (["one"], "x", "p", "'one' is one word too many (--model and --prompt already"),
        ([""], None, None, "the prompt is empty"),
        (["m", "  "], None, None, "the prompt is empty"),
        ([], None, "", "the prompt is empty"),
        ([], "", None, "the model is empty"),
    ],
)
def test_what_cannot_be_meant(words, model, prompt, says):
    with pytest.raises(UsageError) as caught:
        split_positionals(words, model, prompt, is_model)
    assert str(caught.value).startswith(says)
