"""run.json: whoever looks into a run's folder knows how it stands, or why it is over."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import StorageError, TrainingFailed
from mlxone.training import gradients, steps
from mlxone.training.events import Event, Started, Stepped, Stopped
from mlxone.training.standing import LONGEST, Standing
from tests.training import runs
from tests.training.runs import run

PLAIN: dict[str, Any] = {"iters": 4, "lr": 1e-2, "batch": 2, "save_every": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.model(tmp_path_factory.mktemp("models") / "tiny")


def standing(folder: Path) -> tuple[str, int, int, str | None]:
    found = json.loads((folder / "run.json").read_text())
    assert list(found) == ["status", "step", "steps", "reason"]
    return tuple(found.values())


def test_it_runs_and_is_done(model: Path, tmp_path: Path):
    seen = []

    def watch(event: Event) -> None:
        if isinstance(event, Started | Stepped | Stopped):
            seen.append(standing(tmp_path))

    run(model, tmp_path, watch, **PLAIN)
    while_it_runs = [("running", step, 4, None) for step in (0, 0, 0, 2, 2)]
    assert seen == [*while_it_runs, ("done", 4, 4, None)]


def test_stopped_and_gone_on_with(model: Path, tmp_path: Path):
    run(model, tmp_path, should_stop=runs.after(3), **PLAIN)
    status, step, of, reason = standing(tmp_path)
    assert (status, of, reason) == ("stopped", 4, "asked")
    seen = []

    def watch(event: Event) -> None:
        if isinstance(event, Started):
            seen.append(standing(tmp_path))

    run(model, tmp_path, watch, resume=True)
    assert seen == [("running", step, 4, None)] and standing(tmp_path) == ("done", 4, 4, None)


def test_why_it_broke_down(model: Path, tmp_path: Path, monkeypatch):
    real = gradients.loss_and_gradients

    def broken(*args, **options):
        measured, slopes = real(*args, **options)
        measured.total = measured.total * math.nan
        return measured, slopes

    monkeypatch.setattr(steps, "loss_and_gradients", broken)
    with pytest.raises(TrainingFailed):
        run(model, tmp_path, **PLAIN)
    status, step, _, reason = standing(tmp_path)
    assert (status, step) == ("failed", 0) and reason.startswith("the loss of step 1 is not a finite number")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (KeyError("mine"), "failed", "KeyError: 'mine'"),
        (ValueError("a\nb " + "c" * 999), "failed", ("ValueError: a b " + "c" * 999)[:LONGEST]),
    ],
)
def test_whatever_ends_it(model: Path, tmp_path: Path, error, status, reason):
    def watch(event: Event) -> None:
        if isinstance(event, Stepped):
            raise error

    with pytest.raises(type(error)):
        run(model, tmp_path, watch, **PLAIN)
    assert standing(tmp_path) == (status, 1, 4, reason)


def test_what_comes_behind_the_end_does_not_change_it(model: Path, tmp_path: Path):
    def watch(event: Event) -> None:
        if isinstance(event, Stopped):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        run(model, tmp_path, watch, **PLAIN)
    assert standing(tmp_path) == ("done", 4, 4, None)


def test_a_full_disk_hides_no_other_error(tmp_path: Path, monkeypatch):
    found = Standing(tmp_path / "run.json", 4)
    found.running(1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    found.broken(1, KeyError("mine"))
    assert standing(tmp_path) == ("running", 1, 4, None)
    with pytest.raises(StorageError, match="run.json cannot be saved: No space left"):
        found.over(4, "done")
