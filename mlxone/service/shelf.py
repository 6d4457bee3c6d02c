"""The models in memory: loaded when asked for, put away when others need the room or nobody came.

Everything here happens on the one thread that owns MLX, but for `at_hand` and `loaded`. A model has
work while an answer of it has begun; one whose answers all still wait may be put away, as each of
them asks for its model again when its turn comes. So two models that do not fit together take turns.
"""

from __future__ import annotations

import gc
import logging
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

from mlxone.backend.arrays import mx, on_cpu
from mlxone.core.errors import ModelOverBudget, Overloaded, UsageError
from mlxone.core.words import ChatRequest, Failed
from mlxone.fitting.admission import Admission, Refusal, Ticket
from mlxone.fitting.work import Work
from mlxone.hub.in_use import in_use
from mlxone.kv.prefixes import PrefixStore
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder
from mlxone.service.admission import SHORTEST, Ledger
from mlxone.service.answer import Answer
from mlxone.service.catalogue import Offer
from mlxone.service.figures import MemoryFigures
from mlxone.service.loading import load_found
from mlxone.service.model import Model
from mlxone.service.mounts import MountedAdapter, Mounts
from mlxone.service.options import Options

log = logging.getLogger(__name__)

Ask = Callable[[], Ticket | Refusal]
ELEMENTS = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
# A prompt and how many tokens to answer, so that all is done once that a first request would wait for:
# on a GPU kernels are made for long and short passes; a CPU only has its weights to bring in.
WARM_UP = {"cpu": ((0,), 1), "gpu": ((0,) * 8, 3)}
OFTEN = 0.1  # seconds between two looks at MLX's memory
SELDOM = 10.0  # seconds between two looks at what others on this machine have left for us
AT_HAND = 4  # models without a promise that are kept for their words: each has a tokenizer in memory


@dataclass(slots=True, eq=False)
class Loaded:
    offer: Offer
    model: Model
    words: Model  # the same without its weights: whoever holds this holds no memory
    ledger: Ledger
    admission: Admission
    used: float
    held: ExitStack
    at_work: int = 0  # answers that have begun
    element: str = ""  # of its states' keys and values; known once it has answered
    mounts: Mounts = field(default_factory=Mounts)  # its adapters, as values
    namespaces: set[str] = field(default_factory=set)  # of prompts kept for its adapters

    @property
    def longest(self) -> int:
        """The context that fits with nothing beside it, as of the last look at this machine."""
        return self.admission.longest()

    @property
    def weights_bytes(self) -> int:
        """With its adapters."""
        return self.admission.case.needs(Work(1)).weights_bytes + self.admission.mounted_bytes

    def needs_bytes(self, context: int) -> int:
        """Weights and all, for one answer of that context."""
        return self.admission.case.needs(Work(context)).total_bytes + self.admission.mounted_bytes

    def weigh(self) -> None:
        """Counts its adapters anew: one that was unmounted takes memory until its last answer has ended."""
        self.admission.mounted_bytes = self.model.adapters.memory_bytes


class Shelf:
    def __init__(self, options: Options, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options, self._clock = options, clock
        self.ledger = Ledger(options.memory_budget, Work(prefill_step=options.prefill_step))
        self.prefixes = PrefixStore(options.prompt_cache_bytes, options.prompt_cache_entries)
        self.ledger.add_store(self.prefixes)
        self._held: dict[str, Loaded] = {}
        self._mounts: dict[str, tuple[Offer, Mounts]] = {}  # also of models that are put away
        self._measured_at: float | None = None
        self.memory = MemoryFigures()

    # For every thread -------------------------------------------------------------------

    def at_hand(self, offer: Offer) -> Loaded | None:
        return self._held.get(offer.key)

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """The one used last comes last."""
        return tuple(sorted(self._held.values(), key=lambda one: one.used))

    @property
    def in_memory(self) -> tuple[Loaded, ...]:
        """Those among them whose weights are counted: at hand alone costs next to nothing."""
        return tuple(one for one in self.loaded if self.ledger.counts(one.admission))

    def mounts_of(self, offer: Offer) -> Mounts:
        """Those of a model that may have been put away: it is loaded with them."""
        return self._mounts.setdefault(offer.key, (offer, Mounts()))[1]

    @property
    def mounted(self) -> list[tuple[Offer, MountedAdapter]]:
        """All adapters, each with its model."""
        return [(offer, card) for offer, mounts in list(self._mounts.values()) for card in mounts.cards]

    # Its own thread ---------------------------------------------------------------------

    def take(self, offer: Offer) -> Loaded:
        """The loaded model; its weights are not read before its first answer."""
        found = self._held.get(offer.key)
        if found is None:
            found = self._load(offer)
            self._held[offer.key] = found
            self._bound_at_hand(found)
        found.used = self._clock()
        return found

    def bring_in(self, offer: Offer) -> Loaded:
        """As `take`, but its weights are promised, whatever idle model must make room."""
        loaded = self.take(offer)
        answer = self.admit(loaded, self._shortest(loaded))
        if isinstance(answer, Refusal):
            if not answer.can_wait:
                raise ModelOverBudget(f"{offer.id}: {answer.reason}", param="model")
            raise Overloaded(
                f"{offer.id} does not fit beside what is at work at present",
                hint="it does when that has finished",
            )
        self.give_back(answer)
        return loaded

    def bring_in_if_room(self, offer: Offer) -> Loaded:
        """As `bring_in`, but nothing makes room."""
        loaded = self.take(offer)
        ticket = self._shortest(loaded)()
        if isinstance(ticket, Ticket):
            self.ledger.count(loaded.admission)
            self.give_back(ticket)
        return loaded

    def warm(self, offer: Offer) -> None:
        """Brings a promised model's weights in and lets the device make its kernels, by one step.

        Else the first request would wait for both. What goes wrong here goes wrong there again, and
        is told there.
        """
        loaded = self._held.get(offer.key)
        if loaded is None or not self.ledger.counts(loaded.admission):
            return
        try:
            ids, tokens = WARM_UP["cpu" if on_cpu() else "gpu"]
            short = Answer(loaded.model, ChatRequest(ids=ids, max_tokens=tokens, eos_token_ids=()))
            *_, last = short.events()
            if isinstance(last, Failed):
                raise last.error
            loaded.element = element_of(short.state)
        except Exception as error:  # noqa: BLE001 - not asked for by anyone, so nobody may suffer from it
            log.warning("%s could not be warmed up: %s", offer.id, error)
        loaded.used = self._clock()
        self.measure(now=True)

    def admit(self, loaded: Loaded, ask: Ask) -> Ticket | Refusal:
        """Asks, and makes room until the answer is yes. Nothing gives way where all of it would not do."""
        while isinstance(answer := ask(), Refusal):
            wanted = answer.needed_bytes - answer.budget_bytes
            if (
                not answer.can_wait
                or wanted > self._spare_bytes(loaded)
                or not self._make_room(wanted, loaded)
            ):
                return answer
        self.ledger.count(loaded.admission)
        self.ledger.settle()
        return answer

    def give_back(self, ticket: Ticket) -> None:
        ticket.release()
        self.ledger.settle()

    @property
    def is_idle(self) -> bool:
        return not any(one.at_work for one in self._held.values())

    def put_away(self, offer: Offer) -> None:
        """At the request of a client."""
        found = self._held.get(offer.key)
        if found is not None and found.at_work:
            raise Overloaded(f"{offer.id} is answering at present", hint="try again when it has finished")
        if found is not None:
            self._unload(found, "asked to")

    def put_all_away(self) -> None:
        with ExitStack() as all_of_them:  # one that makes trouble keeps no other here
            for one in list(self._held.values()):
                all_of_them.callback(self._unload, one)

    def put_idle_away(self, is_wanted: Callable[[Offer], bool]) -> float | None:
        """Those unused for as long as the operator said; in how many seconds the next one may go."""
        limit = self._options.idle_unload
        if not limit:
            return None
        now, waits = self._clock(), []
        for one in list(self._held.values()):
            if one.at_work or is_wanted(one.offer):
                one.used = now
            elif now - one.used >= limit:
                self._unload(one, f"idle for {limit:g} s")
                continue
            waits.append(one.used + limit - now)
        return min(waits, default=None)

    def measure(self, *, now: bool = False) -> None:
        """What MLX holds, for whoever asks on another thread."""
        clock = self._clock()
        if now or self._measured_at is None or clock - self._measured_at >= OFTEN:
            self._measured_at = clock
            peak = max(self.memory.peak_bytes, mx.get_peak_memory())
            self.memory = MemoryFigures(mx.get_active_memory(), mx.get_cache_memory(), peak)

    def look_again(self, *, older: float = SELDOM) -> bool:
        """At what may be used here; says whether it has looked."""
        if not self._held or not self.ledger.measure_again(older):
            return False
        self.ledger.settle()
        return True

    def _load(self, offer: Offer) -> Loaded:
        self.ledger.check_alone(offer.path, offer.id)
        with ExitStack() as held:
            held.enter_context(in_use(offer.path, what="serve"))
            model = load_found(offer.found, self._options.chat_template)
            mounts = self.mounts_of(offer)
            model.take_over(mounts)
            admission = self.ledger.open(model)
            admission.mounted_bytes = mounts.memory_bytes
            held.callback(self.ledger.drop, admission)
            log.info("loaded %s", offer.id)
            for departure in model.departures:
                log.info("as in mlx-lm, %s %s", offer.id, departure)
            return Loaded(
                offer,
                model,
                without_weights(model),
                self.ledger,
                admission,
                self._clock(),
                held.pop_all(),
                mounts=mounts,
            )

    def _unload(self, loaded: Loaded, why: str = "") -> None:
        """Nothing else holds a model that has no work, so its weights go with it."""
        if why:
            log.info("unloaded %s: %s", loaded.offer.id, why)
        del self._held[loaded.offer.key]
        loaded.held.close()
        for namespace in (loaded.offer.key, *loaded.namespaces):
            self.prefixes.forget(namespace)
        decoder = weakref.ref(loaded.model.decoder)
        del loaded.model
        if decoder() is not None:  # looking at everything takes a fifth of a second, and others answer
            gc.collect()
        mx.clear_cache()
        self.ledger.settle()
        self.measure(now=True)

    def _bound_at_hand(self, keep: Loaded) -> None:
        idle = [one for one in self.loaded if one is not keep and not one.at_work]
        extra = [one for one in idle if not self.ledger.counts(one.admission)]
        for one in extra[: max(0, len(extra) + 1 - AT_HAND)]:
            self._unload(one, "others are at hand")

    def _idle(self, keep: Loaded) -> list[Loaded]:
        """With weights, and not needed at present; the one used last comes last."""
        return [one for one in self.in_memory if one is not keep and not one.at_work]

    def _spare_bytes(self, keep: Loaded) -> int:
        return self.ledger.kept_bytes + sum(one.admission.promised_bytes for one in self._idle(keep))

    def _make_room(self, wanted: int, keep: Loaded) -> bool:
        if self.ledger.give_way(wanted):
            return True
        idle = self._idle(keep)
        if idle:
            self._unload(idle[0], f"{keep.offer.id} needs its memory")
        return bool(idle)

    @staticmethod
    def _shortest(loaded: Loaded) -> Ask:
        length = min(SHORTEST, loaded.longest)
        return lambda: loaded.admission.admit(length, 0)


def check_context(loaded: Loaded, ctx_size: int | None) -> None:
    """An operator's limit beyond the model's own would be a promise that nobody can keep."""
    limit = loaded.model.context_length
    if ctx_size is not None and limit is not None and ctx_size > limit:
        raise UsageError(f"ctx_size {ctx_size:,} is beyond the context of {loaded.offer.id}: {limit:,}")


def element_of(state: ModelState) -> str:
    """What a state's keys and values are made of, in the usual short word."""
    types = {str(array.dtype).rpartition(".")[2] for array in state.arrays()}
    return "+".join(sorted(ELEMENTS.get(name, name) for name in types))


def without_weights(model: Model) -> Model:
    """For templates and tokens, which need to know of the decoder only what it was made for."""
    decoder = SimpleNamespace(spec=model.decoder.spec, form=model.decoder.form)
    return replace(model, decoder=cast(Decoder, decoder))
