"""What this machine taught: measured over predicted, the middle of the last runs."""

from __future__ import annotations

from mlxone.fitting.machine import Machine
from mlxone.fitting.report import Corrections
from mlxone.fitting.store import Kind, Measurement, Store

LAST = 15  # measurements that count
# One odd run (a busy machine, a cold disk) must not turn predictions into nonsense.
LOWEST, HIGHEST = 0.2, 4.0


def corrections(store: Store, machine: Machine) -> Corrections:
    return Corrections(
        transient=_factor(store, machine, "transient"),
        decode=_factor(store, machine, "decode_tps"),
        prefill=_factor(store, machine, "prefill_tps"),
    )


def learn(store: Store, new: Measurement) -> None:
    """`new.predicted` is the plain formula's, without what was learned before."""
    if new.predicted > 0 and new.measured > 0:
        store.add_measurement(new)


def _factor(store: Store, machine: Machine, kind: Kind) -> float:
    ratios = [m.measured / m.predicted for m in store.measurements(machine.key, kind)[-LAST:] if m.predicted]
    middle = sorted(ratios)[len(ratios) // 2] if ratios else 1.0
    return min(HIGHEST, max(LOWEST, middle))
