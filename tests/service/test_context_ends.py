"""A context closed at any moment: nothing is left in memory, in use, limited or waited for."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mlxone.backend import arrays
from mlxone.core.errors import MlxoneError, ShuttingDown, UsageError
from mlxone.core.words import Failed, Finished
from mlxone.hub import in_use
from mlxone.service import embedded
from mlxone.service.catalogue import Offer
from mlxone.service.context import Context
from mlxone.service.options import Options
from tests.service.clients import Gate, asked, named, passes, read, run, serving
from tests.service.rig import Stage

pytestmark = pytest.mark.usefixtures("own_limits")


def stops_at(patch: pytest.MonkeyPatch, owner: Any, name: str) -> tuple[threading.Event, threading.Event]:
    """The method waits where it begins: `reached` is set then, and `go` lets it go on."""
    real, reached, go = getattr(owner, name), threading.Event(), threading.Event()

    def waits(*args: Any, **more: Any) -> Any:
        reached.set()
        assert go.wait(20)
        return real(*args, **more)

    patch.setattr(owner, name, waits)
    return reached, go


def assert_nothing_left(context: Context, stage: Stage) -> None:
    shelf = context._shelf_made
    assert not context._worker.alive
    assert shelf is None or (not shelf.loaded and shelf.ledger.promised_bytes == 0)
    assert arrays._limit() is None
    assert not any(in_use.using(folder) for folder in stage.folder.iterdir())


async def refused(*tasks: asyncio.Task[Any]) -> None:
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, ShuttingDown), outcome


# While it starts -----------------------------------------------------------------------------

MOMENTS: dict[str, Callable[[Context], tuple[Any, str]]] = {
    "before anything": lambda context: (context, "_make_ready"),
    "while it looks": lambda context: (context._catalogue, "look"),
    "before it loads": lambda context: (context, "_load_named"),
    "while it loads": lambda context: (context._shelf, "bring_in_if_room"),
    "before it warms up": lambda context: (context, "_warm"),
    "while it warms up": lambda context: (context._shelf, "warm"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_closed_while_it_starts(stage: Stage, monkeypatch: pytest.MonkeyPatch, moment: str):
    folders = [stage.model(name) for name in ("alpha", "beta")]

    async def test() -> None:
        context = Context(folders)
        reached, go = stops_at(monkeypatch, *MOMENTS[moment](context))
        start = asyncio.create_task(context.start())
        await asyncio.to_thread(reached.wait, 20)
        closing = asyncio.create_task(context.close())
        stop = context._worker.stop
        stopped = threading.Event()

        def stopping() -> None:
            stop()
            stopped.set()

        monkeypatch.setattr(context._worker, "stop", stopping)
        await asyncio.to_thread(stopped.wait, 20)
        go.set()
        await closing
        (outcome,) = await asyncio.gather(start, return_exceptions=True)
        # What was at its very end may have come through.
        assert isinstance(outcome, ShuttingDown) or (outcome is None and moment == "while it warms up")
        assert_nothing_left(context, stage)
        assert all(decoder.log == [] for decoder in stage.decoders.values()) or "warms" in moment
        assert "beta" not in stage.decoders or stage.decoders["beta"].log == []

    run(test)


def test_a_model_that_is_asked_for_while_it_closes(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """Its name is looked up meanwhile, and its loading would come after everything was put away."""
    stage.model("alpha")

    async def test() -> None:
        context = Context(folders=[stage.folder])
        await context.start()
        reached, go = stops_at(monkeypatch, context._catalogue, "find")
        asking = asyncio.create_task(context.answer(named("alpha")))
        await asyncio.to_thread(reached.wait, 20)
        busy = threading.Event()
        context._worker.call(lambda: busy.wait(20))  # so that closing takes its time
        closing = asyncio.create_task(context.close())
        await asyncio.sleep(0)
        go.set()
        while not asking.done() and context._worker._inbox.empty():
            await asyncio.sleep(0.001)
        busy.set()
        await closing
        await refused(asking)
        assert_nothing_left(context, stage)

    run(test)


def test_a_start_that_fails_leaves_nothing_behind(stage: Stage):
    before = threading.active_count()
    with pytest.raises(UsageError, match="ctx_size"):
        embedded.load_context(stage.model(), ctx_size=10**6)
    assert threading.active_count() == before and arrays._limit() is None
    assert not in_use.using(stage.folder / "tiny")


def test_many_first_questions_are_one_start(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    async def test() -> None:
        context = Context([stage.model()])
        looks, look = list[int](), context._catalogue.look

        def looking() -> list[Offer]:
            looks.append(1)
            return look()

        monkeypatch.setattr(context._catalogue, "look", looking)
        impatient = asyncio.create_task(context.start())
        await asyncio.sleep(0)
        impatient.cancel()  # and takes it from nobody
        found = await asyncio.gather(*(context.answer(asked([n, 7, 7], tokens=1)) for n in range(5, 25)))
        for answers in found:
            await read(answers)
        await context.start()
        assert len(looks) == 1 and stage.loads == ["tiny"]
        assert passes(stage) == [2, 1] * 20  # warmed up once, before them
        await context.close()
        assert_nothing_left(context, stage)

    run(test)


def test_a_start_that_failed_may_be_tried_again(stage: Stage):
    async def test() -> None:
        context = Context([stage.folder / "tiny"])
        for _ in range(2):
            with pytest.raises(MlxoneError):
                await context.start()
        stage.model()
        await context.start()
        assert context.figures().loaded == ("tiny",)
        await context.close()

    run(test)


# Afterwards ----------------------------------------------------------------------------------


def test_what_it_allowed_itself_binds_nobody_afterwards(stage: Stage):
    async def test() -> None:
        async with serving(stage.model(), memory_budget=0.05) as context:
            await read(await context.answer(asked()))
            limit = arrays._limit()
            assert limit is not None and limit >= 50_000_000
        assert_nothing_left(context, stage)

    run(test)


def test_an_answer_that_nobody_reads_ends_with_its_loop(stage: Stage):
    context = Context([stage.model()], options=Options(allow_manage=True))

    async def forgets() -> None:
        answers = await context.answer(asked(tokens=480))
        while not answers._mail.stalled:
            await asyncio.sleep(0.001)

    async def goes_on() -> None:
        while context.figures().running:
            await asyncio.sleep(0.001)
        assert context.figures().totals.cancelled == 1
        assert not (await context.unload("tiny")).loaded
        await context.close()

    asyncio.run(forgets())
    asyncio.run(asyncio.wait_for(goes_on(), 20))
    assert_nothing_left(context, stage)


# A step that takes long ----------------------------------------------------------------------


def test_the_timer_is_set_for_the_moment_that_is_late(stage: Stage):
    now = [0.0]

    async def test() -> None:
        context = Context([stage.model()], options=Options(timeout=100.0), clock=lambda: now[0])
        await context.start()
        gate = Gate(stage)
        now[0] = 10.0
        stuck = await context.answer(asked())
        await gate.wait()
        for now[0], left in ((60.0, 50.0), (109.0, 1.0)):
            stuck.look_at_the_clock()
            timer = stuck._timer
            assert timer is not None
            assert timer.when() - asyncio.get_running_loop().time() == pytest.approx(left, abs=0.5)
        gate.open()
        await read(stuck)
        await context.close()

    run(test)


def test_no_timeout_is_for_ever(stage: Stage):
    async def test() -> None:
        async with serving(stage.model(), timeout=0) as context:
            answers = await context.answer(asked(tokens=200))
            assert answers._timer is None
            assert isinstance((await read(answers))[0][-1], Finished)

    run(test)


# What an error keeps -------------------------------------------------------------------------


def test_an_error_that_is_kept_keeps_no_frames(stage: Stage):
    """But it still says where it was raised."""

    def burn(layer: int) -> None:
        raise RuntimeError("the device is on fire")

    async def test() -> None:
        async with serving(stage.model()) as context:
            stage.decoders["tiny"].before_layer = burn
            failed = (await read(await context.answer(asked())))[0][-1]
            assert isinstance(failed, Failed)
            error: BaseException | None = failed.error
            names = list[str]()
            while error is not None:
                trace = error.__traceback__
                while trace is not None:
                    names.append(trace.tb_frame.f_code.co_name)
                    assert not {"decoder", "state", "row", "loaded"} & trace.tb_frame.f_locals.keys()
                    trace = trace.tb_next
                error = error.__cause__
            assert "burn" in names and "hidden" in names

    run(test)


def test_who_gives_up_waiting_for_a_start_that_fails_leaves_no_complaint(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    """As Ctrl-C does while a model is loaded: asyncio would print a failure that nobody has looked at."""
    reached, go = stops_at(monkeypatch, Context, "_load_named")
    complaints: list[Any] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
        context = Context([stage.model()])
        waiting = asyncio.create_task(context.start())
        await asyncio.to_thread(reached.wait, 20)
        waiting.cancel()
        await asyncio.wait({waiting})
        closing = asyncio.create_task(context.close())
        await asyncio.sleep(0)
        go.set()
        await closing
        await asyncio.sleep(0)
        del context, waiting, closing
        gc.collect()
        assert complaints == []

    run(test)


def test_other_models_are_warmed_up_when_nobody_asks_for_anything(stage: Stage):
    async def test() -> None:
        folders = [stage.model(name) for name in ("first", "second", "third")]
        async with serving(*folders) as context:
            for _ in range(1000):
                left = len(context._cold)
                await asyncio.wrap_future(context._worker.call(lambda: None))  # comes after a warm-up
                if not left:
                    break
            assert passes(stage, "second") == passes(stage, "third") == []  # and the warm-up before

    run(test)
