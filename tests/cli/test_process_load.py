from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxone.cli.process_load import Load, ProcessLoad, gpu_percent, resident_bytes


def test_cpu_is_what_was_used_since_the_last_look():
    clock, used = iter([10.0, 12.0, 12.0, 16.0]), iter([1.0, 4.0, 4.0, 5.0])
    load = ProcessLoad(lambda: next(clock), lambda: next(used), lambda: None)
    assert [load.read().cpu for _ in range(3)] == [150.0, None, 25.0]


def test_here_and_now():
    load = ProcessLoad().read()
    assert load.cpu is not None
    assert load.cpu >= 0
    if Path("/proc/self/statm").exists():
        assert load.resident_bytes is not None
        assert 1e6 < load.resident_bytes < 1e12
    assert isinstance(load, Load)


def test_memory_that_cannot_be_read(tmp_path: Path):
    assert resident_bytes(tmp_path / "missing") is None
    (tmp_path / "odd").write_text("1\n")
    assert resident_bytes(tmp_path / "odd") is None
    (tmp_path / "fine").write_text("9 2 1\n")
    page = resident_bytes(tmp_path / "fine")
    assert page is not None
    assert page % 1024 == 0


class Nvml:
    """The driver's library, as far as it is asked."""

    def __init__(self, **fails: int) -> None:
        self._fails = fails

    def nvmlInit_v2(self) -> int:
        return self._fails.get("init", 0)

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        assert index == 0
        handle._obj.value = 77
        return self._fails.get("handle", 0)

    def nvmlDeviceGetUtilizationRates(self, handle: Any, percents: Any) -> int:
        assert handle.value == 77
        percents[0], percents[1] = 34, 99
        return self._fails.get("rates", 0)


@pytest.mark.parametrize(
    ("fails", "percent"), [({}, 34), ({"init": 9}, None), ({"handle": 6}, None), ({"rates": 3}, None)]
)
def test_the_gpu_by_its_driver(fails: dict[str, int], percent: int | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Nvml(**fails))
    assert gpu_percent()() == percent


def test_without_a_driver_or_with_another_library_there_is_no_answer(monkeypatch: pytest.MonkeyPatch):
    assert gpu_percent("no-such-library.so")() is None
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert gpu_percent()() is None


def test_a_mac_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("asked"))
    assert gpu_percent()() is None
