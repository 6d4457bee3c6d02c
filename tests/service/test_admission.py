"""What a loaded model may promise here, and MLX's own limit behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

import mlxone
from mlxone.backend import arrays
from mlxone.backend.arrays import mx
from mlxone.core.errors import OutOfMemory, UsageError
from mlxone.fitting.admission import Admission, Refusal, Ticket
from mlxone.fitting.work import Work
from mlxone.service import admission
from tests.fitting.cases import GB, machine
from tests.service.rig import write_folder


def admission_of(
    model: mlxone.Model, *, memory_budget: float | None = None, work: Work | None = None
) -> Admission:
    """One model's, with a ledger of its own."""
    ledger = admission.Ledger(memory_budget, work)
    found = ledger.open(model)
    ledger.count(found)
    ledger.measure()
    return found


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What MLX was told, in order; its own limit stays as it is."""
    told: list[int] = []

    def set_limit(size: int) -> int:
        before = told[-1] if told else 100 * GB
        told.append(size)
        return before

    monkeypatch.setattr(mx, "set_memory_limit", set_limit)
    monkeypatch.setattr(arrays, "_limits", WeakKeyDictionary())
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
    found = admission_of(model)
    assert found.budget == 8 * GB and set(limits) == {8 * GB}
    assert isinstance(found.admit(10, 10), Ticket)


def test_a_budget_of_ones_own(model, monkeypatch, limits):
    on(monkeypatch, 8 * GB)
    assert admission_of(model, memory_budget=2).budget == 2 * GB
    with pytest.raises(UsageError, match="memory_budget"):
        admission_of(model, memory_budget=-1)


def test_what_others_hold_is_not_promised(model, monkeypatch, limits):
    on(monkeypatch, 8 * GB, free=1 * GB)
    monkeypatch.setattr(mx, "get_active_memory", lambda: 3 * GB)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: GB // 2)
    found = admission_of(model)
    weights = found.promised_bytes
    assert 0 < weights < 3 * GB
    # MLX's cache is anyone's, and of the rest only what this one promised is its own.
    assert found.budget == 1 * GB + GB // 2 + weights
    assert admission_of(model, memory_budget=500).budget == found.budget
    monkeypatch.setattr(mx, "get_active_memory", lambda: 1_000)
    assert admission_of(model).budget == 1 * GB + GB // 2 + 1_000  # it was not read yet


def test_how_prompts_are_read_counts(model, monkeypatch):
    on(monkeypatch, 8 * GB)
    one, other = (admission_of(model, work=Work(prefill_step=step)) for step in (16, 64))
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
    with pytest.raises(OutOfMemory, match="with its adapters needs"):
        admission.check_possible(model, beside=8 * GB)


def test_a_limit_is_never_raised(limits):
    arrays.limit_memory(Owner(), 200 * GB, 200 * GB)
    assert limits == [200 * GB, 100 * GB]


class Owner:
    pass


def test_limits_add_up_to_what_the_machine_allows_and_are_given_back(limits):
    one, two = Owner(), Owner()
    arrays.limit_memory(one, 2 * GB, 8 * GB)
    arrays.limit_memory(two, 3 * GB, 8 * GB)
    assert limits == [2 * GB, 5 * GB]  # neither stands in the other's way
    arrays.limit_memory(two, 7 * GB, 8 * GB)
    assert limits[-1] == 8 * GB
    arrays.lift_limit(two)
    assert limits[-1] == 2 * GB
    del one  # gone without a word
    assert arrays._limit() is None
    arrays.lift_limit(two)
    three = Owner()
    arrays.limit_memory(three, GB, 8 * GB)
    arrays.lift_limit(three)
    assert limits[-1] == 100 * GB  # MLX's own


def test_a_ledger_limits_while_a_model_of_it_is_open(model, monkeypatch, limits):
    on(monkeypatch, 8 * GB)
    ledger = admission.Ledger(2.0)
    ledger.measure()
    assert limits == []
    one, two = ledger.open(model), ledger.open(model)
    monkeypatch.setattr(mx, "get_active_memory", lambda: 3 * GB)
    ledger.measure()
    assert limits[-1] == 5 * GB  # beside what others in this process hold
    ledger.drop(one)
    assert arrays._limit() == 5 * GB
    ledger.drop(two)
    assert arrays._limit() is None and limits[-1] == 100 * GB


def test_measured_again_when_it_is_old(model, monkeypatch, limits):
    on(monkeypatch, 8 * GB)
    ledger = admission.Ledger(None)
    assert ledger.measure_again(1e6)  # never before
    found = ledger.open(model)
    on(monkeypatch, 6 * GB)
    assert not ledger.measure_again(1e6) and found.budget == 8 * GB
    assert ledger.measure_again(0.0) and found.budget == ledger.budget == 6 * GB


def test_work_stops_where_memory_outgrew_the_limit(model, monkeypatch, limits):
    owner = Owner()
    arrays.limit_memory(owner, 4 * GB, 8 * GB)
    prompt = list(range(3, 40))
    assert list(mlxone.generate(model, prompt, max_tokens=2, eos_token_ids=()))
    monkeypatch.setattr(mx, "get_active_memory", lambda: 5 * GB)
    with pytest.raises(OutOfMemory, match=r"5\.\d+ GB are in use and 4\.\d+ GB are allowed|5\.00 GB"):
        list(mlxone.generate(model, prompt, max_tokens=2, eos_token_ids=()))


@pytest.mark.parametrize("odd", [(-1, 5, 1), (5, -1, 1), (5, 5, 0)])
def test_what_is_no_request_is_no_ticket(model, monkeypatch, odd):
    on(monkeypatch, 8 * GB)
    with pytest.raises(UsageError, match="no such request"):
        admission_of(model).admit(*odd)


def test_a_refusal_says_the_numbers(model, monkeypatch):
    on(monkeypatch, 8 * GB)
    found = admission_of(model).admit(10**6, 1)
    assert isinstance(found, Refusal) and "beyond the model's context" in found.reason
