"""What reading a chunk of the prompt needs beyond weights and layer states, at its worst moment.

The form follows from what a layer computes; the numbers in `COSTS` were fitted to MLX's measured
peaks (docs/fit.md says on what). Layers are submitted a few at a time, so no more than a few
layers' results are in memory at once. On a machine of another kind, or with another MLX,
`calibrated` multiplies by what was measured there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlxone.core.facts import ModelFacts
from mlxone.fitting.machine import Kind
from mlxone.fitting.states import layer_bytes, token_bytes
from mlxone.fitting.work import Work


@dataclass(frozen=True, slots=True)
class Costs:
    """Results in memory at once, as multiples of one token's vectors."""

    inner: float  # the feed-forward layer's width
    hidden: float
    queries: float  # all heads' queries
    keys: float  # all key-value heads' keys
    scores: float  # tables of scores, where attention writes them down
    crowd: float  # as many where they are small, and stay below CROWD_BYTES in all
    copies: float  # of one layer's state, while its buffer moves
    fused_dims: frozenset[int]  # head sizes whose scores are never written down
    fused_masks: bool  # whether that holds past a sliding window too


CROWD_BYTES = 2e9
_POWERS = frozenset({64, 80, 96, 128})
COSTS: dict[Kind, Costs] = {
    "cpu": Costs(3.1, 7.0, 7.0, 3.5, 1.0, 0.0, 1.25, frozenset(), False),
    "cuda": Costs(7.0, 22.0, 0.0, 0.0, 2.1, 11.0, 2.0, _POWERS, False),
    # Not measured: CUDA's figures, with the head sizes that Metal's fused attention takes.
    "apple": Costs(7.0, 22.0, 0.0, 0.0, 2.1, 11.0, 2.0, frozenset({64, 80, 128}), True),
}


def transient_bytes(facts: ModelFacts, work: Work, kind: Kind, element: int) -> int:
    """The larger of what a chunk of the prompt and one step of all rows need, with the window's surplus."""
    costs = COSTS[kind]
    moving = costs.copies * max(_states(facts, work, element), default=0)
    return round(max(_prefill(facts, work, kind, element, moving), _step(facts, work, kind, element, moving)))


def _prefill(facts: ModelFacts, work: Work, kind: Kind, element: int, moving: float) -> float:
    """One row's chunk; the others wait."""
    costs, chunk = COSTS[kind], min(work.prefill_step, work.context)
    acts = chunk * element * _vectors(facts, costs)
    score = chunk * element * facts.heads * max(_scored(facts, work, costs), default=0)
    tables = max(costs.scores * score, min(costs.crowd * score, CROWD_BYTES))
    return acts + moving + tables + _surplus(facts, work, element)


def _step(facts: ModelFacts, work: Work, kind: Kind, element: int, moving: float) -> float:
    """One token of every row: small, but for the scores, the logits in float32 and a buffer that moves."""
    costs = COSTS[kind]
    score = element * facts.heads * max(_scored(facts, work, costs), default=0)
    each = element * _vectors(facts, costs) + costs.scores * score + 3 * 4 * facts.vocab_size
    return work.rows * each + moving


def _vectors(facts: ModelFacts, costs: Costs) -> float:
    """Elements for one token of the chunk."""
    keys = max((layer.kv_heads * layer.key_dim for layer in facts.layers), default=0)
    return (
        costs.inner * facts.intermediate_size
        + costs.hidden * facts.hidden_size
        + costs.queries * facts.heads * facts.head_dim
        + costs.keys * keys
    )


def _scored(facts: ModelFacts, work: Work, costs: Costs) -> Iterator[int]:
    """Columns of the table of scores, of each kind of layer that writes one."""
    for layer in facts.layers:
        if layer.kind not in ("full", "sliding", "shared"):
            continue
        columns = work.context
        masked = False
        if layer.kind == "sliding" and facts.window:
            columns = min(columns, _in_sight(facts, work))
            masked = columns > facts.window
        # A layer that attends over another's keys has heads of that one's size; which, is not told.
        dim = layer.key_dim or facts.head_dim
        if dim not in costs.fused_dims or (masked and not costs.fused_masks):
            yield columns


def _in_sight(facts: ModelFacts, work: Work) -> int:
    """Tokens a sliding layer holds while a chunk is read: the window before it, and the chunk."""
    return (facts.window or 0) - 1 + min(work.prefill_step, work.context)


def _surplus(facts: ModelFacts, work: Work, element: int) -> int:
    """While a chunk is read, sliding layers hold more than their window."""
    if not facts.window:
        return 0
    more = max(0, min(work.context, _in_sight(facts, work)) - facts.window)
    sliding = (layer for layer in facts.layers if layer.kind == "sliding")
    return sum(layer.count * more * token_bytes(layer, work, element) for layer in sliding)


def _states(facts: ModelFacts, work: Work, element: int) -> Iterator[int]:
    """Of each kind of layer whose buffer moves while a chunk is read."""
    for layer in facts.layers:
        if layer.kind == "full":
            yield layer_bytes(facts, layer, work, element)
        elif layer.kind == "sliding":
            yield min(work.context, _in_sight(facts, work)) * token_bytes(layer, work, element)
