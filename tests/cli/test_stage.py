"""The played rooms take what the real ones take: a fake that drifts away would prove nothing."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tests.cli.stage import Stage

PLAYED = {name: vars(module) for name, module in Stage().modules().items()}
FUNCTIONS = [(name, function) for name, names in PLAYED.items() for function in names if function[0] != "_"]


@pytest.mark.parametrize(("module", "function"), FUNCTIONS)
def test_what_the_stage_takes_the_real_room_takes(module, function):
    real = inspect.signature(getattr(importlib.import_module(module), function)).parameters.values()
    played = list(inspect.signature(PLAYED[module][function]).parameters.values())
    assert [p.name for p in real][: len(played)] == [p.name for p in played]
    # What the stage does not know has to have a default.
    assert all(p.default is not p.empty for p in list(real)[len(played) :])
