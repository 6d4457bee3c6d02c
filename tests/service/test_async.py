"""The form for an event loop: the same tokens, from any thread, and a clean end at every point."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import mlxone
from mlxone.core.errors import MlxoneError, UsageError
from mlxone.engine.row import Pending
from tests.service.rig import decoder_of, ids_of, scripted

PROMPT = [(5 * i * i + i + 2) % 300 for i in range(14)]
OPTIONS: dict[str, Any] = {"max_tokens": 12, "eos_token_ids": (), "prefill_step": 5}


def sync_tokens(model: mlxone.Model, prompt: Any = PROMPT, **options: Any) -> list[mlxone.Token]:
    return list(mlxone.generate(model, prompt, **(OPTIONS | options)))


async def async_tokens(model: mlxone.Model, prompt: Any = PROMPT, **options: Any) -> list[mlxone.Token]:
    return [t async for t in mlxone.generate_async(model, prompt, **(OPTIONS | options))]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 4}, {"logprobs": 2, "stop": ["e"]}])
def test_the_same_tokens_as_without_a_loop(model: mlxone.Model, options: dict[str, Any]):
    assert asyncio.run(async_tokens(model, **options)) == sync_tokens(model, **options)


def test_leaving_early_then_stats(model: mlxone.Model):
    async def main() -> None:
        generation = mlxone.generate_async(model, PROMPT, **OPTIONS)
        async for t in generation:
            if t.index == 2:
                break
        stats = generation.stats
        assert (stats.finish_reason, stats.generated_tokens) == ("cancelled", 3)
        assert list(stats.cache_tokens) == PROMPT + [t.token for t in sync_tokens(model)[:2]]
        assert generation.stats is stats
        assert [t async for t in generation] == []

    asyncio.run(main())


def test_two_generations_take_turns(model: mlxone.Model):
    other = [9, 8, 7, 6]

    async def main() -> None:
        pair = [mlxone.generate_async(model, ids, **OPTIONS) for ids in (PROMPT, other)]
        said: list[list[mlxone.Token]] = [[], []]
        for _ in range(12):
            for own, generation in zip(said, pair, strict=True):
                own.append(await anext(generation))
        assert said == [sync_tokens(model), sync_tokens(model, other)]
        assert [g.stats.finish_reason for g in pair] == ["length", "length"]

    asyncio.run(main())


def test_many_at_once(model: mlxone.Model):
    prompts = [[i, i + 1, i + 2] for i in range(6)]

    async def main() -> list[list[mlxone.Token]]:
        return await asyncio.gather(*(async_tokens(model, p, max_tokens=5) for p in prompts))

    assert asyncio.run(main()) == [sync_tokens(model, p, max_tokens=5) for p in prompts]


def test_the_event_loop_is_not_held_up(monkeypatch: pytest.MonkeyPatch):
    """While a token is awaited, the loop goes on: here it is what lets the token come."""
    read, released = Pending.read, threading.Event()

    def waiting(pending: Pending) -> Any:
        assert released.wait(30), "the loop never came to it"
        return read(pending)

    monkeypatch.setattr(Pending, "read", waiting)

    async def main() -> None:
        first = asyncio.ensure_future(anext(mlxone.generate_async(scripted("ab"), "Hi")))
        while decoder_alive := not first.done() and not released.is_set():
            await asyncio.sleep(0)
            released.set()
        assert not decoder_alive
        assert (await first).text == "a"

    asyncio.run(main())


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_another_thread_than_the_loaders(model: mlxone.Model, folder: Any):
    expected = sync_tokens(model)
    assert in_a_thread(lambda: sync_tokens(model)) == expected
    assert in_a_thread(lambda: asyncio.run(async_tokens(model))) == expected
    loaded_there = in_a_thread(lambda: mlxone.load(folder))  # and the other way round, weights unread
    assert sync_tokens(loaded_there) == expected
    begun = mlxone.generate(model, PROMPT, **OPTIONS)
    first = next(begun)
    assert [first, *in_a_thread(lambda: list(begun))] == expected


def test_threads_share_a_model(model: mlxone.Model):
    prompts = [[i, i + 1, i + 2] for i in range(4)]
    expected = [sync_tokens(model, p) for p in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda p: sync_tokens(model, p), prompts)) == expected


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_wait_that_is_cancelled_loses_no_token(goes_on: bool):
    model = scripted("abcdefgh")

    async def main() -> None:
        generation = mlxone.generate_async(model, [1, 2])
        await anext(generation)
        task = asyncio.ensure_future(anext(generation))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if goes_on:
            assert "".join([t.text async for t in generation]) == "bcdefgh"
        await generation.aclose()
        stats = generation.stats
        assert stats.finish_reason == "stop" if goes_on else "cancelled"
        drawn = stats.generated_tokens  # whether the second was under way is the worker's luck
        assert drawn == 9 if goes_on else drawn in (1, 2)
        assert list(stats.cache_tokens) == [1, 2, *ids_of("abcdefgh")[: drawn - 1]]

    asyncio.run(main())


def test_stats_wait_for_the_step_that_is_under_way(monkeypatch: pytest.MonkeyPatch):
    read, under_way, asked = Pending.read, threading.Event(), threading.Event()

    def slow(pending: Pending) -> Any:
        under_way.set()
        assert asked.wait(30)
        return read(pending)

    class Lock:
        """Lets the step end once somebody else wants in."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            if under_way.is_set():
                asked.set()
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    monkeypatch.setattr(Pending, "read", slow)

    async def main() -> None:
        generation = mlxone.generate_async(scripted("abcdefgh"), [1, 2])
        monkeypatch.setattr(generation._generation, "_step", Lock())
        task = asyncio.ensure_future(anext(generation))
        await asyncio.sleep(0)
        under_way.wait(30)
        task.cancel()
        assert generation.stats.generated_tokens == 1

    try:
        asyncio.run(main())
    finally:
        asked.set()


def test_one_thread_does_all_the_work(monkeypatch: pytest.MonkeyPatch):
    read, names = Pending.read, set[str]()

    def watched(pending: Pending) -> Any:
        names.add(threading.current_thread().name)
        return read(pending)

    monkeypatch.setattr(Pending, "read", watched)

    async def main() -> None:
        await asyncio.gather(*(async_tokens(scripted("abcd")) for _ in range(8)))

    asyncio.run(main())
    assert names == {"mlxone-engine_0"}


def test_async_with(model: mlxone.Model):
    async def main() -> None:
        async with mlxone.generate_async(model, PROMPT, **OPTIONS) as generation:
            await anext(generation)
        assert [t async for t in generation] == []
        assert generation.stats.generated_tokens == 1
        assert generation.state.offset == len(PROMPT)

    asyncio.run(main())


@pytest.mark.parametrize("use", [async_tokens])
def test_errors_come_where_they_belong(
    use: Callable[..., Coroutine[Any, Any, Any]], monkeypatch: pytest.MonkeyPatch
):
    model = scripted("abc")
    with pytest.raises(UsageError):  # at the call, not at the first token
        mlxone.generate_async(model, "Hi", temperature=-1)

    def broken(layer: int) -> None:
        raise RuntimeError("gone")

    monkeypatch.setattr(decoder_of(model), "before_layer", broken)

    async def once() -> None:
        generation = mlxone.generate_async(model, "Hi")
        with pytest.raises(MlxoneError, match="gone"):
            await anext(generation)
        assert [t async for t in generation] == []
        assert generation.stats.finish_reason == "error"

    asyncio.run(once())
    monkeypatch.undo()
    assert len(asyncio.run(use(model))) == 12
