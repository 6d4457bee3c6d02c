"""What running a model teaches about this machine: its speed and peak memory beside what was predicted.

`note` after an answer, in passing; `calibrate` on purpose. Predictions that follow are corrected by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from mlxone.backend.arrays import lock, mx
from mlxone.backend.cpu import WeightForm
from mlxone.core.errors import MlxoneError
from mlxone.core.facts import ModelFacts
from mlxone.core.words import ChatRequest, Failed, Finished, Stats
from mlxone.fitting.learned import learn
from mlxone.fitting.machine import Machine, remember_speed, this_machine
from mlxone.fitting.report import Case
from mlxone.fitting.states import kv_bytes
from mlxone.fitting.store import Kind, Measurement, Store
from mlxone.fitting.weights import element_bytes, weights_bytes
from mlxone.fitting.work import FEWEST_TOKENS, Work
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.service.answer import answer
from mlxone.service.here import inside_mlx, learned_store
from mlxone.service.model import Model

log = logging.getLogger(__name__)

SHORTEST_PROMPT = 1024  # of a shorter one the peak says more of loading than of transients
ROUNDS, PROMPT, TOKENS = 3, 2048, 48


@dataclass(frozen=True, slots=True)
class Learned:
    """What one calibration found: the middle of its rounds."""

    decode_tps: float
    prefill_tps: float
    transient_bytes: int
    context_tokens: int


def note(model: Model, stats: Stats) -> None:
    """Learns from an answer that began with an empty state. A cache: never a reason to fail."""
    if stats.cached_tokens or stats.generated_tokens < FEWEST_TOKENS:
        return
    try:
        with learned_store() as store:
            _learn(store, model, stats, ("decode_tps", "transient"))
    except (MlxoneError, OSError) as error:
        log.info("nothing learned: %s", error)


def calibrate(model: Model, progress: Callable[[int, int], None] = lambda done, total: None) -> Learned:
    """Runs the model a few times and forgets what was learned on this machine before."""
    limit = model.context_length or PROMPT + TOKENS
    prompt = max(1, min(PROMPT, limit - TOKENS))
    runs: list[Stats] = []
    for number in range(ROUNDS + 1):  # the first brings the weights in
        progress(number, ROUNDS + 1)
        with lock:
            mx.clear_cache()
            mx.reset_peak_memory()
        runs.append(_run(model, prompt))
    progress(ROUNDS + 1, ROUNDS + 1)
    runs = runs[1:]
    with learned_store() as store:
        machine = this_machine(store, inside_mlx())
        store.forget(machine.key)
        for number, stats in enumerate(runs):
            # The first round's speed, where no chip's is known; the others correct it to the middle.
            _learn(store, model, stats, ("decode_tps", "prefill_tps", "transient"), forced=not number)
    facts, form = _facts(model)
    return Learned(
        median(s.decode_tps for s in runs),
        median(s.prefill_tps for s in runs),
        round(median(_transient(s, facts, form) for s in runs)),
        prompt + TOKENS,
    )


def _run(model: Model, prompt: int) -> Stats:
    ids = tuple(i % model.vocab_size for i in range(prompt))
    request = ChatRequest(ids=ids, max_tokens=TOKENS, eos_token_ids=())
    for event in answer(model, request):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            return event.stats
    raise MlxoneError("an answer ended without its last event")


def _learn(store: Store, model: Model, stats: Stats, kinds: Sequence[Kind], *, forced: bool = False) -> None:
    if not stats.decode_tps or not stats.prefill_tps:  # no time passed: nothing was measured
        return
    facts, form = _facts(model)
    machine = this_machine(store, inside_mlx())
    if machine.chip is None and (forced or machine.bandwidth is None):
        machine = _remember(store, Case(facts, machine, form), stats, with_prefill=forced)
    case = Case(facts, machine, form)
    work = _work(stats)
    decode, prefill = case.speeds(work)
    pairs: dict[Kind, tuple[float | None, float]] = {
        "decode_tps": (decode, stats.decode_tps),
        "prefill_tps": (prefill, stats.prefill_tps),
    }
    if stats.prompt_tokens >= SHORTEST_PROMPT:
        pairs["transient"] = (case.needs(work).transient_bytes, _transient(stats, facts, form))
    for kind in kinds:
        predicted, measured = pairs.get(kind, (None, 0.0))
        if predicted is not None:
            learn(store, Measurement(kind, machine.key, model.name, predicted, measured))


def _remember(store: Store, case: Case, stats: Stats, *, with_prefill: bool) -> Machine:
    """A chip that is in no table is as fast as it was seen to be.

    A first answer's prompt waits for the weights to be read, so only a calibration tells prefill.
    """
    machine = case.machine
    decode, prefill = replace(case, machine=replace(machine, bandwidth=1.0, flops=1.0)).speeds(_work(stats))
    assert decode and prefill
    bandwidth = stats.decode_tps / decode
    flops = stats.prefill_tps / prefill if with_prefill else machine.flops
    remember_speed(store, machine, bandwidth, flops)
    return replace(machine, bandwidth=bandwidth, flops=flops)


def _work(stats: Stats) -> Work:
    return Work(stats.prompt_tokens + stats.generated_tokens)


def _transient(stats: Stats, facts: ModelFacts, form: WeightForm) -> float:
    """The peak, less the weights and the layer states."""
    weights = weights_bytes(facts, form)
    return stats.peak_memory_bytes - weights - kv_bytes(facts, _work(stats), element_bytes(facts, form))


def _facts(model: Model) -> tuple[ModelFacts, WeightForm]:
    return read_facts(model.path, Config.read(model.path)), model.decoder.form
