"""Readers that are slow or gone, steps that break or hang: an answer still ends exactly once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.core.errors import (
    MlxoneError,
    Overloaded,
    TimedOut,
)
from mlxone.core.words import Event, Failed, Finished, Token
from mlxone.service import turns
from mlxone.service.answers import Answers
from mlxone.service.context import Context
from mlxone.service.options import Options
from tests.service.clients import (
    PROMPT,
    Clock,
    Gate,
    asked,
    last,
    quiet,
    read,
    run,
    serving,
    tokens,
)
from tests.service.rig import SCRIPT, Stage, recited

pytestmark = pytest.mark.usefixtures("own_limits")


# Slow, gone, broken, late ----------------------------------------------------------------------


def test_a_reader_that_never_reads_holds_up_nobody(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            slow = await context.answer(asked(tokens=480))
            while not slow._mail.stalled:
                await asyncio.sleep(0.001)
            for number in range(3):
                found = await read(await context.answer(asked([number + 5, *PROMPT], tokens=300)))
                assert tokens(found[0]) == recited(SCRIPT, 21, 300)
                assert slow._mail.held == 256
            # Its memory is still promised, and its tokens are what they would have been alone.
            assert context.figures().running == 1
            assert tokens((await read(slow))[0]) == recited(SCRIPT, 20, 480)

    run(test)


def test_a_slow_reader_that_leaves_gives_its_memory_back_at_once(stage: Stage):
    async def test() -> None:
        async with serving(stage.model(), prompt_cache_bytes=0) as context:
            before = context._shelf.ledger.promised_bytes
            parked = await context.answer(asked(tokens=480))
            while not parked._mail.stalled:
                await asyncio.sleep(0.001)
            assert context._shelf.ledger.promised_bytes > before
            await parked.aclose()
            while context.figures().running:  # nothing else happens that would wake anybody
                await asyncio.sleep(0.001)
            assert context._shelf.ledger.promised_bytes == before

    run(test)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moment=st.integers(-1, 24))
def test_a_client_that_goes_away_is_not_worked_for(tmp_path_factory: Any, moment: int):
    """-1: while it waits for its turn; else in that pass of prefill (0 to 4) or decoding."""
    with pytest.MonkeyPatch.context() as patch:
        stage = Stage(tmp_path_factory.mktemp("stage"), patch)

        async def test() -> None:
            async with serving(stage.model(), prefill_step=4, prompt_cache_bytes=10**6) as context:
                await read(await context.answer(asked([9] * 4)))
                log = stage.decoders["tiny"].log
                log.clear()
                gate = Gate(stage, after=max(0, moment))
                ahead = await context.answer(asked([9] * 3, tokens=1)) if moment < 0 else None
                answers = await context.answer(asked(tokens=20))
                await gate.wait()
                await answers.aclose()
                assert [taken async for taken in answers] == []
                gate.open()
                if ahead is not None:
                    assert len((await read(ahead))[0]) >= 2
                    log.clear()
                await quiet(context)
                # The pass it was in is finished; decoding submits one more before a token is read.
                assert len(log) <= (0 if moment < 0 else moment + 2)
                figures = context.figures()
                assert (figures.totals.cancelled, figures.running, figures.waiting) == (1, 0, 0)
                assert figures.memory.active_bytes >= 0
                # What it had read stays for who comes next.
                stats = last((await read(await context.answer(asked())))[0]).stats
                assert stats.cached_tokens == (0 if moment < 0 else min(19, 4 * moment + 4))

        run(test)


def test_a_step_that_raises_fails_its_answers_and_no_others(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            await read(await context.answer(asked([5])))
            broken = [3]

            def breaks(layer: int) -> None:
                broken[0] -= 1
                if broken[0] == 0:
                    raise RuntimeError("the device is on fire")

            stage.decoders["tiny"].before_layer = breaks
            found = await read(await context.answer(asked()))
            failed = found[0][-1]
            assert isinstance(failed, Failed) and isinstance(failed.error, MlxoneError)
            assert failed.error.status == 500 and "on fire" in failed.error.message
            assert tokens((await read(await context.answer(asked())))[0]) == recited(SCRIPT, 20, 5)
            totals = context.figures().totals
            assert (totals.answers, totals.failed, totals.cancelled) == (2, 1, 0)

    run(test)


def test_an_answer_that_cannot_even_begin_fails(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    async def test() -> None:
        async with serving(stage.model()) as context:

            def refuses(*_: object, **__: object) -> None:
                raise ZeroDivisionError("no answer")

            with monkeypatch.context() as patch:
                patch.setattr(turns, "Answer", refuses)
                failed = (await read(await context.answer(asked())))[0][-1]
            assert isinstance(failed, Failed) and "ZeroDivisionError" in str(failed.error)
            assert context._shelf.is_idle and len(context._shelf.loaded[0].admission._tickets) == 0
            assert tokens((await read(await context.answer(asked())))[0]) == recited(SCRIPT, 20, 5)

    run(test)


def test_a_step_that_takes_too_long(stage: Stage):
    clock = Clock()

    async def test() -> None:
        context = Context([stage.model()], options=Options(timeout=100.0), clock=clock)
        await context.start()
        await read(await context.answer(asked([5])))
        gate = Gate(stage)
        stuck = await context.answer(asked())
        waits = await context.answer(asked([6, 7]))
        await gate.wait()
        for passed, late in ((99.0, False), (100.0, True)):
            clock.now = passed
            for answers in (stuck, waits):
                answers.look_at_the_clock()
            assert stuck.is_open is not late and waits.is_open
        failed = [event async for _, event in stuck][-1]
        assert isinstance(failed, Failed) and isinstance(failed.error, TimedOut)
        assert "no new token for 100 s" in failed.error.message
        gate.open()
        assert tokens((await read(waits))[0]) == recited(SCRIPT, 2, 5)
        totals = context.figures().totals
        assert (totals.answers, totals.failed, totals.cancelled) == (2, 1, 0)
        await context.close()

    run(test)


def test_the_timer_looks_at_the_clock_by_itself(stage: Stage):
    async def test() -> None:
        async with serving(stage.model(), timeout=0.02) as context:
            await read(await context.answer(asked([5])))
            gate = Gate(stage)
            events = (await read(await context.answer(asked())))[0]
            assert isinstance(events[-1], Failed) and isinstance(events[-1].error, TimedOut)
            gate.open()

    run(test)


def test_time_in_the_queue_or_behind_a_slow_reader_does_not_count(stage: Stage):
    clock = Clock()

    async def test() -> None:
        context = Context([stage.model()], options=Options(timeout=1.0), clock=clock)
        parked = await context.answer(asked(tokens=400))
        while not parked._mail.stalled:
            await asyncio.sleep(0.001)
        clock.now += 1e6
        parked.look_at_the_clock()
        assert tokens((await read(parked))[0]) == recited(SCRIPT, 20, 400)
        await context.close()

    run(test)


# Whatever happens ----------------------------------------------------------------------------

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "read", "leave", "break", "unload", "pause"]), st.integers(0, 7)
    ),
    max_size=25,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES, grace=st.sampled_from([0.0, 20.0]))
def test_every_accepted_answer_ends_exactly_once(
    tmp_path_factory: Any, moves: list[tuple[str, int]], grace: float
):
    with pytest.MonkeyPatch.context() as patch:
        stage = Stage(tmp_path_factory.mktemp("stage"), patch)
        fuse = [-1]

        def burn(layer: int) -> None:
            fuse[0] -= 1
            if fuse[0] == 0:
                raise RuntimeError("a step broke")

        stage.dress = lambda model: setattr(model.decoder, "before_layer", burn)
        stage.model("alpha")
        stage.model("beta")

        async def test() -> None:
            context = Context(
                folders=[stage.folder], options=Options(allow_manage=True, queue=20, prefill_step=8)
            )
            accepted: list[tuple[Answers, int, dict[int, list[Event]]]] = []
            choices = left = 0
            for move, number in moves:
                name = ("alpha", "beta")[number % 2]
                if move == "ask":
                    wanted = replace(
                        asked([number + 5, *PROMPT], tokens=1 + 60 * number, choices=1 + number % 3),
                        model=name,
                    )
                    try:
                        accepted.append((await context.answer(wanted), wanted.choices, {}))
                        choices += wanted.choices
                    except Overloaded:
                        pass
                elif move == "break":
                    fuse[0] = number * 3
                elif move == "unload":
                    with suppress(Overloaded):
                        await context.unload(name)
                elif move == "pause":
                    await asyncio.sleep(0.001 * number)
                elif accepted:
                    answers, _, found = accepted[number % len(accepted)]
                    if move == "leave":
                        await answers.aclose()
                    for _ in range(number * 9 if move == "read" and answers.is_open else 0):
                        taken = await answers._mail.take()
                        if taken is None:
                            break
                        found.setdefault(taken[0], []).append(taken[1])
            closing = asyncio.create_task(context.close(grace))
            for answers, count, found in accepted:
                gone = answers._mail.closed
                async for number, event in answers:
                    found.setdefault(number, []).append(event)
                for number in range(count):
                    events = found.get(number, [])
                    ends = [event for event in events if isinstance(event, Finished | Failed)]
                    assert len(ends) == 1 or (gone and not ends)
                    assert not ends or events[-1] is ends[0]
                    texts = [e for e in events if isinstance(e, Token)]
                    assert [e.index for e in texts] == list(range(len(texts)))
                    left += not ends
            await closing
            totals = context.figures().totals
            assert totals.answers + totals.failed + totals.cancelled == choices
            assert totals.cancelled <= left
            assert context._shelf_made is None or context._shelf_made.ledger.promised_bytes == 0

        run(test)
