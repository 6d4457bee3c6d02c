"""`/v1/chat/completions`: what a body asks for, and the complaint about each thing it cannot ask for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from mlxone.core.words import Asked, ChatRequest, Message, Sampling
from mlxone.server.protocols.openai_chat import parse
from mlxone.server.protocols.openai_fields import CHAT_REFUSED
from mlxone.server.protocols.reading import MOST_NAMED
from tests.server.protocols.calls import HELLO, chat, refusal

FULL = b"""{
  "model": "12B", "stream": true, "stream_options": {"include_usage": true}, "n": 3,
  "messages": [
    {"role": "developer", "content": "Be short."},
    {"role": "user", "name": "ann",
      "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]},
    {"role": "assistant", "content": "c", "reasoning_content": "hm", "refusal": null, "tool_calls": null},
    {"role": "user", "content": "d"}
  ],
  "max_completion_tokens": 9, "stop": ["x", "yy"], "logprobs": true, "top_logprobs": 2,
  "temperature": 1, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "min_tokens_to_keep": 2,
  "xtc_probability": 0.5, "xtc_threshold": 0.2, "xtc_special_tokens": [1, 2],
  "repetition_penalty": 1.1, "repetition_context_size": 30, "presence_penalty": 0.5,
  "presence_context_size": 31, "frequency_penalty": -0.5, "frequency_context_size": 32,
  "logit_bias": {"5": -100, "7": 1.5}, "seed": 4,
  "chat_template_kwargs": {"enable_thinking": false, "more": {"deep": [1]}},
  "user": "ann", "metadata": {"k": "v"}, "store": false, "novelty": 1
}"""


def test_everything_that_can_be_asked():
    call = parse(FULL)
    (request,) = call.asked.requests
    assert call.asked.model == "12B" and call.asked.choices == 3 and call.streams
    assert request == ChatRequest(
        messages=(
            Message("system", "Be short."),
            Message("user", "a b", {"name": "ann"}),
            Message("assistant", "c", {"reasoning_content": "hm"}),
            Message("user", "d"),
        ),
        wishes=request.wishes,
        max_tokens=9,
        stop=("x", "yy"),
        logprobs=2,
        template_kwargs={"enable_thinking": False, "more": {"deep": [1]}},
    )
    assert request.wishes == {
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "min_tokens_to_keep": 2,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "xtc_special_tokens": (1, 2),
        "repetition_penalty": 1.1,
        "repetition_context_size": 30,
        "presence_penalty": 0.5,
        "presence_context_size": 31,
        "frequency_penalty": -0.5,
        "frequency_context_size": 32,
        "logit_bias": {5: -100.0, 7: 1.5},
        "seed": 4,
    }
    # Whatever can be wished for is a field here.
    assert request.wishes.keys() == {field.name for field in fields(Sampling)}
    assert call.ignored == ("novelty", "metadata", "store", "user")


def test_the_least_that_can_be_asked():
    assert chat().asked == Asked(None, (ChatRequest(messages=(Message("user", "hello"),)),), 1)
    assert not chat().streams and chat().ignored == ()


def test_null_is_the_same_as_nothing():
    nothing = dict.fromkeys([*CHAT_REFUSED, "n", "stop", "temperature", "logit_bias", "user", "model", "odd"])
    call = chat(**nothing)
    assert call.asked == chat().asked and call.ignored == ()


HARMLESS = [(name, value) for name, refused in CHAT_REFUSED.items() for value in refused.harmless]


@pytest.mark.parametrize(("name", "value"), HARMLESS)
def test_a_harmless_value_of_what_is_not_built_is_taken(name: str, value: Any):
    assert chat(**{name: value}).asked == chat().asked
    assert chat(**{name: value}).ignored == ()


@pytest.mark.parametrize("name", CHAT_REFUSED)
@pytest.mark.parametrize("value", [{"some": "thing"}, ["thing"], "thing", True, 0])
def test_what_is_not_built_is_refused_by_name(name: str, value: Any):
    complaint = refusal(chat, **{name: value})
    assert complaint.param == name
    assert complaint.message == f"{name}: {CHAT_REFUSED[name].why}"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": HELLO * 10_001}, "messages"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 5.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"min_tokens_to_keep": 0}, "min_tokens_to_keep"),
    ({"xtc_probability": 2}, "xtc_probability"),
    ({"xtc_threshold": 0.6}, "xtc_threshold"),
    ({"xtc_special_tokens": [1, -1]}, "xtc_special_tokens[1]"),
    ({"xtc_special_tokens": ["a"]}, "xtc_special_tokens[0]"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_context_size": -1}, "repetition_context_size"),
    ({"presence_penalty": 11}, "presence_penalty"),
    ({"presence_context_size": 2**31}, "presence_context_size"),
    ({"frequency_penalty": "1"}, "frequency_penalty"),
    ({"frequency_context_size": 10**400}, "frequency_context_size"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": True}, "n"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": True}, "stream_options"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"01": 1}}, "logit_bias.01"),
    ({"logit_bias": {"\N{ARABIC-INDIC DIGIT ONE}": 1}}, "logit_bias.\N{ARABIC-INDIC DIGIT ONE}"),
    ({"logit_bias": {"1" * 5_000: 1}}, "logit_bias." + "1" * 60 + "…"),
    ({"logit_bias": {"1": 10_001}}, "logit_bias.1"),
    ({"logit_bias": {"1": "x"}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(4_097)}}, "logit_bias"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs.self"),
    ({"chat_template_kwargs": {"tools": [{}]}}, "chat_template_kwargs.tools"),
    ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking"),
    ({"user": 3}, "user"),
    ({"metadata": "x"}, "metadata"),
    ({"store": "x"}, "store"),
    ({"service_tier": 1}, "service_tier"),
    ({"model": 3}, "model"),
]


@pytest.mark.parametrize(("given", "param"), WRONG, ids=[str(given)[:50] for given, _ in WRONG])
def test_a_wrong_value_is_refused_by_its_path(given: dict[str, Any], param: str):
    complaint = refusal(chat, **given)
    assert complaint.param == param
    assert complaint.message.startswith(param) and len(complaint.message) < 250


TURNS: list[tuple[Any, str, str]] = [
    (None, "messages[1]", "expected an object"),
    ({"content": "x"}, "messages[1].role", "is missing"),
    ({"role": "user"}, "messages[1].content", "is missing"),
    ({"role": "assistant", "content": None}, "messages[1].content", "is missing"),
    ({"role": "user", "content": 3}, "messages[1].content", "expected"),
    ({"role": "user", "content": []}, "messages[1].content", "must not be empty"),
    ({"role": "user", "content": ["x"]}, "messages[1].content[0]", "expected an object"),
    ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text", "is missing"),
    ({"role": "user", "content": [{"text": "x"}]}, "messages[1].content[0].type", "is missing"),
    (
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]},
        "messages[1].content[1].type",
        "images cannot be read yet",
    ),
    ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[1].content[0].type", "sound"),
    ({"role": "user", "content": [{"type": "file"}]}, "messages[1].content[0].type", "files"),
    ({"role": "user", "content": [{"type": "odd"}]}, "messages[1].content[0].type", "'odd' is no kind"),
    (
        {"role": "user", "content": [{"type": "text", "text": 3}]},
        "messages[1].content[0].text",
        "expected text",
    ),
    ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages[1].tool_call_id", "tools"),
    ({"role": "tool", "content": "x"}, "messages[1].role", "tools cannot be called yet"),
    ({"role": "function", "content": "x", "name": "f"}, "messages[1].role", "tools"),
    ({"role": "robot", "content": "x"}, "messages[1].role", "'robot' is no role"),
    ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages[1].tool_calls", "tools"),
    ({"role": "assistant", "function_call": {}, "content": ""}, "messages[1].function_call", "tools"),
    ({"role": "assistant", "content": "", "audio": {"id": "x"}}, "messages[1].audio", "sound"),
    ({"role": "assistant", "content": "", "refusal": "no"}, "messages[1].refusal", "refusal"),
    ({"role": "user", "content": "x", "name": 3}, "messages[1].name", "expected text"),
]


@pytest.mark.parametrize(("turn", "param", "said"), TURNS, ids=[str(turn)[:60] for turn, _, _ in TURNS])
def test_a_wrong_message_is_refused_by_its_path(turn: Any, param: str, said: str):
    complaint = refusal(chat, messages=[HELLO[0], turn])
    assert complaint.param == param
    assert said in complaint.message


def test_an_answer_of_ours_may_be_sent_back_as_it_came():
    answer = {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "audio": None}
    call = chat(messages=[*HELLO, {**answer, "function_call": None, "tool_calls": []}, *HELLO])
    assert call.asked.requests[0].messages[1] == Message("assistant", "hi")


def test_a_turn_cut_off_while_thinking_has_no_text():
    call = chat(messages=[*HELLO, {"role": "assistant", "content": None, "reasoning_content": "hm"}])
    assert call.asked.requests[0].messages[1] == Message("assistant", "", {"reasoning_content": "hm"})


def test_what_means_nothing_is_named_with_its_path():
    part = {"type": "text", "text": "x", "cache_control": {}}
    call = chat(
        messages=[{"role": "user", "content": [part], "odd": 1}],
        stream=True,
        stream_options={"include_obfuscation": False, "odder": 2},
        oddest=3,
    )
    assert set(call.ignored) == {
        *("oddest", "messages[0].odd", "messages[0].content[0].cache_control"),
        *("stream_options.include_obfuscation", "stream_options.odder"),
    }
    assert chat(stream_options={"include_usage": True}).ignored == ("stream_options",)


def test_both_names_of_the_longest_answer():
    assert chat(max_tokens=5).asked == chat(max_completion_tokens=5).asked
    assert chat(max_tokens=5, max_completion_tokens=5).asked.requests[0].max_tokens == 5


def test_log_probabilities():
    assert chat(logprobs=True).asked.requests[0].logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).asked.requests[0].logprobs == 20
    assert chat(logprobs=False, top_logprobs=0).asked.requests[0].logprobs is None


def test_an_empty_model_is_none():
    assert chat(model="").asked.model is None


def test_what_means_nothing_is_remembered_up_to_a_number_of_the_whole_request():
    strange = {str(number): 1 for number in range(40)}
    part = {"type": "text", "text": "a", **strange}
    turn = {"role": "user", "content": [part, part], **strange}
    assert len(chat(messages=[turn] * 3, **strange).ignored) == MOST_NAMED
