"""Memory before work: what loaded models may promise together, and whether one can run here at all."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mlxone.backend.arrays import lift_limit, limit_memory, mx
from mlxone.core.amounts import in_words
from mlxone.core.errors import ModelOverBudget, OutOfMemory
from mlxone.fitting.admission import Admission
from mlxone.fitting.learned import corrections
from mlxone.fitting.machine import Machine, this_machine, weight_rule
from mlxone.fitting.report import Case
from mlxone.fitting.work import Work
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.service.fitting import within
from mlxone.service.here import inside_mlx, learned_store
from mlxone.service.model import Model

SHORTEST = 256  # tokens without which there is no answer


class GivesWay(Protocol):
    """What keeps memory that is useful and not needed: a prefix store."""

    bytes: int

    def give_way(self, size: int) -> int: ...

    def allow(self, size: int) -> None: ...


class Ledger:
    """One budget for all that a process holds: weights, what requests may grow to, kept prompts.

    A model counts from its first ticket on, as its weights are not read before, until it is dropped.
    While any is open, the budget stands behind MLX's limit too.
    """

    def __init__(self, memory_budget: float | None, work: Work | None = None) -> None:
        """`memory_budget` is in GB; without it, what a model may use here beside everybody else."""
        self.memory_budget, self._work = memory_budget, work or Work()
        self.budget = 0
        self._known: list[Admission] = []
        self._counted: list[Admission] = []
        self._stores: list[GivesWay] = []
        self._lock = threading.RLock()
        self._measured_at: float | None = None

    def open(self, model: Model) -> Admission:
        """For requests to this model; the budget is measured anew, for all."""
        case, machine = _case(model)
        found = Admission(case, 0, self._work, elsewhere=lambda: self._beside(found), lock=self._lock)
        with self._lock:
            self._known.append(found)
        self._measure(machine)
        return found

    def count(self, admission: Admission) -> None:
        """From now on its weights are promised."""
        with self._lock:
            if admission not in self._counted:
                self._counted.append(admission)

    def counts(self, admission: Admission) -> bool:
        return admission in self._counted

    def drop(self, admission: Admission) -> None:
        with self._lock:
            for held in (self._known, self._counted):
                if admission in held:
                    held.remove(admission)
            if not self._known:
                lift_limit(self)

    def add_store(self, store: GivesWay) -> None:
        with self._lock:
            if store not in self._stores:
                self._stores.append(store)

    def drop_store(self, store: GivesWay) -> None:
        with self._lock:
            if store in self._stores:
                self._stores.remove(store)

    def give_way(self, size: int) -> int:
        """What was freed of kept prompts: so many bytes, or all there were."""
        freed = 0
        for store in list(self._stores):
            if freed < size:
                freed += store.give_way(size - freed)
        return freed

    @property
    def kept_bytes(self) -> int:
        """What `give_way` could free."""
        return sum(store.bytes for store in list(self._stores))

    def settle(self) -> None:
        """After tickets came or went: kept prompts may have what is not promised."""
        left = self.budget - self._promised()
        for store in list(self._stores):
            store.allow(left)
            left -= store.bytes

    @property
    def promised_bytes(self) -> int:
        """Everything that may be in memory at once."""
        return self._promised() + self.kept_bytes

    def measure(self) -> None:
        """Asks anew what may be used here."""
        with learned_store() as store:
            self._measure(this_machine(store, inside_mlx()))

    def measure_again(self, older: float) -> bool:
        """The same where the last time is so many seconds ago: others come and go on this machine."""
        at = self._measured_at
        if at is not None and time.monotonic() - at < older:
            return False
        self.measure()
        return True

    def check_alone(self, path: Path, name: str) -> None:
        """Before anything is loaded: refuses what would not fit with nothing beside it."""
        with learned_store() as store:
            machine = this_machine(store, inside_mlx())
            facts = read_facts(path, Config.read(path))
            case = Case(facts, machine, weight_rule(machine)(facts.wide_bytes), corrections(store, machine))
        self._measure(machine)
        shortest = min(SHORTEST, facts.context_length or SHORTEST)
        needs = case.needs(Work(shortest, prefill_step=self._work.prefill_step))
        if needs.total_bytes > self.budget:
            raise ModelOverBudget(
                f"{name} needs {in_words(needs.total_bytes)} and {in_words(self.budget)} may be used here",
                hint="a smaller model, or one of fewer bits, needs less",
                param="model",
                details={
                    "weights_bytes": needs.weights_bytes,
                    "needed_bytes": needs.total_bytes,
                    "budget_bytes": self.budget,
                },
            )

    def _measure(self, machine: Machine) -> None:
        with self._lock:
            self._measured_at = time.monotonic()
            own = self.promised_bytes
            self.budget = _budget(_with_own(machine, own), self.memory_budget)
            for admission in self._known:
                admission.budget = self.budget
            if self._known:
                strange = max(0, mx.get_active_memory() - own)  # other models of this process
                limit_memory(self, self.budget + strange, machine.usable_bytes)

    def _promised(self) -> int:
        with self._lock:
            return sum(admission.promised_bytes for admission in self._counted)

    def _beside(self, asking: Admission) -> int:
        others = (other.promised_bytes for other in self._counted if other is not asking)
        return sum(others) + self.kept_bytes


def check_possible(model: Model, beside: int = 0) -> None:
    """Refuses a model that could only end this process: larger than all the memory there is.

    `beside` are the bytes of its adapters.
    """
    case, machine = _case(model)
    needed = case.needs(Work(SHORTEST)).total_bytes + beside
    if needed > machine.memory_bytes:
        there = machine.memory_bytes / 1e9
        what = f"{model.name} with its adapters" if beside else model.name
        raise OutOfMemory(
            f"{what} needs {needed / 1e9:.1f} GB and {machine.name} has {there:.1f} GB",
            hint=f"`mlxone fit {model.name} --best` says how many bits would fit",
        )
    # Between what should be used and what there is, it is the user's own risk.
    most = max(machine.usable_bytes, needed)
    limit_memory(model.decoder, most, most)


def _budget(machine: Machine, memory_budget: float | None) -> int:
    return min(within(machine, memory_budget).usable_bytes, machine.usable_bytes, machine.free_now_bytes)


def _with_own(machine: Machine, promised: int) -> Machine:
    """Free for us is also what was promised and is held already.

    More may be held in this process, by models that are not ours. MLX's cache is anyone's.
    """
    own = min(mx.get_active_memory(), promised) + mx.get_cache_memory()
    return replace(machine, free_now_bytes=machine.free_now_bytes + own)


def _case(model: Model) -> tuple[Case, Machine]:
    facts = read_facts(model.path, Config.read(model.path))
    with learned_store() as store:
        machine = this_machine(store, inside_mlx())
        return Case(facts, machine, model.decoder.form, corrections(store, machine)), machine
