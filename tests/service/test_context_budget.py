"""Hundreds of requests in a tiny budget: promises are kept, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mlxone.core.errors import (
    ContextOverflow,
)
from mlxone.fitting.work import Work
from mlxone.service import turns
from mlxone.service.context import Context
from mlxone.service.options import Options
from mlxone.service.shelf import Shelf
from tests.service.clients import (
    PROMPT,
    Gate,
    allow,
    asked,
    last,
    needed,
    offer_of,
    quiet,
    read,
    run,
    serving,
    tokens,
)
from tests.service.rig import SCRIPT, Stage, recited

pytestmark = pytest.mark.usefixtures("own_limits")


# A budget -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [0, 20_000])
def test_hundreds_of_requests_in_a_tiny_budget(stage: Stage, monkeypatch: pytest.MonkeyPatch, cache: int):
    """Promises never exceed it, nobody waits for ever, and every answer is what it would be alone."""
    folders = [stage.model(name) for name in ("alpha", "beta")]
    size = needed(Shelf(Options()), *map(offer_of, folders), context=400)
    allow(monkeypatch, lambda: size)
    monkeypatch.setattr(turns, "PORTION", 16)

    async def test() -> None:
        context = Context(folders, options=Options(prompt_cache_bytes=cache, queue=1000, prefill_step=64))
        await context.start()
        most = [0]
        measure = context._shelf.measure

        def measuring(*, now: bool = False) -> None:
            most[0] = max(most[0], context._shelf.ledger.promised_bytes)
            measure(now=now)

        context._shelf.measure = measuring  # type: ignore[method-assign]

        async def one(number: int) -> None:
            prompt = [5 + number % 50, *PROMPT[: number % 20]] * (1 + number % 5)
            limit = None if number % 3 == 0 else 1 + number % 90
            wanted = replace(
                asked(prompt, tokens=limit, choices=1 + number % 2), model=("alpha", "beta")[number % 2]
            )
            if limit is None:
                wanted = replace(
                    wanted, requests=(replace(wanted.requests[0], context_size=len(prompt) + 50),)
                )
            found = await read(await context.answer(wanted))
            for number in range(wanted.choices):
                assert tokens(found[number]) == recited(SCRIPT, len(prompt), limit or 50)

        await asyncio.gather(*(one(number) for number in range(200)))
        assert 0 < most[0] <= size
        await quiet(context)
        assert context._shelf.is_idle
        totals = context.figures().totals
        assert (totals.answers, totals.failed, totals.cancelled, totals.refused) == (300, 0, 0, 0)
        await context.close()

    run(test)


def test_an_open_ended_answer_ends_where_memory_does(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """What it is promised grows with it; where nothing more can be had, it ends for its length."""
    folder = stage.model()
    monkeypatch.setattr(turns, "PORTION", 16)

    async def test() -> None:
        context = Context([folder])
        await context.start()
        loaded = context._shelf.loaded[0]
        long = needed(context._shelf, loaded.offer, context=512)
        allow(monkeypatch, lambda: long)
        await asyncio.wrap_future(context._worker.call(context._shelf.ledger.measure))
        before = context._shelf.ledger.promised_bytes
        parked = await context.answer(asked(tokens=480, ids=[7, 8]))  # it holds what was promised to it
        while not parked._mail.stalled:
            await asyncio.sleep(0.001)
        assert context._shelf.ledger.promised_bytes > before
        events = (await read(await context.answer(asked(tokens=None, ids=PROMPT))))[0]
        stats = last(events).stats
        assert stats.finish_reason == "length" and tokens(events) == recited(SCRIPT, 20, len(tokens(events)))
        assert stats.generated_tokens < 492
        await parked.aclose()
        await quiet(context)
        events = (await read(await context.answer(asked(tokens=None, ids=PROMPT))))[0]
        assert last(events).stats.generated_tokens == 492
        await context.close()

    run(test)


def test_a_refusal_has_the_numbers(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    folder = stage.model()
    size = needed(Shelf(Options()), offer_of(folder), context=300)
    allow(monkeypatch, lambda: size)

    async def test() -> None:
        async with serving(folder) as context:
            with pytest.raises(ContextOverflow) as refused:
                await context.answer(asked(tokens=450))
            assert refused.value.code == "context_over_budget"
            assert refused.value.details["budget_bytes"] == size == context.figures().admission.usable_bytes
            assert refused.value.details["max_context"] == context.figures().admission.max_safe_context

    run(test)


def test_what_does_not_fit_beside_others_waits_for_them(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """And whoever needs less goes on meanwhile."""
    folder = stage.model()
    shelf = Shelf(Options())
    states = shelf.take(offer_of(folder)).admission.case.needs(Work(256)).kv_bytes
    size = needed(shelf, offer_of(folder), context=482) + states
    allow(monkeypatch, lambda: size)

    async def test() -> None:
        async with serving(folder, prompt_cache_bytes=0) as context:
            parked = await context.answer(asked([7, 8], tokens=480))
            while not parked._mail.stalled:
                await asyncio.sleep(0.001)
            large = await context.answer(asked(tokens=450))
            small = await context.answer(asked([9], tokens=3))
            assert tokens((await read(small))[0]) == recited(SCRIPT, 1, 3)
            assert (context.figures().running, context.figures().waiting) == (1, 1)
            assert large.is_open and large._mail.held == 0
            await parked.aclose()
            assert tokens((await read(large))[0]) == recited(SCRIPT, 20, 450)

    run(test)


# What may be used changes ---------------------------------------------------------------------


@pytest.mark.parametrize("open_ended", [True, False])
def test_whoever_waits_is_judged_by_what_may_be_used_now(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, open_ended: bool
):
    """An open-ended answer gets what there is; before another is refused, the machine is asked again."""
    folder = stage.model()
    size = [needed(Shelf(Options()), offer_of(folder), context=512)]
    small = needed(Shelf(Options()), offer_of(folder), context=256)
    allow(monkeypatch, lambda: size[0])

    async def test() -> None:
        async with serving(folder, prompt_cache_bytes=0) as context:
            ledger, large = context._shelf.ledger, size[0]
            gate = Gate(stage)
            ahead = await context.answer(asked([5], tokens=1))
            await gate.wait()
            waits = await context.answer(asked(tokens=None if open_ended else 400))
            size[0] = small
            ledger.measure()
            if not open_ended:
                size[0], ledger._measured_at = large, None
            gate.open()
            await read(ahead)
            assert last((await read(waits))[0]).stats.generated_tokens == (236 if open_ended else 400)
            assert ledger.budget == size[0]

    run(test)


def test_what_may_be_used_is_asked_now_and_then(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    async def test() -> None:
        async with serving(stage.model()) as context:
            ledger = context._shelf.ledger
            allow(monkeypatch, lambda: 50_000_000)
            await read(await context.answer(asked()))
            assert ledger.budget != 50_000_000  # it was asked a moment ago
            ledger._measured_at = None
            await read(await context.answer(asked()))
            await quiet(context)
            while ledger.budget != 50_000_000:
                await asyncio.sleep(0.001)
            assert context.figures().admission.usable_bytes == 50_000_000

    run(test)
