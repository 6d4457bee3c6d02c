"""Events to OpenAI's answers, streamed or whole: one machine for both text routes.

What differs between the routes is a `Shape`. With every token a chunk is three joins around one
encoded text: all else is prepared when a choice begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mlxone.core.errors import MlxoneError
from mlxone.core.words import Asked, Event, Finished, Progress, Stats, Token
from mlxone.server.protocols.dialect import About
from mlxone.server.protocols.openai_common import (
    FINISH_REASONS,
    SSE,
    Frames,
    Reading,
    encode,
    envelope,
    usage,
)
from mlxone.server.protocols.openai_logprobs import Logprobs


class Shape(Protocol):
    """One route's words. `number` is the choice's; what is returned of a chunk is one entry of `choices`."""

    prefix: str  # of an answer's id
    kind: str  # of a whole answer
    chunk_kind: str

    def opening(self, number: int) -> bytes:
        """Said once, before the first text; may be nothing."""

    def around(self, number: int) -> tuple[bytes, bytes, bytes]:
        """Before the text, between the text and its log-probabilities, after those."""

    def closing(self, number: int, reason: str) -> bytes: ...

    def whole(
        self, number: int, text: str, logprobs: dict[str, Any] | None, reason: str
    ) -> dict[str, Any]: ...

    def logprobs(self) -> Logprobs: ...


@dataclass(frozen=True, slots=True)
class TextCall:
    asked: Asked
    streams: bool
    ignored: tuple[str, ...]
    shape: Shape
    includes_usage: bool = False

    @property
    def wants_logprobs(self) -> bool:
        return self.asked.requests[0].logprobs is not None

    def streaming(self, about: About) -> OpenAIStreaming:
        return OpenAIStreaming(self, about)

    def collecting(self, about: About) -> OpenAICollecting:
        return OpenAICollecting(self, about)


class OpenAIStreaming:
    media_type = SSE

    def __init__(self, call: TextCall, about: About) -> None:
        self._call, self._shape = call, call.shape
        self._frames = Frames(about, call.shape.prefix, call.shape.chunk_kind, usage=call.includes_usage)
        self._begun: dict[int, _Speaking] = {}
        self._stats: dict[int, Stats] = {}
        self._reading = Reading()

    def begin(self) -> bytes:
        return b""

    def event(self, choice: int, event: Event) -> bytes:
        if isinstance(event, Token):
            speaking = self._begun.get(choice)
            return (
                speaking.token(event) if speaking else self._open(choice) + self._begun[choice].token(event)
            )
        if isinstance(event, Progress):
            self._reading.heard(choice, event)
            return b""
        if isinstance(event, Finished):
            return self._close(choice, event.stats)
        raise TypeError(f"{type(event).__name__} is not said with event()")

    def keep_alive(self) -> bytes:
        return self._reading.comment()

    def end(self) -> bytes:
        return self._frames.end(usage(self._stats, self._call.asked.choices))

    def fail(self, error: MlxoneError) -> bytes:
        return self._frames.fail(error)

    def _open(self, choice: int) -> bytes:
        self._reading.over(choice)
        logprobs = self._shape.logprobs() if self._call.wants_logprobs else None
        self._begun[choice] = _Speaking(self._frames, self._shape.around(choice), logprobs)
        opening = self._shape.opening(choice)
        return self._frames.chunk(opening) if opening else b""

    def _close(self, choice: int, stats: Stats) -> bytes:
        said = b"" if choice in self._begun else self._open(choice)
        said += self._begun[choice].rest()
        self._stats[choice] = stats
        closing = self._shape.closing(choice, FINISH_REASONS[stats.finish_reason])
        return said + self._frames.chunk(closing)


class _Speaking:
    """One choice's chunks with text."""

    __slots__ = ("_after", "_before", "_between", "_logprobs", "_plain")

    def __init__(self, frames: Frames, around: tuple[bytes, bytes, bytes], logprobs: Logprobs | None) -> None:
        self._before, self._after = frames.around(around[0], around[2])
        self._between = around[1]
        self._plain = self._between + b"null" + self._after
        self._logprobs = logprobs

    def token(self, token: Token) -> bytes:
        if self._logprobs is None:
            return self._before + encode(token.text) + self._plain if token.text else b""
        self._logprobs.add(token)
        return self._with_logprobs(token.text, self._logprobs) if token.text else b""

    def rest(self) -> bytes:
        """What was said of tokens that no text followed: an end of sequence, a stop string."""
        if self._logprobs is None or not self._logprobs.waiting():
            return b""
        return self._with_logprobs("", self._logprobs)

    def _with_logprobs(self, text: str, logprobs: Logprobs) -> bytes:
        return self._before + encode(text) + self._between + encode(logprobs.take()) + self._after


class OpenAICollecting:
    def __init__(self, call: TextCall, about: About) -> None:
        self._call, self._about = call, about
        numbers = range(len(call.asked.requests) * call.asked.choices)
        self._texts: list[list[str]] = [[] for _ in numbers]
        self._logprobs = [call.shape.logprobs() for _ in numbers] if call.wants_logprobs else []
        self._stats: dict[int, Stats] = {}

    def event(self, choice: int, event: Event) -> None:
        if isinstance(event, Token):
            self._texts[choice].append(event.text)
            if self._logprobs:
                self._logprobs[choice].add(event)
        elif isinstance(event, Finished):
            self._stats[choice] = event.stats

    def body(self) -> bytes:
        shape = self._call.shape
        return encode(
            {
                **envelope(self._about, shape.prefix, shape.kind),
                "choices": [self._choice(number) for number in range(len(self._texts))],
                "usage": usage(self._stats, self._call.asked.choices),
            }
        )

    def _choice(self, number: int) -> dict[str, Any]:
        reason = FINISH_REASONS[self._stats[number].finish_reason]
        logprobs = self._logprobs[number].take() if self._logprobs else None
        return self._call.shape.whole(number, "".join(self._texts[number]), logprobs, reason)
