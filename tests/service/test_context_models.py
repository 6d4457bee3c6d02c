"""Several models behind one context: by name, on demand, in turns, and put away."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mlxone.core.errors import (
    AmbiguousModel,
    ModelNotFound,
    ModelOverBudget,
    NotPermitted,
)
from mlxone.service import admission, embedded
from mlxone.service.context import Context
from mlxone.service.options import Options
from mlxone.service.shelf import Shelf
from tests.engine import tiny
from tests.service.clients import (
    PROMPT,
    Clock,
    allow,
    asked,
    named,
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


# Several models ------------------------------------------------------------------------------


def test_several_models_by_name(stage: Stage):
    async def test() -> None:
        async with serving(stage.model("alpha"), stage.model("beta")) as context:
            assert {card.id: card.loaded for card in context.models()} == {"alpha": True, "beta": True}
            for name, meant in (("beta", "beta"), (None, "alpha"), ("alph", "alpha")):
                async with await context.answer(named(name)) as answers:
                    assert answers.model == meant
                    await read(answers)
            assert context.figures().model == "alpha" and context.figures().loaded == ("beta", "alpha")
            with pytest.raises(ModelNotFound) as missing:
                await context.answer(named("gamma"))
            assert missing.value.status == 404 and context.figures().totals.refused == 1

    run(test)


def test_without_names_models_are_loaded_when_they_are_asked_for(stage: Stage):
    for name in ("alpha-1", "alpha-2", "beta"):
        stage.model(name)

    async def test() -> None:
        context = Context(folders=[stage.folder])
        await context.start()
        assert [(card.id, card.loaded) for card in context.models()] == [
            ("alpha-1", False), ("alpha-2", False), ("beta", False),
        ]  # fmt: skip
        requests = [context.answer(named("beta", [n, *PROMPT])) for n in range(5, 11)]
        for answers in await asyncio.gather(*requests):
            await read(answers)
        assert stage.loads == ["beta"]  # several wait for one load
        with pytest.raises(AmbiguousModel):
            await context.answer(named("alpha"))
        stage.model("gamma")
        assert "gamma" in [card.id for card in await context.refresh()]
        await read(await context.answer(named("gamma")))
        assert [card.id for card in context.models() if card.loaded] == ["beta", "gamma"]
        await context.close()

    run(test)


def test_models_that_do_not_fit_together_take_turns(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """Also while requests for both of them wait at once: nobody waits for ever."""
    folders = [stage.model(name) for name in ("alpha", "beta")]
    size = needed(Shelf(Options()), offer_of(folders[0]))
    stage.loads.clear()
    allow(monkeypatch, lambda: size)

    async def test() -> None:
        async with serving(*folders) as context:
            wanted = asked([5, 6], tokens=250)
            names = ("alpha", "beta") * 4
            accepted = [await context.answer(replace(wanted, model=name)) for name in names]
            for answers in accepted:
                assert tokens((await read(answers))[0]) == recited(SCRIPT, 2, 250)
                assert context._shelf.ledger.promised_bytes <= size
            await quiet(context)
            assert len(context.figures().loaded) == 1

    run(test)


def test_a_model_larger_than_the_budget(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    folder = stage.model()

    async def test() -> None:
        monkeypatch.setattr(admission, "_budget", lambda machine, given: 1_000)
        context = Context([folder])
        with pytest.raises(ModelOverBudget, match="tiny needs"):  # to the operator
            await context.start()
        await context.close()
        context = Context(folders=[stage.folder])
        await context.start()
        with pytest.raises(ModelOverBudget) as refused:  # and to a client
            await context.answer(named("tiny"))
        assert refused.value.status == 400 and refused.value.details["budget_bytes"] == 1_000
        await context.close()
        with pytest.raises(ModelOverBudget):
            embedded.load_context(folder)

    run(test)


def test_idle_models_are_put_away_and_come_back(stage: Stage, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    clock = Clock()

    async def test() -> None:
        context = Context([stage.model()], options=Options(idle_unload=60.0), clock=clock)
        await context.start()
        await read(await context.answer(asked()))
        clock.now = 59.0
        await asyncio.wrap_future(context._worker.call(lambda: None))
        assert context.figures().loaded == ("tiny",)
        clock.now = 120.0
        for _ in range(1000):  # the chores come after the messages that woke it, several at once maybe
            await asyncio.wrap_future(context._worker.call(lambda: None))
            if not context.figures().loaded:
                break
        assert context.figures().loaded == () and not context.models()[0].loaded
        await read(await context.answer(asked()))
        assert stage.loads == ["tiny", "tiny"]
        await context.close()

    run(test)
    # What an operator reads of it.
    told = [line for line in caplog.messages if "loaded" in line or "mlx-lm" in line]
    assert told == ["loaded tiny", "unloaded tiny: idle for 60 s", "loaded tiny"]


def test_what_a_model_computes_otherwise_is_logged_when_it_is_loaded(
    stage: Stage, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    departing = {**tiny.PLAIN, "model_type": "mistral", "sliding_window": 8, "tie_word_embeddings": False}

    async def test() -> None:
        context = Context([stage.model(config=departing)])
        await context.start()
        for _ in range(2):
            await read(await context.answer(asked()))
        await context.close()

    run(test)
    told = [line for line in caplog.messages if "loaded" in line or "mlx-lm" in line]
    assert told == [
        "loaded tiny",
        "as in mlx-lm, tiny sees all tokens where the published model sees the last 8: "
        "differs in texts longer than that",
    ]


def test_loading_and_unloading_only_where_it_is_allowed(stage: Stage):
    for name in ("alpha", "beta"):
        stage.model(name)

    async def test() -> None:
        context = Context(folders=[stage.folder])
        for call in (context.load, context.unload):
            with pytest.raises(NotPermitted) as refused:
                await call("alpha")
            assert refused.value.status == 403
        await context.close()
        context = Context(folders=[stage.folder], options=Options(allow_manage=True))
        card = await context.load("alpha")
        assert card.loaded and context.figures().loaded == ("alpha",)
        with pytest.raises(ModelNotFound):
            await context.load(str(stage.folder / "beta"))
        assert not (await context.unload("alpha")).loaded and context.figures().loaded == ()
        await context.close()

    run(test)
