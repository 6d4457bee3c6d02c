"""Signals to this very process, between steps."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mlxone.cli.stop_request import StopRequest


@pytest.fixture
def request_() -> tuple[StopRequest, list[str], list[int]]:
    told: list[str] = []
    insisted: list[int] = []
    return StopRequest(lambda: told.append("told"), insisted.append), told, insisted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_asks_and_the_second_insists(request_, number, code):
    stop, told, insisted = request_
    with stop:
        stop.arm()
        assert not stop() and stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert told == []  # a handler may not draw
        assert stop() and stop() and told == ["told"]
        assert insisted == [] and stop.exit_code == code
        os.kill(os.getpid(), number)
        assert insisted == [number]


def test_until_it_is_armed_and_after_it_is_over_signals_are_what_they_were(request_):
    stop, _, _ = request_
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with stop:
        assert {number: signal.getsignal(number) for number in before} == before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        stop.arm()
        stop.arm()
        assert {number: signal.getsignal(number) for number in before} != before
    assert {number: signal.getsignal(number) for number in before} == before


def test_on_another_thread_it_is_never_asked(request_):
    stop, _, _ = request_
    thread = threading.Thread(target=stop.arm)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and not stop()
