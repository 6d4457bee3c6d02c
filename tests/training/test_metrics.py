"""metrics.jsonl and what its lines are made of: sums, a window, a clock that only counts work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxone.core.errors import StorageError
from mlxone.training.events import Stepped, Validated
from mlxone.training.metrics import Metrics
from mlxone.training.pace import Pace, Taken

KEYS = ["step", "train_loss", "valid_loss", "lr", "tokens_per_s", "peak_memory"]


def stepped(step: int) -> Stepped:
    return Stepped(step, 1 / step, 1e-4, 10, 100.0, 5, 1.0, 2.0)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_is_there_at_once_and_says_the_same_things(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.validated(Validated(0, 2.0, {"accuracy": 0.5}))
    metrics.stepped(stepped(1))
    found = lines(path)
    assert [list(line)[:6] for line in found] == [KEYS, KEYS]
    assert found[0]["valid_loss"] == 2.0 and found[0]["valid_accuracy"] == 0.5 and found[0]["lr"] is None
    assert found[1]["train_loss"] == 1.0 and found[1]["valid_loss"] is None
    metrics.close()


def test_going_on_cuts_back_to_the_step(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in range(1, 8):
        metrics.stepped(stepped(step))
    metrics.close()
    with path.open("a") as file:
        file.write('not a line\n{"step": 2}x\n[3]\n{"step": 8, "train_lo')  # killed while it wrote
    again = Metrics(path, step=4)
    again.stepped(stepped(5))
    again.close()
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 4, 5]
    Metrics(path).close()
    assert path.read_text() == ""


def test_a_validation_that_is_to_come_again_is_cut_off(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in (2, 4):
        metrics.stepped(stepped(step))
        metrics.validated(Validated(step, 1.0))
    metrics.close()
    Metrics(path, step=4).close()
    assert [line["step"] for line in lines(path)] == [2, 2, 4, 4]
    Metrics(path, step=4, validated=False).close()
    assert [(line["step"], line["valid_loss"]) for line in lines(path)] == [(2, None), (2, 1.0), (4, None)]


def test_a_disk_that_takes_nothing_more_is_named(tmp_path: Path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics._file.close()
    metrics._file = open("/dev/full", "a")  # noqa: SIM115 - closed below, as far as it can be
    with pytest.raises(StorageError, match=r"metrics.jsonl cannot be saved: No space left"):
        metrics.stepped(stepped(1))
    with pytest.raises(StorageError):
        metrics.close()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(step: int, total: float = 6.0, weight: float = 3.0, tokens: int = 10) -> Taken:
    return Taken(step, total, weight, {"accuracy": 1.5}, tokens, 1e-4, 0.5)


def test_a_report_is_the_mean_over_all_that_was_scored():
    pace = Pace(10, Clock())
    pace.add(taken(1, 6.0, 3.0))
    pace.add(taken(2, 2.0, 5.0))
    event = pace.report(taken(2), 77)
    assert (event.step, event.loss, event.tokens, event.peak_memory) == (2, 1.0, 20, 77)
    assert event.extras == {"accuracy": 3.0 / 8}
    pace.add(taken(3, 9.0, 3.0))
    assert pace.report(taken(3), 77).loss == 3.0  # of its own window alone


def test_only_work_is_timed():
    clock = Clock()
    pace = Pace(4, clock)
    for step in (1, 2):
        pace.work()
        clock.now += 2.0
        pace.add(taken(step))
        pace.rest()
        clock.now += 1000.0  # validation
    event = pace.report(taken(2), 0)
    assert event.tokens_per_s == 20 / 4.0 and event.eta_s == 4.0


def test_the_window_goes_on_where_it_stood():
    straight, first = Pace(4, Clock()), Pace(4, Clock())
    for pace in (straight, first):
        pace.add(taken(1, 0.1, 3.0))
    second = Pace(4, Clock())
    second.recall(json.loads(json.dumps(first.history())))
    for pace in (straight, second):
        pace.add(taken(2, 0.2, 7.0))
    assert second.report(taken(2), 0).loss == straight.report(taken(2), 0).loss
