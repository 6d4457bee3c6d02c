"""What a loaded model may promise here, and MLX's own limit behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import mlxone
from mlxone.backend import arrays
from mlxone.backend.arrays import mx
from mlxone.core.errors import OutOfMemory, UsageError
from mlxone.fitting.admission import Refusal, Ticket
from mlxone.fitting.work import Work
from mlxone.service import admission
from tests.fitting.cases import GB, machine
from tests.service.rig import write_folder


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What MLX was told, in order; its own limit stays as it is."""
    told: list[int] = []

    def set_limit(size: int) -> int:
        before = told[-1] if told else 100 * GB
        told.append(size)
        return before

    monkeypatch.setattr(mx, "set_memory_limit", set_limit)
    monkeypatch.setattr(arrays, "_limit", None)
    monkeypatch.setattr(arrays, "_mlx_limit", None)
    return told


@pytest.fixture
def model(tmp_path: Path) -> mlxone.Model:
    return mlxone.load(write_folder(tmp_path / "model"))


def on(monkeypatch: pytest.MonkeyPatch, usable: int, free: int | None = None, memory: int | None = None):
    here = replace(
        machine(usable),
        memory_bytes=memory or usable,
        free_now_bytes=usable if free is None else free,
    )
    monkeypatch.setattr(admission, "this_machine", lambda store, asked: here)
    return here


def test_the_budget_is_what_may_be_used_and_mlx_hears_of_it(model, monkeypatch, limits):
    on(monkeypatch, 8 * GB)
    found = admission.admission(model)
    assert (found.budget, limits) == (8 * GB, [8 * GB])
    assert isinstance(found.admit(10, 10), Ticket)


def test_a_budget_of_ones_own(model, monkeypatch, limits):
    on(monkeypatch, 8 * GB)
    assert admission.admission(model, memory_budget=2).budget == 2 * GB
    with pytest.raises(UsageError, match="memory_budget"):
        admission.admission(model, memory_budget=-1)


def test_what_others_hold_is_not_promised(model, monkeypatch, limits):
    on(monkeypatch, 8 * GB, free=1 * GB)
    monkeypatch.setattr(mx, "get_active_memory", lambda: 3 * GB)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: GB // 2)
    assert admission.admission(model).budget == 4 * GB + GB // 2  # what this process holds, it may use
    assert admission.admission(model, memory_budget=500).budget == 4 * GB + GB // 2


def test_how_prompts_are_read_counts(model, monkeypatch):
    on(monkeypatch, 8 * GB)
    one, other = (admission.admission(model, work=Work(prefill_step=step)) for step in (16, 64))
    for each in (one, other):
        assert each.admit(60, 4)
    assert one.promised_bytes < other.promised_bytes


def test_a_model_larger_than_all_memory_is_refused(model, monkeypatch, limits):
    on(monkeypatch, 1000, memory=2000)
    with pytest.raises(OutOfMemory, match=r"needs .* GB and a machine has .* GB") as caught:
        admission.check_possible(model)
    assert "mlxone fit" in caught.value.hint and limits == []
    on(monkeypatch, 6 * GB, memory=8 * GB)
    admission.check_possible(model)
    assert limits == [6 * GB]


def test_a_limit_is_never_raised(limits):
    arrays.limit_memory(200 * GB)
    assert limits == [200 * GB, 100 * GB]


def test_work_stops_where_memory_outgrew_the_limit(model, monkeypatch, limits):
    arrays.limit_memory(4 * GB)
    prompt = list(range(3, 40))
    assert list(mlxone.generate(model, prompt, max_tokens=2, eos_token_ids=()))
    monkeypatch.setattr(mx, "get_active_memory", lambda: 5 * GB)
    with pytest.raises(OutOfMemory, match=r"5\.\d+ GB are in use and 4\.\d+ GB are allowed|5\.00 GB"):
        list(mlxone.generate(model, prompt, max_tokens=2, eos_token_ids=()))


@pytest.mark.parametrize("odd", [(-1, 5, 1), (5, -1, 1), (5, 5, 0)])
def test_what_is_no_request_is_no_ticket(model, monkeypatch, odd):
    on(monkeypatch, 8 * GB)
    with pytest.raises(UsageError, match="no such request"):
        admission.admission(model).admit(*odd)


def test_a_refusal_says_the_numbers(model, monkeypatch):
    on(monkeypatch, 8 * GB)
    found = admission.admission(model).admit(10**6, 1)
    assert isinstance(found, Refusal) and "beyond the model's context" in found.reason
