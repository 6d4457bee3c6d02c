"""One answer's turn on the models' thread: its model, its memory, its events, and all of it given back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial

from mlxone.backend.arrays import mx
from mlxone.core.words import Event, Finished, Stats, Token
from mlxone.fitting.admission import Refusal, Ticket
from mlxone.kv.prefixes import PrefixStore
from mlxone.service.answer import Answer
from mlxone.service.catalogue import Offer
from mlxone.service.figures import Tally
from mlxone.service.memory import Remembers, Shared
from mlxone.service.preparing import OLD, Prepared, beyond
from mlxone.service.shelf import Loaded, Shelf, element_of

log = logging.getLogger(__name__)

# What an answer without max_tokens is promised at a time. More would keep others out, and drive out
# kept prompts, for an answer that mostly ends long before the context does.
PORTION = 1024
ENDLESS = 2**62

Note = Callable[[Loaded, Stats], None]


class Prompt:
    """What the choices of one prompt share, so that it is read once."""

    def __init__(self, shelf: Shelf, offer: Offer, choices: int) -> None:
        self.shelf, self.offer, self._left = shelf, offer, choices
        self._own: PrefixStore | None = None  # where there is no prompt cache: for as long as this is asked
        if not shelf.prefixes.max_bytes and choices > 1:
            self._own = PrefixStore(ENDLESS)

    def open(self) -> None:
        """One choice is about to begin."""
        if self._own is not None:
            self.shelf.ledger.add_store(self._own)

    def memory(self, loaded: Loaded) -> Remembers | None:
        store = self._own or self.shelf.prefixes
        return Shared(store, self.offer.key, loaded.namespaces.add) if store.max_bytes else None

    def end(self) -> None:
        """One choice has ended."""
        self._left -= 1
        if self._own is not None and not self._left:
            self.shelf.ledger.drop_store(self._own)
            self._own.give_way(self._own.bytes)


class AnswerTurn:
    def __init__(self, prompt: Prompt, prepared: Prepared, tally: Tally, note: Note) -> None:
        self._prompt, self._prepared, self._tally, self._note = prompt, prepared, tally, note
        self._shelf = prompt.shelf

    def begin(self) -> Generator[Event, None, None] | None:
        """Its model may have been put away since it was asked for, and is loaded again."""
        self._prompt.open()
        loaded = self._shelf.take(self._prompt.offer)
        answer, tokens = self._ask(loaded)
        if not isinstance(answer, Ticket) and self._is_final(answer) and self._shelf.look_again(older=OLD):
            answer, tokens = self._ask(loaded)
        if isinstance(answer, Ticket):
            return self._run(loaded, answer, tokens)
        if not self._is_final(answer):
            return None
        # The budget has shrunk since: with nothing at work there is nothing left to wait for.
        raise beyond(answer, len(self._prepared.ids), tokens)

    def end(self) -> None:
        self._prompt.end()

    def _ask(self, loaded: Loaded) -> tuple[Ticket | Refusal, int]:
        prompt, tokens = len(self._prepared.ids), self._prepared.max_tokens
        if self._prepared.open_ended:
            tokens = max(1, min(PORTION, tokens, loaded.longest - prompt))
        return self._shelf.admit(loaded, lambda: loaded.admission.admit(prompt, tokens)), tokens

    def _is_final(self, refusal: Refusal) -> bool:
        return not refusal.can_wait or self._shelf.is_idle

    def _run(self, loaded: Loaded, ticket: Ticket, granted: int) -> Generator[Event, None, None]:
        answer: Answer | None = None
        stats: Stats | None = None
        loaded.at_work += 1
        mx.reset_peak_memory()
        try:
            answer = Answer(loaded.model, self._prepared.request, memory=self._prompt.memory(loaded))
            with closing(answer.events()) as events:
                for event in events:
                    if isinstance(event, Token):
                        loaded.element = loaded.element or element_of(answer.state)
                        if event.index + 2 >= granted < answer.max_tokens:
                            granted = self._more(loaded, ticket, answer, event.index + 2)
                    elif isinstance(event, Finished):
                        stats = event.stats
                    self._shelf.measure()
                    yield event
        finally:
            loaded.at_work -= 1
            self._shelf.give_back(ticket)
            self._shelf.measure(now=True)
            if answer is not None:
                self._tally.worked(stats or answer.stats("cancelled"))
                answer = None  # and with it what it alone held of an adapter
            loaded.weigh()
            if stats is not None:
                self._learn(loaded, stats)

    def _more(self, loaded: Loaded, ticket: Ticket, answer: Answer, spent: int) -> int:
        """The next portion of an open-ended answer; where there is none, it ends for its length."""
        portion = min(PORTION, answer.max_tokens - spent)
        if self._shelf.admit(loaded, partial(loaded.admission.extend, ticket, portion)):
            return spent + portion
        log.info("an answer of %s ends after %d tokens: no memory is left", loaded.offer.id, spent)
        answer.max_tokens = spent
        return spent

    def _learn(self, loaded: Loaded, stats: Stats) -> None:
        """From an answer of the base that was alone: else speed and peak would tell of others."""
        if (
            stats.cached_tokens
            or self._prepared.request.adapter
            or not self._shelf.is_idle
            or len(self._shelf.in_memory) > 1
        ):
            return
        beside = self._shelf.prefixes.bytes + loaded.admission.mounted_bytes
        self._note(loaded, replace(stats, peak_memory_bytes=max(0, stats.peak_memory_bytes - beside)))
