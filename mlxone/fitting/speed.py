"""How fast a model is on a machine, predicted: reading weights bounds decoding, products bound prefill.

The shares of a chip's peak were fitted to measured runs (docs/fit.md); what was measured on this
very machine corrects them. None wherever a machine's own speed is not known: no number is made up.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlxone.backend.cpu import WeightForm
from mlxone.core.facts import ModelFacts
from mlxone.fitting.machine import Kind, Machine
from mlxone.fitting.states import kv_bytes
from mlxone.fitting.weights import element_bytes, growth
from mlxone.fitting.work import Work


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the chip's peak."""

    plain: float  # of bandwidth, with weights that are not packed
    packed: float
    layer_seconds: float  # what the host needs to submit one layer's step, whatever its size
    products: float  # of the matrix units' speed
    packed_products: float


SHARES: dict[Kind, Shares] = {
    "cuda": Shares(0.80, 0.27, 150e-6, 0.50, 0.15),
    "cpu": Shares(1.0, 1.0, 0.0, 1.0, 1.0),  # of what was measured on the machine itself
    # Not measured by this project: what others report of MLX on M1 to M4.
    "apple": Shares(0.80, 0.72, 40e-6, 0.55, 0.50),
}


def decode_tps(facts: ModelFacts, machine: Machine, work: Work, form: WeightForm) -> float | None:
    """Tokens a second of one row; all rows read the weights together.

    The host submits the next step while the device computes this one: the slower of the two counts.
    """
    if machine.bandwidth is None:
        return None
    shares = SHARES[machine.kind]
    share = shares.packed if _is_packed(facts, form) else shares.plain
    weights = facts.read_bytes(work.rows) * growth(facts, form)
    states = kv_bytes(facts, work, element_bytes(facts, form))
    seconds = (weights / share + states / shares.plain) / machine.bandwidth
    longer = max(seconds, shares.layer_seconds * facts.layer_count)
    return 1 / longer if longer else None


def prefill_tps(facts: ModelFacts, machine: Machine, work: Work, form: WeightForm) -> float | None:
    if machine.flops is None:
        return None
    shares = SHARES[machine.kind]
    share = shares.packed_products if _is_packed(facts, form) else shares.products
    active = facts.parameters * facts.active_share
    # Every token looks back over half of the context on average: scores, then the values.
    looking = 4 * facts.heads * facts.head_dim * work.context / 2
    layers = sum(layer.count for layer in facts.layers if layer.kind in ("full", "shared"))
    return machine.flops * share / (2 * active + looking * layers)


def _is_packed(facts: ModelFacts, form: WeightForm) -> bool:
    return bool(facts.packed_parameters) and form != "wide"
