"""What OpenAI's two text routes share: from fields to sampling wishes, usage, finish reasons, SSE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from mlxone.core.errors import MlxoneError, UsageError
from mlxone.core.words import Progress, Stats
from mlxone.server.protocols.dialect import About
from mlxone.server.protocols.openai_errors import error_value
from mlxone.server.protocols.openai_fields import Common, Ignored, StreamOptions, names
from mlxone.server.protocols.reading import (
    MOST_ID,
    MOST_NAMED,
    check_between,
    check_count,
    check_ids,
    check_range,
    shown,
    unknown,
)

MOST_CHOICES = 128
MOST_STOPS = 16
MOST_ADAPTER = 1_100  # letters: sixteen ids of the longest
MOST_LOGPROBS = 20
MOST_BIASES = 4_096
MOST_BIAS = 10_000  # beyond it float16 has no room
MOST_SPECIAL = 1_024

IN_TABLE = (
    *("temperature", "top_p", "top_k", "min_p", "xtc_probability", "xtc_threshold", "seed"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
AT_LEAST = {
    "min_tokens_to_keep": 1,
    "repetition_context_size": 0,
    "presence_context_size": 0,
    "frequency_context_size": 0,
}

# OpenAI has no word for an answer that the server broke off: it is incomplete, as one at its length limit.
FINISH_REASONS = {"stop": "stop", "length": "length", "cancelled": "length", "error": "length"}

DONE = b"data: [DONE]\n\n"
SSE = "text/event-stream; charset=utf-8"

encode = msgspec.json.Encoder().encode


def wishes(body: Common) -> dict[str, Any]:
    """The sampling values a client gave, by the names of `core.words.Sampling`."""
    for name in IN_TABLE:
        check_range(name, getattr(body, name))
    for name, low in AT_LEAST.items():
        check_between(name, getattr(body, name), low, MOST_ID)
    given = {name: getattr(body, name) for name in (*IN_TABLE, *AT_LEAST)}
    if body.xtc_special_tokens:
        check_ids("xtc_special_tokens", body.xtc_special_tokens, MOST_SPECIAL)
        given["xtc_special_tokens"] = tuple(body.xtc_special_tokens)
    if body.logit_bias:
        given["logit_bias"] = _biases(body.logit_bias)
    return {name: value for name, value in given.items() if value is not None}


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    if len(given) > MOST_BIASES:
        raise UsageError(
            f"logit_bias names {len(given)} tokens; {MOST_BIASES} are allowed", param="logit_bias"
        )
    biases = {}
    for key, value in given.items():
        path = f"logit_bias.{shown(key)}"
        # Only the plain form: "01", "+1" and other digits of Unicode would name a token twice.
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and str(int(key)) == key):
            raise UsageError(f"{path}: a key of logit_bias is the id of a token", param=path)
        check_between(path, value, -MOST_BIAS, MOST_BIAS)
        biases[int(key)] = value
    return biases


def adapter(body: Common) -> str | None:
    """Which are there is the context's to say."""
    if body.adapter:
        check_count("adapter", body.adapter, MOST_ADAPTER)
    return body.adapter or None


def choices(body: Common) -> int:
    check_between("n", body.n, 1, MOST_CHOICES)
    return body.n or 1


def stops(body: Common) -> tuple[str, ...]:
    if body.stop is None or body.stop == []:
        return ()
    if isinstance(body.stop, str):
        check_count("stop", body.stop, len(body.stop))
        return (body.stop,)
    check_count("stop", body.stop, MOST_STOPS)
    for place, stop in enumerate(body.stop):
        check_count(f"stop[{place}]", stop, len(stop))
    return tuple(body.stop)


def ignored(value: Mapping[str, Any], body: Common, known: Iterable[str]) -> list[str]:
    """Fields that mean nothing at all, then those that mean nothing here; not more than are remembered."""
    found = unknown(value, known)
    found += [name for name in names(Ignored) if getattr(body, name) is not None]
    options = value.get("stream_options")
    if options is not None:
        if body.stream:
            found += unknown(options, ("include_usage",), "stream_options")
        else:
            found.append("stream_options")
    return found[:MOST_NAMED]


def includes_usage(options: StreamOptions | None) -> bool:
    return bool(options and options.include_usage)


def usage(stats: Mapping[int, Stats], choices: int) -> dict[str, Any]:
    """Of all answers: a prompt counts once, by its first choice, however many answers it gets."""
    firsts = [of for number, of in stats.items() if number % choices == 0]
    prompt = sum(of.prompt_tokens for of in firsts)
    generated = sum(of.generated_tokens for of in stats.values())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": sum(of.cached_tokens for of in firsts)},
    }


def envelope(about: About, prefix: str, kind: str) -> dict[str, Any]:
    """The fields that every answer and every chunk begins with."""
    return {
        "id": prefix + about.id,
        "object": kind,
        "created": about.created,
        "model": about.model,
        "system_fingerprint": f"mlxone-{about.version}",
    }


class Frames:
    """One stream's server-sent events. What all chunks share is encoded once."""

    def __init__(self, about: About, prefix: str, kind: str, *, usage: bool) -> None:
        self._id = about.id
        self._head = b"data: " + encode(envelope(about, prefix, kind))[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if usage else b"]}\n\n"
        self._usage = usage

    def chunk(self, choice: bytes) -> bytes:
        return self._head + choice + self._tail

    def around(self, before: bytes, after: bytes) -> tuple[bytes, bytes]:
        """A chunk's bytes on both sides of what changes with every token."""
        return self._head + before, after + self._tail

    def end(self, usage: Mapping[str, Any]) -> bytes:
        if not self._usage:
            return DONE
        return self._head + b'],"usage":' + encode(usage) + b"}\n\n" + DONE

    def fail(self, error: MlxoneError) -> bytes:
        """An event that the official client raises; without [DONE], as the answer is not done."""
        return b"data: " + encode(error_value(error, self._id)) + b"\n\n"


class Reading:
    """How far prompts are read, for the comments that keep a connection alive meanwhile."""

    def __init__(self) -> None:
        self._at: dict[int, Progress] = {}

    def heard(self, choice: int, progress: Progress) -> None:
        self._at[choice] = progress

    def over(self, choice: int) -> None:
        self._at.pop(choice, None)

    def comment(self) -> bytes:
        if not self._at:
            return b": keep-alive\n\n"
        done = sum(progress.done for progress in self._at.values())
        total = sum(progress.total for progress in self._at.values())
        return b": prompt %d/%d\n\n" % (done, total)
