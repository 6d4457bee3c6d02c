"""What reading a chunk of the prompt needs beyond weights and layer states, at its worst moment.

The form follows from what a layer computes; the numbers in `COSTS` were fitted to MLX's measured
peaks (docs/fit.md says on what). Layers are submitted a few at a time, so no more than a few
layers' results are in memory at once. On a machine of another kind, or with another MLX,
`calibrated` multiplies by what was measured there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlxone.core.facts import LayerFacts, ModelFacts
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
    # What only some families compute:
    chosen: float = 2.1  # the hidden state of a token, once for each of its experts
    channels: float = 5.0  # a gated delta layer's, in float32
    steps: int = 64  # tokens whose states a gated delta layer has in memory together
    pair_channels: float = 9.3  # a mamba-2 layer's, in float32
    pairs: float = 12.0  # tables of weights between the tokens of a part
    unfolded: float = 1.2  # keys and values made of what latent attention keeps


CROWD_BYTES = 2e9
PART, FLOAT32 = 256, 4  # tokens that mamba-2 takes at once (a test holds it equal to the models'); bytes
_POWERS = frozenset({64, 80, 96, 128})
COSTS: dict[Kind, Costs] = {
    "cpu": Costs(3.1, 7.0, 7.0, 3.5, 1.0, 0.0, 1.25, frozenset(), False, channels=11.0, steps=12),
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
    """One row's chunk; the others wait. Of layers that follow each other the larger decides; where each is
    one part only, or begins with as many arrays as gated delta, the next one's are there before the last
    one's are gone."""
    costs, chunk = COSTS[kind], min(work.prefill_step, work.context)
    recurrent = max((_recurrent(layer, work, kind, element) for layer in facts.layers), default=0)
    attending = _attending(facts, work, kind, element) + moving
    fed = chunk * element * _fed(facts, costs)
    both = chunk * element * costs.hidden * facts.hidden_size + recurrent + attending
    if any(layer.kind == "none" for layer in facts.layers):
        return max(fed, both)
    in_turn = fed + max(attending, recurrent)
    return max(in_turn, both) if any(layer.by_token for layer in facts.layers) else in_turn


def _attending(facts: ModelFacts, work: Work, kind: Kind, element: int) -> float:
    """Of attention, beside what is there of every layer."""
    costs, chunk = COSTS[kind], min(work.prefill_step, work.context)
    acts = chunk * element * _looked(facts, costs)
    score = chunk * element * facts.heads * max(_scored(facts, work, costs), default=0)
    tables = max(costs.scores * score, min(costs.crowd * score, CROWD_BYTES))
    unfolded = max((layer.unfolded for layer in facts.layers), default=0) * work.context * element
    return acts + tables + costs.unfolded * unfolded + _surplus(facts, work, element)


def _recurrent(layer: LayerFacts, work: Work, kind: Kind, element: int) -> float:
    """Beside the feed-forward part. Gated delta computes token by token, mamba-2 part by part."""
    costs, chunk = COSTS[kind], min(work.prefill_step, work.context)
    if layer.by_token:
        states = min(chunk, costs.steps) * layer.state_bytes
        return states + chunk * costs.channels * FLOAT32 * layer.channels
    if layer.pair_heads:
        part = min(chunk, PART)
        tables = costs.pairs * FLOAT32 * layer.pair_heads * part * part
        return tables + chunk * costs.pair_channels * FLOAT32 * layer.channels
    return chunk * costs.channels * element * layer.channels


def _step(facts: ModelFacts, work: Work, kind: Kind, element: int, moving: float) -> float:
    """One token of every row: small, but for the scores, the logits in float32 and a buffer that moves."""
    costs = COSTS[kind]
    score = element * facts.heads * max(_scored(facts, work, costs), default=0)
    vectors = element * (_fed(facts, costs) + _looked(facts, costs))
    each = vectors + costs.scores * score + 3 * FLOAT32 * facts.vocab_size
    return work.rows * each + moving


def _looked(facts: ModelFacts, costs: Costs) -> float:
    """Elements for one token of the chunk: of attention."""
    keys = max((layer.kv_heads * layer.key_dim for layer in facts.layers), default=0)
    return costs.queries * facts.heads * facts.head_dim + costs.keys * keys


def _fed(facts: ModelFacts, costs: Costs) -> float:
    """Of the feed-forward part, and of what goes from layer to layer."""
    chosen = costs.chosen * facts.experts_per_token * facts.hidden_size
    return costs.inner * facts.intermediate_size + costs.hidden * facts.hidden_size + chosen


def _scored(facts: ModelFacts, work: Work, costs: Costs) -> Iterator[int]:
    """Columns of the tables of scores, all together, of each kind of layer that writes them."""
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
        if dim not in costs.fused_dims or layer.unfolded or (masked and not costs.fused_masks):
            yield columns * layer.score_tables


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
    """Of each kind of layer whose buffer moves while a chunk is read; a recurrent state is made anew."""
    for layer in facts.layers:
        if layer.kind == "full":
            yield layer_bytes(facts, layer, work, element)
        elif layer.kind == "sliding":
            yield min(work.context, _in_sight(facts, work)) * token_bytes(layer, work, element)
        elif layer.kind == "recurrent":
            yield layer.state_bytes
