"""`/v1/completions`: prompts of every kind, and what the older route has of its own."""

from __future__ import annotations

from typing import Any

import pytest

from mlxone.core.words import ChatRequest
from mlxone.server.protocols.openai_completions import parse
from mlxone.server.protocols.openai_fields import COMPLETION_REFUSED
from tests.server.protocols.calls import completion, refusal


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a", [ChatRequest(text="a")]),
        ("", [ChatRequest(text="")]),  # whether a model can begin with nothing is not the wire's business
        (["a", "b"], [ChatRequest(text="a"), ChatRequest(text="b")]),
        ([1, 2], [ChatRequest(ids=(1, 2))]),
        ([[1, 2], [3]], [ChatRequest(ids=(1, 2)), ChatRequest(ids=(3,))]),
    ],
)
def test_the_four_kinds_of_prompt(prompt: Any, asked: list[ChatRequest]):
    assert list(completion(prompt=prompt).asked.requests) == asked


def test_everything_else_that_can_be_asked():
    call = parse(
        b'{"model":"m","prompt":["a","b"],"n":2,"max_tokens":7,"stop":"x","logprobs":3,"temperature":0,'
        b'"seed":1,"stream":true,"stream_options":{"include_usage":true},"best_of":2,"user":"ann","odd":1}'
    )
    wishes = {"temperature": 0.0, "seed": 1}
    assert call.asked.model == "m" and call.asked.choices == 2 and call.streams
    assert call.asked.requests == tuple(
        ChatRequest(text=text, wishes=wishes, max_tokens=7, stop=("x",), logprobs=3) for text in "ab"
    )
    assert call.ignored == ("odd", "user")


def test_a_harmless_suffix_is_taken():
    assert completion(suffix="").asked == completion(suffix=None).asked == completion().asked


@pytest.mark.parametrize("name", COMPLETION_REFUSED)
def test_what_is_not_built_is_refused_by_name(name: str):
    complaint = refusal(completion, **{name: {"some": "thing"}})
    assert complaint.param == name
    assert complaint.message == f"{name}: {COMPLETION_REFUSED[name].why}"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": [1, [2]]}, "prompt"),
    ({"prompt": [1.5]}, "prompt[0]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [1, -1]}, "prompt[1]"),
    ({"prompt": [2**31]}, "prompt[0]"),
    ({"prompt": [[1], [2, 2**31]]}, "prompt[1][1]"),
    ({"prompt": [[1], ["a"]]}, "prompt[1][0]"),
    ({"prompt": ["a"] * 129}, "prompt"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"best_of": 2}, "best_of"),
    ({"best_of": 4, "n": 3}, "best_of"),
    ({"echo": "yes"}, "echo"),
    ({"echo": True, "logprobs": 0}, "echo"),
    ({"echo": True, "prompt": [1, 2]}, "echo"),
    ({"temperature": 6}, "temperature"),
    ({"n": 0}, "n"),
]


@pytest.mark.parametrize(("given", "param"), WRONG, ids=[str(given)[:50] for given, _ in WRONG])
def test_a_wrong_value_is_refused_by_its_path(given: dict[str, Any], param: str):
    assert refusal(completion, **given).param == param


def test_best_of_may_say_what_n_says():
    assert completion(n=3, best_of=3).asked == completion(n=3, best_of=1).asked == completion(n=3).asked
