"""Whether models fit this machine: the question `ls` asks of thousands at once, so little is imported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlxone.fitting import host
from mlxone.fitting.host import Host
from mlxone.fitting.learned import corrections
from mlxone.fitting.machine import this_machine, weight_rule
from mlxone.fitting.report import Case
from mlxone.fitting.store import Store
from mlxone.fitting.work import Work, usual_context
from mlxone.hub import places
from mlxone.hub.entry import Entry


@contextmanager
def learned_store() -> Iterator[Store]:
    store = Store(places.home() / "learned.sqlite")
    try:
        yield store
    finally:
        store.close()


def fits_here(entries: Sequence[Entry]) -> list[bool | None]:
    """Whether each fits this machine at the usual context; None where its facts are not known."""
    if not any(entry.facts for entry in entries):
        return [None for _ in entries]
    with learned_store() as store:
        machine = this_machine(store)
        learned = corrections(store, machine)
    rule = weight_rule(machine)
    answers: dict[int, bool | None] = {id(None): None}
    for facts in {id(entry.facts): entry.facts for entry in entries}.values():  # many models share theirs
        if facts is not None:
            answers[id(facts)] = _fits(Case(facts, machine, rule(facts.wide_bytes), learned))
    return [answers[id(entry.facts)] for entry in entries]


def _fits(case: Case) -> bool:
    work = Work(usual_context(case.facts))
    return case.needs(work).total_bytes <= case.machine.usable_bytes


def inside_mlx() -> Host:
    """For a process that has MLX loaded: it need not start another one to ask."""

    def run(command: Sequence[str], seconds: float) -> str | None:
        if list(command) != host.device_command():
            return host.run(command, seconds)
        from mlxone.backend import probe

        return json.dumps(probe.facts())

    return Host(run=run)
