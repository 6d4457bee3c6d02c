"""One request's life: begun, answered, and however it ends counted and logged exactly once.

A line of the log carries `record.fields`, a dict of plain values, for whoever writes JSON. It holds neither
bodies nor queries nor headers: no prompt and no key can be in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

from mlxone.core.errors import MlxoneError
from mlxone.core.words import Stats
from mlxone.server.counters import Counters
from mlxone.server.errors import WrongMedia
from mlxone.server.messages import Request
from mlxone.service.context import Context

log = logging.getLogger("mlxone.server.requests")

T = TypeVar("T")
Phase = Literal["starting", "ok", "draining"]
GONE = 499  # in the log and the counters only: nobody was left to be told
LONG = 200_000  # bytes of a body that are read beside the event loop: others are being answered there
_SHOWN = 200
_NAMED = 50  # fields without a meaning that are named


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds after which a stream says that it is alive."""

    quiet: float = 5.0  # since anything was sent
    progress: float = 1.0  # the same, when more of a prompt has been read meanwhile


@dataclass(slots=True)
class Shared:
    """What all exchanges of one server have in common."""

    context: Context
    describe: Callable[[], bytes]  # the OpenAPI document
    counters: Counters = field(default_factory=Counters)
    pace: Pace = Pace()
    phase: Phase = "starting"


@dataclass(slots=True)
class Spent:
    """What the answers of one request cost."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    decode_ms: float = 0.0  # of all, so that a speed is that of one answer

    def add(self, stats: Stats, *, shares_prompt: bool = False) -> None:
        if not shares_prompt:
            self.prompt += stats.prompt_tokens
            self.cached += stats.cached_tokens
        self.generated += stats.generated_tokens
        self.decode_ms += stats.decode_ms

    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "cached_tokens": self.cached,
            "generated_tokens": self.generated,
        }
        if self.decode_ms:
            found["tokens_per_second"] = round(self.generated / self.decode_ms * 1000, 1)
        return found


class Exchange:
    def __init__(self, request: Request, shared: Shared) -> None:
        self.request = request
        self.shared = shared
        self.path = ""  # the route's, as in the table
        self.argument = ""  # what stood at its `{id}`
        self.level = logging.INFO
        self.spent: Spent | None = None  # only answers have any
        self.error: MlxoneError | None = None
        self._started = time.monotonic()
        self._over = False
        shared.counters.began()

    async def body(self, parse: Callable[[bytes], T]) -> T:
        """What a codec makes of it: JSON, or what says nothing of itself.

        A web page can send other types without being asked.
        """
        kind = self.request.header(b"content-type")
        if kind is not None and not _is_json(kind):
            raise WrongMedia(
                f"the body has to be application/json, not {kind[:_SHOWN]!r}",
                hint="send `Content-Type: application/json`",
            )
        body = await self.request.read()
        return parse(body) if len(body) < LONG else await asyncio.to_thread(parse, body)

    def ignores(self, fields: Iterable[str]) -> None:
        """What a client gave and nothing heeds: the one place that says so."""
        if not log.isEnabledFor(logging.DEBUG):
            return
        for path in islice(fields, _NAMED):
            log.debug("%s gave %s, which means nothing here", self.request.id, _printable(path))

    def spend(self, stats: Stats, *, shares_prompt: bool) -> None:
        """An answer ended; `shares_prompt` is one that another answer of the same prompt counts."""
        self.spent = self.spent or Spent()
        self.spent.add(stats, shares_prompt=shares_prompt)

    def end(self, status: int) -> None:
        if self._over:
            return
        self._over = True
        self.shared.counters.ended(self.path, status)
        if log.isEnabledFor(self.level):
            fields = self._fields(status)
            log.log(self.level, "%s", _line(fields), extra={"fields": fields})

    def _fields(self, status: int) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "id": self.request.id,
            "peer": self.request.peer,
            "method": _printable(self.request.method),
            "path": _printable(self.request.path),
            "status": status,
            "ms": round((time.monotonic() - self._started) * 1000, 1),
        }
        if self.spent is not None:
            fields |= self.spent.fields()
        if self.error is not None:
            fields["error"] = self.error.code
        return fields


class Watched:
    """A body that ends its exchange when it is closed, read to its end or not."""

    def __init__(self, body: AsyncIterator[bytes], exchange: Exchange, status: int) -> None:
        self._body, self._exchange, self._status = body, exchange, status
        self._finished = False

    def __aiter__(self) -> Watched:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._body)
        except StopAsyncIteration:
            self._finished = True
            raise

    async def aclose(self) -> None:
        try:
            if (close := getattr(self._body, "aclose", None)) is not None:
                await close()
        finally:
            self._exchange.end(self._status if self._finished else GONE)


def _is_json(content_type: str) -> bool:
    kind, *parameters = content_type.lower().split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    charsets = [value.strip().strip('"') for name, _, value in pairs if name.strip() == "charset"]
    return kind.strip() == "application/json" and set(charsets) <= {"utf-8", "utf8"}


def _line(fields: dict[str, Any]) -> str:
    """`3f2a POST /v1/chat/completions 200 812.4 ms, 25 prompt (20 cached), 32 generated, 41.2 tok/s`"""
    line = "{id} {method} {path} {status} {ms} ms".format_map(fields)
    if "prompt_tokens" in fields:
        line += ", {prompt_tokens} prompt ({cached_tokens} cached), {generated_tokens} generated".format_map(
            fields
        )
    if "tokens_per_second" in fields:
        line += f", {fields['tokens_per_second']} tok/s"
    return line + (f", {fields['error']}" if "error" in fields else "")


def _printable(text: str) -> str:
    """A path can hold line ends and worse; in the log it is one line of letters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_SHOWN])
