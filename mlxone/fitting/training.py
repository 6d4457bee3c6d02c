"""What one step of training needs at its worst moment, and what would make it fit.

Pure arithmetic on facts, as the rest of this room. The form follows from what `mlxone.training` computes;
the numbers in `COSTS` were fitted to MLX's measured peaks on a CPU (docs/fit.md). CUDA's were fitted to the
two peaks that were measured there: its host runs far ahead of the device, and what the device has not
computed yet cannot be freed. Apple's are CUDA's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from mlxone.backend.cpu import WeightForm
from mlxone.core.facts import ModelFacts
from mlxone.fitting.machine import Kind, Machine
from mlxone.fitting.weights import element_bytes, weights_bytes

Part = Literal["weights", "trained", "kept", "working"]
PARTS: tuple[Part, ...] = ("weights", "trained", "kept", "working")

MASTER_BYTES = 4  # of a trained parameter, its gradient and each of the optimizer's slots
SLOTS = {"adamw": 2, "adam": 2, "muon": 1, "sgd": 0, "adafactor": 0}  # as large as the parameters
# Of the parameters: gradients, and what is new beside the old. How many old ones are gone by then depends
# on how far the host runs ahead; between 1.2 and 3.3 were measured.
UPDATE = 3.5
# As in `training`; tests hold them equal.
HEAD_BYTES: dict[Kind, int] = {"cpu": 16 << 20, "cuda": 128 << 20, "apple": 128 << 20}  # of logits at once
BLOCK_BYTES = 4 << 20  # of scores at once, where attention is computed block by block
WHOLE_BYTES = 8 << 20  # of scores in all, up to which it is not


@dataclass(frozen=True, slots=True)
class TrainingWork:
    rows: int = 4  # samples, or pairs, computed together
    length: int = 2048  # tokens of the longest
    rank: int = 8
    layers: int | None = None  # the last so many are trained; None: all
    kind: str = "lora"  # lora, dora, full
    checkpoint: int = 0  # layers that are computed once more together; 0: everything is kept
    optimizer: str = "adamw"
    method: str = "sft"  # sft; dpo and orpo have two texts for each row
    accumulates: bool = False  # a step's gradients are of several batches
    trained: int | None = None  # parameters, where they were counted

    @property
    def texts(self) -> int:
        return self.rows * (1 if self.method == "sft" else 2)

    @property
    def tokens(self) -> int:
        return self.texts * self.length


@dataclass(frozen=True, slots=True)
class Costs:
    """What a layer keeps for its way back, and what that takes besides, in vectors of each token."""

    inner: float  # kept, of the feed-forward layer's width
    hidden: float
    queries: float
    keys: float
    tables: float  # of scores, where attention writes them down
    back_inner: float  # at work on the way back
    back_hidden: float
    back_tables: float
    head: float  # of a chunk's logits in float32
    ahead: float  # chunks at once, where they are not waited for one by one
    blocks: float  # of BLOCK_BYTES


COSTS: dict[Kind, Costs] = {
    "cpu": Costs(5.6, 7.9, 1.8, 0.3, 0.8, 6.1, 7.1, 3.8, 2.5, 4.0, 1.5),
    "cuda": Costs(10.8, 14.5, 8.5, 6.0, 1.0, 8.0, 14.0, 3.0, 3.0, 4.0, 2.0),
    "apple": Costs(10.8, 14.5, 8.5, 6.0, 1.0, 8.0, 14.0, 3.0, 3.0, 4.0, 2.0),
}
FUSED_ELEMENT = 2  # CUDA's own attention has a way back for half precision only


@dataclass(frozen=True, slots=True)
class TrainingReport:
    fits: bool  # on this machine, were it free
    fits_now: bool  # beside what is running
    peak_bytes: int
    usable_bytes: int
    free_bytes: int
    parts: dict[Part, int] = field(default_factory=dict)  # what the peak is made of
    reason: str = ""  # why it does not fit
    way_out: tuple[str, ...] = ()  # each of these would make it fit

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "way_out": list(self.way_out)}


def training_report(
    facts: ModelFacts, work: TrainingWork, machine: Machine, form: WeightForm = "stored"
) -> TrainingReport:
    parts = peak_parts(facts, work, machine.kind, form)
    peak = sum(parts.values())
    fits = peak <= machine.usable_bytes

    def peak_of(other: TrainingWork) -> int:
        return sum(peak_parts(facts, other, machine.kind, form).values())

    return TrainingReport(
        fits=fits,
        fits_now=peak <= machine.free_now_bytes,
        peak_bytes=peak,
        usable_bytes=machine.usable_bytes,
        free_bytes=machine.free_now_bytes,
        parts=parts,
        reason="" if fits else _reason(peak, parts, machine.usable_bytes),
        way_out=() if fits else tuple(ways_out(facts, work, machine.usable_bytes, peak_of)),
    )


def peak_parts(facts: ModelFacts, work: TrainingWork, kind: Kind, form: WeightForm) -> dict[Part, int]:
    """Of the worst of three moments: the output head, the way back through the last layers, the update."""
    step = _Step(facts, work, kind, form)
    kept, working = max(step.at_the_head(), step.on_the_way_back(), step.at_the_update(), key=sum)
    return {
        "weights": weights_bytes(facts, form),
        "trained": round(step.held),
        "kept": round(kept),
        "working": round(working),
    }


class _Step:
    """Bytes of each thing there is in one step."""

    def __init__(self, facts: ModelFacts, work: TrainingWork, kind: Kind, form: WeightForm) -> None:
        self.facts, self.work, self.costs, self.kind = facts, work, COSTS[kind], kind
        self.element = element_bytes(facts, form)
        self.unpacks = form == "stored" and bool(facts.packed_parameters)
        self.layers = min(work.layers or facts.layer_count, facts.layer_count)
        self.queries = facts.heads * facts.head_dim
        self.keys = max((layer.kv_heads * layer.key_dim for layer in facts.layers), default=0)
        self.trained = MASTER_BYTES * (
            trained_parameters(facts, work) if work.trained is None else work.trained
        )
        slots = SLOTS.get(work.optimizer, 2)
        # Beside low-rank masters the last good ones are held; of whole weights there is no second copy.
        copies = (1 if work.kind == "full" else 2) + slots
        self.held = copies * self.trained + (self.trained if work.accumulates else 0)
        self.updated = UPDATE * self.trained

    def at_the_head(self) -> tuple[float, float]:
        kept = self._kept_before_head()
        return kept, self._head() + self._cast()

    def on_the_way_back(self) -> tuple[float, float]:
        """The gradients of layers that are done grow while what they kept goes."""
        again = self.work.checkpoint
        kept = self._kept_before_head() + (self._layer() * min(again, self.layers) if again else 0)
        return kept, self._back() + self._slopes() + self._cast()

    def at_the_update(self) -> tuple[float, float]:
        return 0.0, self.updated

    def _kept_before_head(self) -> float:
        again = self.work.checkpoint
        if not again:
            return self._layer() * self.layers
        return -(-self.layers // again) * self._boundary()

    def _boundary(self) -> float:
        return self.work.tokens * self.facts.hidden_size * self.element

    def _layer(self) -> float:
        """What one layer keeps for its way back."""
        costs, facts = self.costs, self.facts
        vectors = (
            costs.inner * facts.intermediate_size
            + costs.hidden * facts.hidden_size
            + costs.queries * self.queries
            + costs.keys * self.keys
        )
        kept = self.work.tokens * vectors * self.element + costs.tables * self._whole_table()
        # DoRA's product is with the dense weight, and that is kept where it had to be unpacked.
        return kept + (self._dense_layer() if self.work.kind == "dora" and self.unpacks else 0)

    def _back(self) -> float:
        costs = self.costs
        vectors = costs.back_inner * self.facts.intermediate_size + costs.back_hidden * self.facts.hidden_size
        dense = self.facts.intermediate_size * self.facts.hidden_size * self.element if self.unpacks else 0
        tables = max(costs.back_tables * self._whole_table(), self._blocks())
        return self.work.tokens * vectors * self.element + tables + 2 * dense

    def _head(self) -> float:
        """One chunk's logits and what they become, the slopes of all tokens, and the head itself unpacked."""
        at_once = 1.0 if self.work.checkpoint else self.costs.ahead
        chunk = min(self.work.tokens, at_once * chunk_rows(self.facts.vocab_size, self.kind))
        dense = self.facts.vocab_size * self.facts.hidden_size * self.element if self.unpacks else 0
        return self.costs.head * chunk * MASTER_BYTES * self.facts.vocab_size + self._slopes() + dense

    def _slopes(self) -> float:
        return 2 * self._boundary()

    def _cast(self) -> float:
        """The parameters in the model's own dtype."""
        return self.trained / MASTER_BYTES * self.element if self.element != MASTER_BYTES else 0.0

    def _scores(self) -> float:
        """Of all heads and texts, in float32, as the rule in `training.attention` counts them."""
        return MASTER_BYTES * self.work.texts * self.facts.heads * self.work.length**2

    def _fused(self) -> bool:
        return self.kind == "cuda" and self.element == FUSED_ELEMENT

    def _whole_table(self) -> float:
        written = not self._fused() and self._scores() <= WHOLE_BYTES
        return self._scores() / MASTER_BYTES * self.element if written else 0.0

    def _blocks(self) -> float:
        if self._fused() or self._scores() <= WHOLE_BYTES:
            return 0.0
        row = MASTER_BYTES * self.work.texts * self.facts.heads * self.work.length
        return self.costs.blocks * max(BLOCK_BYTES, 16 * row)

    def _dense_layer(self) -> float:
        return layer_parameters(self.facts) * self.element


def chunk_rows(vocabulary: int, kind: Kind) -> int:
    """Tokens that go through the output head together."""
    return max(16, HEAD_BYTES[kind] // (MASTER_BYTES * vocabulary) // 16 * 16)


def trained_parameters(facts: ModelFacts, work: TrainingWork) -> int:
    """Of all seven linears of the layers that are trained."""
    layers = min(work.layers or facts.layer_count, facts.layer_count)
    if work.kind == "full":
        return layers * (layer_parameters(facts) + 2 * facts.hidden_size)
    each = sum(work.rank * (rows + columns) for rows, columns in _linears(facts))
    magnitudes = sum(rows for rows, _ in _linears(facts)) if work.kind == "dora" else 0
    return layers * (each + magnitudes)


def layer_parameters(facts: ModelFacts) -> int:
    return sum(rows * columns for rows, columns in _linears(facts))


def _linears(facts: ModelFacts) -> list[tuple[int, int]]:
    hidden, inner, queries = facts.hidden_size, facts.intermediate_size, facts.heads * facts.head_dim
    keys = max((layer.kv_heads * layer.key_dim for layer in facts.layers), default=0)
    return [
        (queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries),
        (inner, hidden), (inner, hidden), (hidden, inner),
    ]  # fmt: skip


# What would make it fit ------------------------------------------------------------------


def ways_out(
    facts: ModelFacts, work: TrainingWork, usable: int, peak_of: Callable[[TrainingWork], int]
) -> Iterator[str]:
    """Every single change that is enough, else several together, each with what it would take."""
    found = False
    for words, other in _single(facts, work, lambda w: peak_of(w) <= usable):
        found = True
        yield f"{words}: {_gb(peak_of(other))}"
    if found:
        return
    least = replace(work, checkpoint=1, rows=1)
    words = "--grad-checkpoint" if work.rows == 1 else "--grad-checkpoint --batch 1"
    if peak_of(least) <= usable:
        yield f"{words}: {_gb(peak_of(least))}"
        return
    for more, other in _single(facts, least, lambda w: peak_of(w) <= usable):
        found = True
        yield f"{words} {more}: {_gb(peak_of(other))}"
    if not found:
        smallest = replace(least, length=SHORTEST, layers=1)
        yield f"none of batch, length, checkpointing and layers: {_gb(peak_of(smallest))} at the very least"


SHORTEST = 64  # tokens; nobody learns from less


def _single(
    facts: ModelFacts, work: TrainingWork, fits: Callable[[TrainingWork], bool]
) -> Iterator[tuple[str, TrainingWork]]:
    if work.checkpoint != 1 and fits(other := replace(work, checkpoint=1)):
        yield "--grad-checkpoint", other
    rows = _most(work.rows - 1, lambda n: fits(replace(work, rows=n)))
    if rows:
        yield f"--batch {rows}", replace(work, rows=rows)
    steps = _most((work.length - 1) // SHORTEST, lambda n: fits(replace(work, length=n * SHORTEST)))
    if steps:
        yield f"--max-seq-length {steps * SHORTEST}", replace(work, length=steps * SHORTEST)
    layers = min(work.layers or facts.layer_count, facts.layer_count)
    fewer = _most(layers - 1, lambda n: fits(replace(work, layers=n, trained=None)))
    if fewer:
        yield f"--layers {fewer}", replace(work, layers=fewer, trained=None)


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """The largest of 1 to `high` that fits; 0: none does."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _reason(peak: int, parts: dict[Part, int], usable: int) -> str:
    largest = max(parts, key=lambda part: parts[part])
    return (
        f"a step needs {_gb(peak)} and {_gb(usable)} may be used; "
        f"the largest part of it is {WORDS[largest]} with {_gb(parts[largest])}"
    )


WORDS: dict[Part, str] = {
    "weights": "the model",
    "trained": "the trained parameters with the optimizer's",
    "kept": "what layers keep for their way back",
    "working": "what is computed at once",
}


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
