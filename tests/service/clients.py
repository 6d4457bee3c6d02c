"""A context and its clients in one event loop: what the tests of many requests are made of."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.words import Asked, ChatRequest, Event, Failed, Finished, Token
from mlxone.fitting.work import Work
from mlxone.service import admission
from mlxone.service.answers import Answers
from mlxone.service.catalogue import Catalogue, Offer
from mlxone.service.context import Context
from mlxone.service.options import Options
from mlxone.service.shelf import Shelf
from tests.service.rig import Stage

PROMPT = tuple(range(5, 25))


def offer_of(folder: Path) -> Offer:
    return Catalogue([folder]).look()[0]


def allow(monkeypatch: pytest.MonkeyPatch, size: Callable[[], int]) -> None:
    """The bytes that all models together may use."""
    monkeypatch.setattr(admission, "_budget", lambda machine, given: size())


def needed(shelf: Shelf, *offers: Offer, context: int = 256) -> int:
    """What these models take together while one of them answers."""
    needs = [shelf.take(offer).admission.case.needs(Work(context)) for offer in offers]
    return sum(each.weights_bytes for each in needs) + needs[0].kv_bytes + needs[0].transient_bytes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(test: Callable[[], Awaitable[None]]) -> None:
    """In an event loop of its own, with nothing left behind."""

    async def limited() -> None:
        await asyncio.wait_for(test(), 20)

    before = threading.active_count()
    asyncio.run(limited())
    assert threading.active_count() == before


@asynccontextmanager
async def serving(*models: Path, **options: Any) -> AsyncIterator[Context]:
    context = Context(models, options=Options(**options))
    try:
        await context.start()
        yield context
    finally:
        await context.close()


def asked(ids: Sequence[int] = PROMPT, *, tokens: int | None = 5, choices: int = 1, **more: Any) -> Asked:
    more.setdefault("wishes", {"temperature": 0})
    request = ChatRequest(ids=tuple(ids), max_tokens=tokens, eos_token_ids=(), **more)
    return Asked(None, (request,), choices)


async def read(answers: Answers) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = {}
    async with answers:
        async for number, event in answers:
            found.setdefault(number, []).append(event)
    for events in found.values():
        ends = [event for event in events if isinstance(event, Finished | Failed)]
        assert len(ends) == 1 and events[-1] is ends[0]
    return found


def tokens(events: Sequence[Event]) -> list[int]:
    return [event.token for event in events if isinstance(event, Token)]


def last(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


WARM_UP = [1]  # what a named model does before its server is ready


def passes(stage: Stage, name: str = "tiny") -> list[int]:
    """The lengths of all passes so far, without those that warmed the model up."""
    log = [entry[1] for entry in stage.decoders[name].log]
    assert log[: len(WARM_UP)] == WARM_UP
    return log[len(WARM_UP) :]


class Gate:
    """Holds a decoder's steps: `reached` says that one has come, `open` lets them all go."""

    def __init__(self, stage: Stage, name: str = "tiny", after: int = 0) -> None:
        self.reached, self._go, self.left = threading.Event(), threading.Event(), after
        stage.decoders[name].before_layer = self._before

    def _before(self, layer: int) -> None:
        if layer == 0 and not self._go.is_set():
            self.left -= 1
            if self.left < 0:
                self.reached.set()
                assert self._go.wait(30)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)

    def open(self) -> None:
        self._go.set()


async def quiet(context: Context) -> None:
    """Until no answer is at work or waits."""
    await asyncio.wrap_future(context._worker.drained())


def named(model: str | None, ids: Sequence[int] = PROMPT) -> Asked:
    return replace(asked(ids), model=model)
