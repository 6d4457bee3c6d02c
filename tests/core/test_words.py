from __future__ import annotations

import dataclasses

import pytest

from mlxone.core import words
from mlxone.core.words import ChatRequest, Message, Sampling

VALUES = [c for c in vars(words).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]


def test_a_message_of_a_mapping_keeps_what_templates_may_read():
    calls = [{"name": "add"}]
    message = Message.of({"role": "assistant", "content": None, "tool_calls": calls})
    assert message == Message("assistant", None, {"tool_calls": calls})
    assert message.as_template() == {"role": "assistant", "content": None, "tool_calls": calls}


def test_a_message_without_content_has_none():
    assert Message.of({"role": "assistant"}).content is None


def test_a_message_of_a_message_is_itself():
    message = Message("user", "hi")
    assert Message.of(message) is message


def test_a_message_needs_a_role():
    with pytest.raises(KeyError):
        Message.of({"content": "hi"})


@pytest.mark.parametrize("kind", VALUES, ids=lambda c: c.__name__)
def test_values_are_frozen_and_hold_nothing_else(kind: type):
    # They cross threads: nobody may change one under another's eyes.
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(kind)


def test_defaults_are_not_shared_between_values():
    assert Sampling().logit_bias is not Sampling().logit_bias
    assert ChatRequest().template_kwargs is not ChatRequest().template_kwargs


def test_the_default_request_is_the_librarys():
    assert ChatRequest().sampling == Sampling(temperature=0.0)
    assert ChatRequest().max_tokens is None
