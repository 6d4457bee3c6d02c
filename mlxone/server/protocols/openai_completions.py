"""`POST /v1/completions`, the older route without templates: `parse(body)`. See docs/protocols/openai.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from mlxone.core.errors import UsageError
from mlxone.core.words import Asked, ChatRequest
from mlxone.server.protocols.openai_answers import TextCall
from mlxone.server.protocols.openai_common import (
    MOST_LOGPROBS,
    adapter,
    choices,
    encode,
    ignored,
    includes_usage,
    stops,
    wishes,
)
from mlxone.server.protocols.openai_fields import COMPLETION_REFUSED, CompletionBody, check_refused, names
from mlxone.server.protocols.openai_logprobs import LegacyLogprobs
from mlxone.server.protocols.reading import (
    MOST_IDS,
    body_object,
    check_between,
    check_count,
    check_ids,
    check_range,
    into,
)

MOST_PROMPTS = 128

Prompt = str | Sequence[int]


def parse(body: bytes) -> TextCall:
    """Any bytes: a call, or a UsageError that names the field."""
    value = body_object(body)
    check_refused(value, COMPLETION_REFUSED)
    asked = into(CompletionBody, value)
    prompts = _prompts(asked)
    n = choices(asked)
    _check_best_of(asked, n)
    check_range("max_tokens", asked.max_tokens)
    check_between("logprobs", asked.logprobs, 0, MOST_LOGPROBS)
    common = ChatRequest(
        wishes=wishes(asked),
        max_tokens=asked.max_tokens,
        stop=stops(asked),
        logprobs=asked.logprobs,
        adapter=adapter(asked),
    )
    passed_over = ignored(value, asked, (*names(CompletionBody), *COMPLETION_REFUSED))
    return TextCall(
        Asked(asked.model or None, tuple(_request(prompt, common) for prompt in prompts), n),
        bool(asked.stream),
        tuple(passed_over),
        CompletionShape(_echoes(asked, prompts), n),
        includes_usage(asked.stream_options),
    )


def _request(prompt: Prompt, common: ChatRequest) -> ChatRequest:
    if isinstance(prompt, str):
        return replace(common, text=prompt)
    return replace(common, ids=tuple(prompt))


def _prompts(asked: CompletionBody) -> list[Prompt]:
    """One text, several texts, the ids of one prompt, or of several."""
    given = asked.prompt
    if isinstance(given, str):
        return [given]
    kinds = {type(item) for item in given}
    if kinds == {int}:
        check_ids("prompt", cast(list[int], given), MOST_IDS)
        return [cast(list[int], given)]
    check_count("prompt", given, MOST_PROMPTS)
    if len(kinds) > 1:
        raise UsageError("prompt mixes texts, ids and lists of ids", param="prompt")
    if kinds == {list}:
        for place, ids in enumerate(cast(list[list[int]], given)):
            check_ids(f"prompt[{place}]", ids, MOST_IDS)
    return cast(list[Prompt], given)


def _check_best_of(asked: CompletionBody, n: int) -> None:
    if asked.best_of not in (None, 1, n):
        raise UsageError(
            "best_of: answers cannot be ranked; it may only be n",
            hint="ask for n answers and choose",
            param="best_of",
        )


def _echoes(asked: CompletionBody, prompts: list[Prompt]) -> list[str]:
    if not asked.echo:
        return []
    if asked.logprobs is not None:
        raise UsageError("echo: log-probabilities of a prompt are not known", param="echo")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise UsageError("echo: a prompt given as ids has no text to repeat", param="echo")
    return texts


class CompletionShape:
    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"
    logprobs = LegacyLogprobs

    def __init__(self, echoes: Sequence[str] = (), choices: int = 1) -> None:
        self._echoes, self._choices = echoes, choices

    def opening(self, number: int) -> bytes:
        echo = self._echo(number)
        before, between, after = self.around(number)
        return before + encode(echo) + between + b"null" + after if echo else b""

    def around(self, number: int) -> tuple[bytes, bytes, bytes]:
        return b'{"index":%d,"text":' % number, b',"logprobs":', b',"finish_reason":null}'

    def closing(self, number: int, reason: str) -> bytes:
        return b'{"index":%d,"text":"","logprobs":null,"finish_reason":"%s"}' % (number, reason.encode())

    def whole(self, number: int, text: str, logprobs: dict[str, Any] | None, reason: str) -> dict[str, Any]:
        return {
            "index": number,
            "text": self._echo(number) + text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }

    def _echo(self, number: int) -> str:
        return self._echoes[number // self._choices] if self._echoes else ""
