"""Memory before work: what a loaded model may promise, and whether it can run here at all."""

from __future__ import annotations

from mlxone.backend.arrays import limit_memory, mx
from mlxone.core.errors import OutOfMemory
from mlxone.fitting.admission import Admission
from mlxone.fitting.learned import corrections
from mlxone.fitting.machine import Machine, this_machine
from mlxone.fitting.report import Case
from mlxone.fitting.work import Work
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.service.fitting import within
from mlxone.service.here import inside_mlx, learned_store
from mlxone.service.model import Model

SHORTEST = 256  # tokens without which there is no answer


def admission(model: Model, *, memory_budget: float | None = None, work: Work | None = None) -> Admission:
    """For requests to this model: within `memory_budget` GB, else what a model may use here.

    The same bytes become MLX's limit, in case a prediction is wrong.
    """
    case, machine = _case(model)
    budget = min(within(machine, memory_budget).usable_bytes, _attainable(machine))
    limit_memory(budget)
    return Admission(case, budget, work)


def check_possible(model: Model) -> None:
    """Refuses a model that could only end this process: larger than all the memory there is."""
    case, machine = _case(model)
    needed = case.needs(Work(SHORTEST)).total_bytes
    if needed > machine.memory_bytes:
        there = machine.memory_bytes / 1e9
        raise OutOfMemory(
            f"{model.name} needs {needed / 1e9:.1f} GB and {machine.name} has {there:.1f} GB",
            hint=f"`mlxone fit {model.name} --best` says how many bits would fit",
        )
    # Between what should be used and what there is, it is the user's own risk.
    limit_memory(max(machine.usable_bytes, needed))


def _attainable(machine: Machine) -> int:
    """What is free beside everybody else, with what this process holds already."""
    own = mx.get_active_memory() + mx.get_cache_memory()
    return min(machine.usable_bytes, machine.free_now_bytes + own)


def _case(model: Model) -> tuple[Case, Machine]:
    facts = read_facts(model.path, Config.read(model.path))
    with learned_store() as store:
        machine = this_machine(store, inside_mlx())
        return Case(facts, machine, model.decoder.form, corrections(store, machine)), machine
