"""The one thread: order, parking, cancelling, failing, calls between steps, and an end to everything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxone.core.errors import MlxoneError, ShuttingDown
from mlxone.core.words import Event, Failed, Finished, Progress, Stats, Token
from mlxone.service.mailbox import Mailbox
from mlxone.service.worker import Events, Job, Worker
from tests.service.test_mailbox import read_all

END = Finished(Stats())


class Script:
    """A turn that says so many tokens; `log` is what happened, in order, on all turns that share it."""

    def __init__(self, name: str, tokens: int, log: list[Any], *, end: Event | None = END) -> None:
        self.name, self.tokens, self.log, self.last = name, tokens, log, end
        self.before: Callable[[int], None] = lambda index: None  # each step
        self.may_begin: Callable[[], bool] = lambda: True
        self.ends = 0

    def begin(self) -> Events | None:
        if not self.may_begin():
            self.log.append((self.name, "refused"))
            return None
        return self._events()

    def end(self) -> None:
        self.ends += 1

    def _events(self) -> Generator[Event, None, None]:
        try:
            for index in range(self.tokens):
                self.before(index)
                self.log.append((self.name, index))
                yield Token(index, index, "x")
            if self.last is not None:
                yield self.last
        finally:
            self.log.append((self.name, "closed"))


def with_worker(test: Callable[[Worker], Awaitable[None]], **more: Any) -> None:
    """Runs the test beside a worker, which has ended afterwards with nothing left."""
    worker = Worker(**more)

    async def limited() -> None:
        await asyncio.wait_for(test(worker), 20)

    try:
        asyncio.run(limited())
    finally:
        worker.stop()
        worker.join(10)
    assert not worker.alive and worker.running == worker.waiting == 0


def submit(worker: Worker, turn: Script, bound: int = 256, ended: Any = lambda event: None) -> Mailbox:
    mail = Mailbox(1, bound=bound, room=worker.wake, ended=ended)
    worker.submit(Job(turn, mail, 0))
    return mail


def hold(worker: Worker) -> threading.Event:
    """Keeps the thread busy until the event is set: what is sent meanwhile is there at once."""
    go = threading.Event()
    worker.call(lambda: go.wait(10))
    return go


def kinds(events: Iterable[tuple[int, Event]]) -> list[str]:
    return [type(event).__name__ for _, event in events]


def test_one_after_another_in_the_order_they_came():
    async def test(worker: Worker) -> None:
        log: list[Any] = []
        go = hold(worker)
        mails = [submit(worker, Script(name, 3, log)) for name in "abc"]
        assert worker.running == 0
        go.set()
        for mail in mails:
            assert kinds(await read_all(mail)) == ["Token"] * 3 + ["Finished"]
        assert [entry for entry in log if entry[1] != "closed"] == [(n, i) for n in "abc" for i in range(3)]

    with_worker(test)


def test_a_reader_that_is_behind_holds_up_nobody_and_nothing_grows():
    async def test(worker: Worker) -> None:
        log: list[Any] = []
        slow = submit(worker, Script("slow", 1_000, log), bound=8)
        for name in "abc":
            assert len(await read_all(submit(worker, Script(name, 50, log)))) == 51
        assert slow.held == 8 and log[-1] == ("c", "closed") and worker.running == 1
        read = await read_all(slow)
        assert [e.index for _, e in read if isinstance(e, Token)] == list(range(1_000))

    with_worker(test)


def test_the_oldest_that_can_go_on_goes_on():
    async def test(worker: Worker) -> None:
        log: list[Any] = []
        old = submit(worker, Script("old", 12, log), bound=8)
        while not old.stalled:
            await asyncio.sleep(0.001)
        reached, go = threading.Event(), threading.Event()
        young = Script("young", 30, log)

        def halfway(index: int) -> None:
            if index == 10:
                reached.set()
                go.wait(10)

        young.before = halfway
        mail = submit(worker, young)
        await asyncio.to_thread(reached.wait, 10)
        for _ in range(4):
            await old.take()
        go.set()
        await read_all(mail)
        assert kinds([(0, e) for _, e in await read_all(old)]) == ["Token"] * 8 + ["Finished"]
        assert log.index(("old", 11)) < log.index(("young", 11))

    with_worker(test)


def test_what_raises_fails_alone():
    async def test(worker: Worker) -> None:
        log: list[Any] = []

        def breaks(index: int) -> None:
            if index == 2:
                raise RuntimeError("a step broke")

        broken, told = Script("broken", 5, log), Script("told", 2, log, end=None)
        broken.before = breaks
        refused = Script("refused", 2, log)
        refused.may_begin = lambda: 1 / 0 > 0
        mails = [submit(worker, turn) for turn in (broken, refused, told, Script("next", 2, log))]
        reads = [await read_all(mail) for mail in mails]
        assert kinds(reads[0]) == ["Token", "Token", "Failed"]
        error = reads[0][-1][1]
        assert isinstance(error, Failed) and isinstance(error.error, MlxoneError)
        assert "RuntimeError: a step broke" in str(error.error)
        assert isinstance(error.error.__cause__, RuntimeError)
        assert kinds(reads[1]) == ["Failed"]
        assert kinds(reads[2]) == ["Token", "Token", "Failed"]  # an answer that just stops
        assert kinds(reads[3]) == ["Token", "Token", "Finished"]
        assert [turn.ends for turn in (broken, refused, told)] == [1, 1, 1]

    with_worker(test)


class Odd(BaseException):
    pass


def test_not_even_what_is_no_exception_ends_the_thread():
    async def test(worker: Worker) -> None:
        def odd(index: int) -> None:
            raise Odd

        script = Script("odd", 2, [])
        script.before = odd
        assert kinds(await read_all(submit(worker, script))) == ["Failed"]
        assert kinds(await read_all(submit(worker, Script("next", 1, [])))) == ["Token", "Finished"]
        with pytest.raises(Odd):
            await asyncio.wrap_future(worker.call(lambda: odd(0)))

    with_worker(test)


def test_the_last_event_comes_when_everything_is_in_order():
    async def test(worker: Worker) -> None:
        log: list[Any] = []
        script = Script("a", 1, log)
        mail = submit(worker, script)
        seen: list[Any] = []
        put = mail.put

        def watching(number: int, event: Event) -> bool:
            seen.append((type(event).__name__, worker.running, script.ends, ("a", "closed") in log))
            return put(number, event)

        mail.put = watching  # type: ignore[method-assign]
        await read_all(mail)
        assert seen[-1] == ("Finished", 0, 1, True)

    with_worker(test)


def test_no_room_yet_waits_until_something_has_ended():
    async def test(worker: Worker) -> None:
        log: list[Any] = []
        slow = submit(worker, Script("slow", 20, log), bound=8)
        while not slow.stalled:
            await asyncio.sleep(0.001)
        large = Script("large", 1, log)
        large.may_begin = lambda: ("slow", "closed") in log
        waits = submit(worker, large)
        other = Script("other", 1, log)
        other.may_begin = lambda: ("small", "closed") in log
        next_one = submit(worker, other)
        assert len(await read_all(submit(worker, Script("small", 2, log)))) == 3  # it need not wait as well
        assert len(await read_all(next_one)) == 2  # nobody had to tell it
        assert worker.waiting == 1 and waits.held == 0
        await read_all(slow)
        assert len(await read_all(waits)) == 2
        # Asked when it came, and when something ended; not at every step in between.
        assert log.count(("large", "refused")) <= 4

    with_worker(test)


def test_no_room_yet_is_asked_again_when_it_is_told_to():
    async def test(worker: Worker) -> None:
        room: list[int] = []
        script = Script("a", 1, [])
        script.may_begin = lambda: bool(room)
        mail = submit(worker, script)
        await asyncio.wrap_future(worker.call(lambda: None))
        room.append(1)
        worker.wake()
        assert len(await read_all(mail)) == 2

    with_worker(test)


def test_calls_come_between_two_steps_and_their_errors_go_to_the_caller():
    async def test(worker: Worker) -> None:
        log: list[Any] = []
        endless = submit(worker, Script("a", 10**6, log), bound=10**7)
        name = await asyncio.wrap_future(worker.call(lambda: threading.current_thread().name))
        assert name == "mlxone-models"
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(worker.call(lambda: 1 / 0))
        endless.close()
        worker.wake()
        await asyncio.wrap_future(worker.drained())
        assert log[-1] == ("a", "closed")

    with_worker(test)


def test_drained_and_chores():
    async def test(worker: Worker) -> None:
        await asyncio.wrap_future(worker.drained())
        drained = worker.drained()
        drained.cancel()  # whoever gave up waiting does no harm
        mail = submit(worker, Script("a", 3, []))
        await asyncio.wrap_future(worker.drained())
        assert mail.held == 4 and done

    done: list[int] = []
    with_worker(test, chores=lambda: done.append(1))


def test_chores_come_between_steps_too_when_they_are_due():
    async def test(worker: Worker) -> None:
        log: list[Any] = []
        script = Script("a", 40, log)

        def passes(index: int) -> None:
            now[0] += 0.25
            done.append(("step", index))

        script.before = passes
        await read_all(submit(worker, script, bound=100))
        first = done.index(("step", 0))
        last = done.index(("step", 39))
        assert done[first : last + 1].count("chores") == 9  # once a second, and never in between

    now, done = [0.0], list[Any]()
    with_worker(test, chores=lambda: done.append("chores"), clock=lambda: now[0])


def test_the_last_thing_comes_last():
    async def test(worker: Worker) -> None:
        go = hold(worker)
        script = Script("a", 3, log)
        script.before = lambda index: log.append("never")
        mail = submit(worker, script)
        calls = [worker.call(lambda: log.append("never")) for _ in range(3)]
        worker.stop()
        go.set()
        await asyncio.to_thread(worker.join, 10)
        assert log == ["last"] and script.ends == 1 and kinds(await read_all(mail)) == ["Failed"]
        for call in calls:
            assert isinstance(call.exception(), ShuttingDown)

    log: list[Any] = []
    with_worker(test, last=lambda: log.append("last"))


def test_stopped_before_it_started_it_never_does():
    worker = Worker()
    worker.stop()
    with pytest.raises(ShuttingDown):
        worker.call(lambda: None)
    assert not worker.alive


def test_trouble_at_the_last_is_logged(caplog: pytest.LogCaptureFixture):
    async def test(worker: Worker) -> None:
        await asyncio.wrap_future(worker.call(lambda: None))

    with_worker(test, last=lambda: 1 / 0)
    assert "were not put away well" in caplog.text and "ZeroDivisionError" in caplog.text


def test_stopping_ends_what_is_left_with_one_last_event_each():
    async def test(worker: Worker) -> None:
        log: list[Any] = []
        scripts = [Script(name, 10**6, log) for name in "abc"]
        mails = [submit(worker, script, 16, ended.append) for script in scripts]
        worker.stop()
        await asyncio.to_thread(worker.join, 10)
        for mail in mails:
            last = (await read_all(mail))[-1][1]
            assert isinstance(last, Failed) and isinstance(last.error, ShuttingDown)
        assert len(ended) == 3 and [script.ends for script in scripts] == [1, 1, 1]
        with pytest.raises(ShuttingDown):
            worker.call(lambda: None)
        with pytest.raises(ShuttingDown):
            submit(worker, Script("late", 1, log))

    ended: list[Event | None] = []
    with_worker(test)


def test_overdue_is_a_long_step_and_not_a_long_wait():
    async def test(worker: Worker) -> None:
        go, reached = threading.Event(), threading.Event()
        stuck, behind = Script("stuck", 3, []), Script("behind", 3, [])

        def hangs(index: int) -> None:
            reached.set()
            go.wait(10)

        stuck.before = hangs
        jobs = [Job(turn, Mailbox(1), 0) for turn in (stuck, behind)]
        for job in jobs:
            worker.submit(job)
        await asyncio.to_thread(reached.wait, 10)
        now[0] += 5.0
        assert jobs[0].time_left(now[0], 5.0) == 0.0 and jobs[0].time_left(now[0], 7.0) == 2.0
        now[0] += 1e6
        assert jobs[1].time_left(now[0], 5.0) == 5.0  # its turn has not come
        go.set()
        for job in jobs:
            await read_all(job.mail)
            assert job.time_left(now[0] + 1e6, 5.0) == 5.0

    now = [100.0]
    with_worker(test, clock=lambda: now[0])


# Cancelled at any moment ---------------------------------------------------------------------


@settings(max_examples=60)
@given(moment=st.integers(0, 25), bound=st.sampled_from([4, 256]), ahead=st.booleans())
def test_cancelled_within_one_step(moment: int, bound: int, ahead: bool):
    """Whoever goes away before a step is not worked for in the next."""

    async def test(worker: Worker) -> None:
        log: list[Any] = []
        go = hold(worker)
        first = submit(worker, Script("first", 5, log)) if ahead else None
        script = Script("gone", 20, log)
        ends: list[Event | None] = []
        mail = submit(worker, script, bound, ends.append)

        def leaves(index: int) -> None:
            if index == moment:
                mail.close()
                worker.wake()

        script.before = leaves
        if moment == 25:  # before its turn
            mail.close()
            worker.wake()
        go.set()
        if bound == 4 and 4 <= moment < 25:  # parked: it will never come so far by itself
            while not mail.stalled:
                await asyncio.sleep(0.001)
            mail.close()
            worker.wake()
        last = submit(worker, Script("last", 3, log))
        assert len(await read_all(last)) == 4
        await asyncio.wrap_future(worker.drained())
        if first is not None:
            assert len(await read_all(first)) == 6
        steps = [step for name, step in log if name == "gone" and step != "closed"]
        assert script.ends == 1
        assert ends == ([None] if moment < 20 or moment == 25 or bound == 4 else [END])
        expected = 0 if moment == 25 else min(4 if bound == 4 else 20, moment + 1)
        assert len(steps) == expected
        assert log.count(("gone", "closed")) == (0 if moment == 25 else 1)

    with_worker(test)


def test_a_reader_whose_loop_is_gone_is_not_worked_for():
    worker, log, go = Worker(), list[Any](), threading.Event()
    script = Script("a", 10**6, log)

    def waits(index: int) -> None:
        go.wait(10)

    script.before = waits

    async def leaves() -> None:
        mail = submit(worker, script)
        asyncio.create_task(mail.take()).add_done_callback(lambda _: None)
        await asyncio.sleep(0)

    asyncio.run(leaves())
    go.set()
    worker.drained().result(10)
    assert log == [("a", 0), ("a", "closed")] and script.ends == 1
    worker.stop()
    worker.join(10)


def test_progress_is_an_event_like_others():
    async def test(worker: Worker) -> None:
        class Reads(Script):
            def _events(self) -> Generator[Event, None, None]:
                yield Progress(1, 2)
                yield END

        assert kinds(await read_all(submit(worker, Reads("a", 0, [])))) == ["Progress", "Finished"]

    with_worker(test)
