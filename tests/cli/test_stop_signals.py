"""Signals to this very process, on a real event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from mlxone.cli.stop_signals import StopSignals


async def sent(number: int) -> None:
    os.kill(os.getpid(), number)
    await asyncio.sleep(0)  # the loop reads its wake-up pipe


def run(work: Callable[[StopSignals], Any]) -> tuple[StopSignals, list[int]]:
    insisted: list[int] = []

    async def main() -> StopSignals:
        with StopSignals(insisted.append) as signals:
            await work(signals)
            return signals

    return asyncio.run(main()), insisted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_first_asks(number: int, code: int):
    async def work(signals: StopSignals) -> None:
        await sent(number)
        await signals.told.wait()

    signals, insisted = run(work)
    assert (signals.exit_code, insisted) == (code, [])


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_insists(first: int, second: int):
    insisted: list[int] = []

    async def main() -> None:
        came = asyncio.Event()

        def insist(number: int) -> None:
            insisted.append(number)
            came.set()

        with StopSignals(insist) as signals:
            await sent(first)
            await signals.told.wait()
            await sent(second)
            await came.wait()

    asyncio.run(main())
    assert insisted == [second]


def test_work_that_ends_by_itself():
    async def work(signals: StopSignals) -> None:
        assert await signals.unless_told(asyncio.sleep(0)) is True

    run(work)


def test_work_that_fails():
    async def fail() -> None:
        raise ValueError("why")

    async def work(signals: StopSignals) -> None:
        with pytest.raises(ValueError, match="why"):
            await signals.unless_told(fail())

    run(work)


def test_work_is_given_up_with_the_first_signal_and_may_put_things_in_order():
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("in order")

    async def work(signals: StopSignals) -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        assert await signals.unless_told(endless()) is False
        assert ended == ["in order"]

    run(work)


def test_afterwards_signals_mean_what_they_meant():
    before = signal.getsignal(signal.SIGTERM)

    async def work(_: StopSignals) -> None: ...

    run(work)
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
