"""`POST /v1/chat/completions`: `parse(body)`. What becomes of each field: docs/protocols/openai.md."""

from __future__ import annotations

from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.words import Asked, ChatRequest, Message
from mlxone.server.protocols.openai_answers import TextCall
from mlxone.server.protocols.openai_common import (
    MOST_LOGPROBS,
    adapter,
    choices,
    ignored,
    includes_usage,
    stops,
    wishes,
)
from mlxone.server.protocols.openai_fields import (
    CHAT_REFUSED,
    PARTS_REFUSED,
    ROLES,
    ROLES_REFUSED,
    TOOLS,
    TURN_REFUSED,
    ChatBody,
    Part,
    Turn,
    check_refused,
    names,
)
from mlxone.server.protocols.openai_logprobs import ChatLogprobs
from mlxone.server.protocols.reading import (
    MOST_NAMED,
    body_object,
    check_between,
    check_count,
    check_range,
    into,
    shown,
    unknown,
)

MOST_MESSAGES = 10_000
MOST_PARTS = 10_000
NOT_FOR_TEMPLATES = {"messages": "the conversation is the field messages", "self": "no template reads it"}
TRUTHS = ("enable_thinking", "add_generation_prompt", "continue_final_message")


def parse(body: bytes) -> TextCall:
    """Any bytes: a call, or a UsageError that names the field."""
    value = body_object(body)
    check_refused(value, CHAT_REFUSED)
    asked = into(ChatBody, value)
    check_count("messages", asked.messages, MOST_MESSAGES)
    passed_over = ignored(value, asked, (*names(ChatBody), *CHAT_REFUSED))
    messages = tuple(
        _message(turn, given, f"messages[{place}]", passed_over)
        for place, (turn, given) in enumerate(zip(asked.messages, value["messages"], strict=True))
    )
    request = ChatRequest(
        messages=messages,
        wishes=wishes(asked),
        max_tokens=_max_tokens(asked),
        stop=stops(asked),
        logprobs=_logprobs(asked),
        template_kwargs=_template_values(asked),
        adapter=adapter(asked),
    )
    return TextCall(
        Asked(asked.model or None, (request,), choices(asked)),
        bool(asked.stream),
        tuple(passed_over),
        ChatShape(),
        includes_usage(asked.stream_options),
    )


def _message(turn: Turn, given: dict[str, Any], path: str, passed_over: list[str]) -> Message:
    check_refused(given, TURN_REFUSED, path)
    known = {*names(Turn), *TURN_REFUSED} - {"annotations"}
    passed_over += unknown(given, known, path, room=MOST_NAMED - len(passed_over))
    role = ROLES.get(turn.role)
    if role is None:
        why = ROLES_REFUSED.get(turn.role, f"{shown(turn.role)!r} is no role; they are {', '.join(ROLES)}")
        raise UsageError(f"{path}.role: {why}", param=f"{path}.role")
    extra = {"name": turn.name, "reasoning_content": turn.reasoning_content}
    return Message(
        role,
        _content(turn, given, path, passed_over),
        {name: value for name, value in extra.items() if value is not None},
    )


def _content(turn: Turn, given: dict[str, Any], path: str, passed_over: list[str]) -> str:
    """Parts are joined with nothing between: templates expect text."""
    path += ".content"
    if isinstance(turn.content, str):
        return turn.content
    if turn.content is None:
        if turn.reasoning_content is not None:  # a turn that was cut off while the model thought
            return ""
        raise UsageError(f"{path} is missing", param=path)
    check_count(path, turn.content, MOST_PARTS)
    texts = []
    for place, part in enumerate(turn.content):
        where = f"{path}[{place}]"
        texts.append(_part(part, where))
        room = MOST_NAMED - len(passed_over)
        passed_over += unknown(given["content"][place], ("type", "text"), where, room=room)
    return "".join(texts)


def _part(part: Part, path: str) -> str:
    if part.type != "text":
        why = PARTS_REFUSED.get(part.type, f"{shown(part.type)!r} is no kind of part")
        raise UsageError(f"{path}.type: {why}", param=f"{path}.type")
    if part.text is None:
        raise UsageError(f"{path}.text is missing", param=f"{path}.text")
    return part.text


def _max_tokens(asked: ChatBody) -> int | None:
    old, new = asked.max_tokens, asked.max_completion_tokens
    check_range("max_tokens", old)
    check_range("max_tokens", new, path="max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise UsageError(
            f"max_tokens is {shown(old)} and max_completion_tokens {shown(new)}: they mean the same",
            hint="give one of them",
            param="max_tokens",
        )
    return old if new is None else new


def _logprobs(asked: ChatBody) -> int | None:
    check_between("top_logprobs", asked.top_logprobs, 0, MOST_LOGPROBS)
    if asked.logprobs:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise UsageError("top_logprobs needs logprobs: true", param="top_logprobs")
    return None


def _template_values(asked: ChatBody) -> dict[str, Any]:
    values = asked.chat_template_kwargs or {}
    for name, value in values.items():
        path = f"chat_template_kwargs.{shown(name)}"
        why = NOT_FOR_TEMPLATES.get(name)
        if name == "tools" and value:
            why = TOOLS
        elif name in TRUTHS and not isinstance(value, bool):
            why = "expected true or false"
        if why:
            raise UsageError(f"{path}: {why}", param=path)
    return values


class ChatShape:
    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"
    logprobs = ChatLogprobs

    def opening(self, number: int) -> bytes:
        delta = b'{"role":"assistant","content":"","refusal":null}'
        return b'{"index":%d,"delta":%s,"logprobs":null,"finish_reason":null}' % (number, delta)

    def around(self, number: int) -> tuple[bytes, bytes, bytes]:
        return b'{"index":%d,"delta":{"content":' % number, b'},"logprobs":', b',"finish_reason":null}'

    def closing(self, number: int, reason: str) -> bytes:
        return b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%s"}' % (number, reason.encode())

    def whole(self, number: int, text: str, logprobs: dict[str, Any] | None, reason: str) -> dict[str, Any]:
        return {
            "index": number,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": logprobs,
            "finish_reason": reason,
        }
