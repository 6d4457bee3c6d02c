"""What MLX and the driver say of the device: values that go through JSON, asked in any process."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxone.backend import probe
from mlxone.backend.arrays import mx

VERSION: str = mx.__version__  # type: ignore[attr-defined]  # its stub has none
ROOT = Path(__file__).parents[2]


def test_the_facts_of_this_device():
    facts = probe.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["kind"] in ("apple", "cuda", "cpu")
    assert facts["mlx"] == VERSION
    assert facts["name"] == mx.device_info()["device_name"]
    assert None not in facts.values()


@pytest.mark.parametrize(
    ("metal", "info", "expected"),
    [
        (
            True,
            {
                "device_name": "Apple M3 Max",
                "architecture": "applegpu_g15s",
                "memory_size": 137_438_953_472,
                "max_recommended_working_set_size": 115_448_725_504,
                "resource_limit": 499_000,
            },
            {
                "kind": "apple",
                "name": "Apple M3 Max",
                "architecture": "applegpu_g15s",
                "memory_bytes": 137_438_953_472,
                "recommended_bytes": 115_448_725_504,
            },
        ),
        (
            False,
            {"device_name": "NVIDIA H200", "total_memory": 7, "free_memory": 5, "uuid": "GPU-1"},
            {"kind": "cuda", "name": "NVIDIA H200", "memory_bytes": 7, "free_bytes": 5, "card_id": "GPU-1",
             "card": {"multiprocessors": 132}},
        ),
    ],
)  # fmt: skip
def test_facts_of_gpus(
    metal: bool, info: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mlxone.backend.arrays.on_cpu", lambda: False)
    monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(probe, "card_figures", lambda: {"multiprocessors": 132})
    assert probe.facts() == expected | {"mlx": VERSION}


class Driver:
    """libcuda of one H100, as far as it is asked."""

    answers = {13: 1_980_000, 16: 132, 36: 2_619_000, 37: 5120, 75: 9, 76: 0}

    def __init__(self, *, starts: bool = True) -> None:
        self.starts = starts

    def cuInit(self, flags: int) -> int:
        return 0 if self.starts and flags == 0 else 100

    def cuDeviceGetAttribute(self, value: Any, number: int, device: int) -> int:
        if number not in self.answers or device != 0:
            return 1
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = self.answers[number]
        return 0


def test_the_drivers_figures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert probe.card_figures() == {
        "clock_khz": 1_980_000,
        "multiprocessors": 132,
        "memory_clock_khz": 2_619_000,
        "memory_bus_bits": 5120,
        "capability_major": 9,
        "capability_minor": 0,
    }


def test_a_driver_that_does_not_start_or_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(starts=False))
    assert probe.card_figures() is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # not the library of that name
    assert probe.card_figures() is None

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert probe.card_figures() is None


def test_figures_a_driver_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Driver, "answers", {16: 132})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert probe.card_figures() == {"multiprocessors": 132}


def test_importing_it_brings_no_mlx():
    code = "import sys, mlxone.backend.probe\nprint('mlx' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
