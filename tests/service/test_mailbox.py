"""Events between two threads: bounded, in order, and one terminal event for each answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import ShuttingDown, TimedOut
from mlxone.core.words import Event, Failed, Finished, Stats, Token
from mlxone.service.mailbox import Mailbox


def token(index: int) -> Token:
    return Token(index, index, "x")


END = Finished(Stats())


def inside(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(limited())


async def read_all(mail: Mailbox) -> list[tuple[int, Event]]:
    found = []
    while (taken := await mail.take()) is not None:
        found.append(taken)
    return found


def test_a_thread_writes_and_a_loop_reads_in_order():
    async def test() -> None:
        mail = Mailbox(1, bound=10**6)

        def write() -> None:
            for index in range(2_000):
                assert mail.put(0, token(index))
            mail.put(0, END)

        thread = threading.Thread(target=write)
        thread.start()
        read = await read_all(mail)
        thread.join()
        assert read == [*((0, token(i)) for i in range(2_000)), (0, END)]

    inside(test)


def test_a_full_one_is_stalled_until_half_of_it_was_read():
    async def test() -> None:
        calls: list[int] = []
        mail = Mailbox(1, bound=8, room=lambda: calls.append(mail.held))
        for index in range(8):
            assert not mail.stalled
            mail.put(0, token(index))
        assert mail.stalled
        for _ in range(3):
            await mail.take()
            assert mail.stalled and calls == []
        await mail.take()
        assert not mail.stalled and calls == [4]
        await mail.take()
        assert calls == [4]  # once for each time it was full

    inside(test)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["token", "end", "fail"])), max_size=30))
def test_the_first_terminal_event_counts_and_nothing_follows_it(puts: list[tuple[int, str]]):
    events: dict[str, Event] = {"token": token(0), "end": END, "fail": Failed(TimedOut("slow"))}

    async def test() -> None:
        told: list[Event | None] = []
        mail = Mailbox(3, bound=4, ended=told.append)
        ended: set[int] = set()
        for number, kind in puts:
            assert mail.put(number, events[kind]) == (number not in ended)
            ended |= {number} if kind != "token" else set()
            assert mail.is_open(number) == (number not in ended)
            assert len(told) == len(ended)
        mail.fail(ShuttingDown("bye"))
        assert len(told) == 3 and isinstance(told[-1], Failed) == (len(ended) < 3 or told[-1] != END)
        read = await read_all(mail)
        for number in range(3):
            own = [event for n, event in read if n == number]
            assert sum(isinstance(event, Finished | Failed) for event in own) == 1
            assert isinstance(own[-1], Finished | Failed)

    inside(test)


def test_closing_wakes_the_reader_and_drops_everything():
    async def test() -> None:
        told: list[Event | None] = []
        mail = Mailbox(2, ended=told.append)
        reader = asyncio.create_task(mail.take())
        await asyncio.sleep(0)
        mail.put(0, END)
        assert await reader == (0, END)
        reader = asyncio.create_task(mail.take())
        await asyncio.sleep(0)
        mail.close()
        assert await reader is None
        mail.close()
        assert not mail.put(1, token(0)) and mail.held == 0 and mail.closed and told == [END, None]

    inside(test)


def test_a_wait_that_is_given_up_loses_nothing():
    async def test() -> None:
        mail = Mailbox(1)
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(mail.take(), 0.001)
        waiting = [asyncio.create_task(mail.take()) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        mail.put(0, END)
        assert await waiting[1] == (0, END)

    inside(test)


def test_a_loop_that_is_gone_is_noticed_without_a_reader():
    async def test() -> Mailbox:
        mail = Mailbox(1, bound=2, ended=told.append)
        mail.put(0, token(0))
        mail.put(0, token(1))
        assert mail.stalled
        return mail

    told: list[Event | None] = []
    mail = asyncio.run(test())
    assert not mail.stalled  # else nobody would ever put anything again
    mail.put(0, token(2))
    assert mail.closed and mail.held == 0 and told == [None]


def test_a_loop_that_is_gone_closes_it():
    async def test() -> Mailbox:
        mail = Mailbox(1)
        asyncio.create_task(mail.take()).add_done_callback(lambda _: None)
        await asyncio.sleep(0)
        return mail

    mail = asyncio.run(test())
    assert mail.put(0, token(0)) and mail.closed and not mail.put(0, token(1))
