"""Every field of OpenAI's two text routes, once: honoured, refused by name, or taken and passed over.

The structs say what types are wanted; docs/protocols/openai.md is checked against these tables. A
field that is null was not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mlxone.core.errors import UsageError
from mlxone.server.protocols.reading import joined


class Ignored(msgspec.Struct, kw_only=True):
    """What has no meaning on a machine of one's own. Wrong types are refused all the same."""

    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None
    verbosity: str | None = None


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # taken and passed over


class Common(Ignored, kw_only=True):
    """What both routes honour."""

    model: str | None = None
    adapter: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens_to_keep: int | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    xtc_special_tokens: list[int] | None = None
    repetition_penalty: float | None = None
    repetition_context_size: int | None = None
    presence_penalty: float | None = None
    presence_context_size: int | None = None
    frequency_penalty: float | None = None
    frequency_context_size: int | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None


class Part(msgspec.Struct, kw_only=True):
    type: str
    text: str | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None  # taken and passed over


class Turn(msgspec.Struct, kw_only=True):
    """One of the messages."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    annotations: list[Any] | None = None  # taken and passed over: what clients send back of an answer


class ChatBody(Common, kw_only=True):
    messages: list[Turn]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionBody(Common, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A field we know and cannot honour. Its harmless values say nothing, and are passed over."""

    why: str
    harmless: tuple[Any, ...] = ()
    hint: str = ""


TOOLS = "tools cannot be called yet"
GRAMMARS = "answers cannot be held to a form yet"
SOUND = "sound cannot be read or made"
DRAFTS = "how to speculate is not a request's choice"

EVERYWHERE: Mapping[str, Refused] = {
    "adapters": Refused(
        "a request chooses by adapter, and cannot bring any", ("", []), hint='adapter: "id", "a+b" or "none"'
    ),
    "draft_model": Refused(DRAFTS),
    "grammar": Refused(GRAMMARS, ("",)),
    "guided_choice": Refused(GRAMMARS, ([],)),
    "guided_grammar": Refused(GRAMMARS, ("",)),
    "guided_json": Refused(GRAMMARS),
    "guided_regex": Refused(GRAMMARS, ("",)),
    "kv_quant": Refused("the KV cache cannot be quantized yet", ("off",)),
    "moderation": Refused("nothing is moderated here"),
    "num_draft_tokens": Refused(DRAFTS),
    "response_format": Refused(GRAMMARS, ({"type": "text"},)),
}

CHAT_REFUSED: Mapping[str, Refused] = {
    **EVERYWHERE,
    "audio": Refused(SOUND),
    "function_call": Refused(TOOLS, ("none", "auto")),
    "functions": Refused(TOOLS, ([],)),
    "modalities": Refused(SOUND, ([], ["text"])),
    "prediction": Refused("a predicted answer cannot be used"),
    "reasoning_effort": Refused(
        "how much to think cannot be chosen yet",
        hint="chat_template_kwargs: {enable_thinking: false} turns it off where the template can",
    ),
    "role_mapping": Refused("the model's own template writes the roles"),
    "tool_choice": Refused(TOOLS, ("none", "auto")),
    "tools": Refused(TOOLS, ([],)),
    "web_search_options": Refused("there is no web search"),
}

COMPLETION_REFUSED: Mapping[str, Refused] = {
    **EVERYWHERE,
    "suffix": Refused("text cannot be filled in before a suffix", ("",)),
}

TURN_REFUSED: Mapping[str, Refused] = {
    "audio": Refused(SOUND),
    "function_call": Refused(TOOLS),
    "refusal": Refused("a refusal of another service says nothing to a template", ("",)),
    "tool_call_id": Refused(TOOLS),
    "tool_calls": Refused(TOOLS, ([],)),
}

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
ROLES_REFUSED = {"tool": TOOLS, "function": TOOLS}

# Content parts that OpenAI knows beside text.
PARTS_REFUSED = {
    "image_url": "images cannot be read yet",
    "input_audio": SOUND,
    "file": "files cannot be read",
    "refusal": "a refusal of another service says nothing to a template",
}


def check_refused(value: Mapping[str, Any], table: Mapping[str, Refused], path: str = "") -> None:
    for name, refused in table.items():
        given = value.get(name)
        if given is not None and given not in refused.harmless:
            where = joined(path, name)
            raise UsageError(f"{where}: {refused.why}", hint=refused.hint, param=where)


def names(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return kind.__struct_fields__


def honoured(kind: type[Common]) -> list[str]:
    return sorted(set(names(kind)) - set(names(Ignored)))
