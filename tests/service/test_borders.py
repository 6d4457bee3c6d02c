"""Where prompts may part: at message borders, in tokens, for models that cannot go back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.words import ChatRequest, Message
from mlxone.models.decoder import Decoder
from mlxone.models.spec import AttentionSpec, LayerSpec
from mlxone.service.answer import prompt_ids
from mlxone.service.borders import borders
from mlxone.service.model import Model
from tests.service.rig import TEMPLATE, TOKENIZER, ids_of, scripted
from tests.text.templates import CONVERSATIONS, TEMPLATES

ATTENTION = AttentionSpec(heads=4, kv_heads=2, head_dim=16, scale=0.25, rope=None)
FULL, SLIDING = (LayerSpec(replace(ATTENTION, window=window), None, 0) for window in (None, 8))
SYSTEM, MORE = Message("system", "Be brief."), Message("developer", "And kind.")
USER, MODEL, AGAIN = Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye")


def model_of(*layers: LayerSpec, template: str | None = TEMPLATE) -> Model:
    spec = SimpleNamespace(layers=layers, vocab_size=1_000, context_length=None)
    return replace(
        scripted("x", template=template), decoder=cast(Decoder, cast(Any, SimpleNamespace(spec=spec)))
    )


WINDOWED = model_of(SLIDING, FULL)


def parts(request: ChatRequest, model: Model = WINDOWED) -> list[str]:
    """The prompt, cut at its borders."""
    ids = prompt_ids(model, request)
    found = (0, *borders(model, request, ids), len(ids))
    assert list(found) == sorted(set(found))
    pieces = [ids[a:b] for a, b in zip(found, found[1:], strict=False)]
    return [TOKENIZER.decode(piece, skip_special=False) for piece in pieces]


def asking(*messages: Message, **more: Any) -> ChatRequest:
    return ChatRequest(messages=messages, **more)


def test_after_the_system_before_the_last_question_and_before_the_answer():
    assert parts(asking(SYSTEM, MORE, USER, MODEL, AGAIN)) == [
        "<s>system: Be brief.\n<s>developer: And kind.\n",
        "<s>user: Hi\n<s>assistant: Hello.\n",
        "<s>user: Bye\n",
        "assistant:",
    ]


def test_places_that_are_one_are_one_border():
    assert parts(asking(SYSTEM, USER)) == ["<s>system: Be brief.\n", "<s>user: Hi\n", "assistant:"]
    assert parts(asking(USER)) == ["<s>user: Hi\n", "assistant:"]
    assert parts(asking(USER, MODEL)) == ["<s>user: Hi\n<s>assistant: Hello.\n", "assistant:"]


def test_a_border_is_never_the_whole_prompt():
    request = asking(SYSTEM, USER, template_kwargs={"add_generation_prompt": False})
    assert parts(request) == ["<s>system: Be brief.\n", "<s>user: Hi\n"]


def test_the_requests_own_values_reach_the_template():
    template = "{{ mood }}{{ enable_thinking }}{% for m in messages %}{{ m.content }};{% endfor %}" + "go"
    model = model_of(SLIDING, template=template)
    request = asking(SYSTEM, USER, thinking=False, template_kwargs={"mood": "good "})
    assert parts(request, model) == ["good FalseBe brief.;", "Hi;go"]


@pytest.mark.parametrize("layers", [(), (FULL,), (FULL, FULL)])
def test_a_model_that_keeps_every_token_has_none(layers: tuple[LayerSpec, ...]):
    model = model_of(*layers, template="{{ raise_exception('never asked') }}")
    assert borders(model, asking(SYSTEM, USER), ids_of("any")) == ()


@pytest.mark.parametrize("request_", [ChatRequest(text="Hi there"), ChatRequest(ids=(1, 2, 3))])
def test_only_conversations_have_borders(request_: ChatRequest):
    assert borders(WINDOWED, request_, (1, 2, 3)) == ()


def test_a_template_that_refuses_half_a_conversation_gives_fewer():
    picky = "{% if messages[-1].role != 'user' %}{{ raise_exception('ask') }}{% endif %}" + TEMPLATE
    model = model_of(SLIDING, template=picky)
    assert parts(asking(SYSTEM, USER), model) == ["<s>system: Be brief.\n<s>user: Hi\n", "assistant:"]
    never = "{% if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    assert len(parts(asking(SYSTEM, USER), model_of(SLIDING, template=never))) == 1


def test_an_open_last_message_has_its_borders_too():
    """The beginnings are whole, whatever the last message of them is."""
    tools = Message("assistant", None, {"tool_calls": []})
    request = asking(USER, tools, AGAIN, MODEL, template_kwargs={"continue_final_message": True})
    assert parts(request) == ["<s>user: Hi\n<s>assistant: \n", "<s>user: Bye\n<s>assistant: Hello."]


def test_a_border_lies_where_the_prompts_really_part():
    # With nothing behind it the last message is written otherwise, as some templates do.
    template = "{% for m in messages %}{{ m.content }}{{ '!' if loop.last else ',' }}{% endfor %}"
    assert parts(asking(SYSTEM, USER), model_of(SLIDING, template=template)) == ["Be brief.", ",Hi!"]


@pytest.mark.parametrize("style", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_every_style_gives_places_inside_its_prompt(style: str, conversation: str):
    model = model_of(SLIDING, template=TEMPLATES[style])
    request = asking(*map(Message.of, CONVERSATIONS[conversation]))
    try:
        ids = prompt_ids(model, request)
    except Exception:  # noqa: BLE001 - this style has no such conversation
        return
    found = borders(model, request, ids)
    assert found == tuple(sorted(set(found)))
    assert all(0 < border < len(ids) for border in found)


@given(st.lists(st.sampled_from([SYSTEM, MORE, USER, MODEL, AGAIN]), min_size=1, max_size=8))
def test_borders_are_the_lengths_of_whole_messages(messages: list[Message]):
    ids = prompt_ids(WINDOWED, asking(*messages))
    ends = [0]
    for message in messages:
        ends.append(ends[-1] + len(ids_of(f"<s>{message.role}: {message.content}\n")))
    roles = [message.role for message in messages]
    system = next((i for i, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
    question = len(roles) - 1 - roles[::-1].index("user") if "user" in roles else 0
    expected = {ends[system], ends[question], ends[-1]} - {0}
    assert borders(WINDOWED, asking(*messages), ids) == tuple(sorted(expected))
