"""What this machine taught: measured over predicted, the middle of the last runs."""

from __future__ import annotations

from mlxone.fitting.machine import Machine
from mlxone.fitting.report import Corrections
from mlxone.fitting.store import Kind, Measurement, Store

LAST = 15  # measurements that count
ENOUGH = 3  # of other models, before they say something of this one
# One odd run (a busy machine, a cold disk) must not turn predictions into nonsense.
LOWEST, HIGHEST = 0.2, 4.0


def corrections(store: Store, machine: Machine, model: str = "") -> Corrections:
    """By what this model showed here; else by what others did, if they did often enough.

    Transients are only ever corrected upwards: what was measured at one context says too little of
    a longer one to promise its memory away.
    """
    return Corrections(
        transient=max(1.0, _factor(store, machine, "transient", model)),
        decode=_factor(store, machine, "decode_tps", model),
        prefill=_factor(store, machine, "prefill_tps", model),
    )


def learn(store: Store, new: Measurement) -> None:
    """`new.predicted` is the plain formula's, without what was learned before."""
    if new.predicted > 0 and new.measured > 0:
        store.add_measurement(new)


def _factor(store: Store, machine: Machine, kind: Kind, model: str) -> float:
    known = [m for m in store.measurements(machine.key, kind) if m.predicted]
    own = [m for m in known if m.model == model]
    if not own and len(known) < ENOUGH:
        return 1.0
    ratios = [m.measured / m.predicted for m in (own or known)[-LAST:]]
    middle = sorted(ratios)[len(ratios) // 2] if ratios else 1.0
    return min(HIGHEST, max(LOWEST, middle))
