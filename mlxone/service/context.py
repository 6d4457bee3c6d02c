"""Models that answer many at once: what a server serves, and what a program may embed.

Sockets know nothing of models and models nothing of sockets; this is where they meet. One thread
does the models' work (`worker.py`), templates and tokenising have threads of their own, and the
event loop only waits. A context serves one event loop at a time. Making one costs nothing: MLX and
the threads come with `start`, or with the first question.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlxone.core.errors import MlxoneError, NotPermitted, Overloaded, ShuttingDown, UsageError
from mlxone.core.words import Asked, Stats
from mlxone.service.answers import Answers as Answers
from mlxone.service.catalogue import Catalogue, Offer
from mlxone.service.checks import check_tokens
from mlxone.service.figures import Figures, ModelCard, Tally
from mlxone.service.mailbox import Mailbox
from mlxone.service.mounting import Mounting, mount_given
from mlxone.service.mounts import MountedAdapter
from mlxone.service.options import Options
from mlxone.service.snapshot import with_shelf
from mlxone.service.worker import Job, Worker

if TYPE_CHECKING:
    from mlxone.service.preparing import Prepared
    from mlxone.service.props import Props
    from mlxone.service.shelf import Loaded, Shelf

log = logging.getLogger(__name__)

T = TypeVar("T")

TALKERS = 2  # threads for templates, tokenising and the disk
LAST_STEP = 30.0  # seconds that closing waits for the step in flight
LONGEST_WAIT = 60.0  # seconds that a client is told to wait at most


class Context:
    def __init__(
        self,
        models: Sequence[str | Path] = (),
        *,
        folders: Sequence[str | Path] = (),
        options: Options | None = None,
        owner: str = "embedded",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without `models` whatever the registry knows answers, loaded when it is asked for."""
        self.options = options or Options()
        self._owner, self._clock = owner, clock
        self._catalogue = Catalogue(models, folders)
        self._tally = Tally()
        self._worker = Worker(chores=self._chores, last=self._put_all_away, clock=clock)
        self._pool: ThreadPoolExecutor | None = None
        self._shelf_made: Shelf | None = None
        self._open: dict[Answers, Offer] = {}  # accepted, and maybe not ended yet
        self._entering = 0  # answers whose requests are being prepared
        self._starting: Future[None] | None = None
        self._started = self._closing = self._noting = False
        self._closed: Future[None] = Future()
        self._started_at = time.time()
        self._last: Offer | None = None
        self._cold: list[Offer] = []  # named, and not warmed up yet

    # Its life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Makes ready: the named models are loaded, as many of them as fit together.

        Whatever comes of it, `close` is due afterwards.
        """
        if self._started:
            return
        begun = self._starting
        if begun is None or (begun.done() and begun.exception() is not None):
            begun = self._starting = self._in_pool(self._make_ready)
        waiting = asyncio.wrap_future(begun)
        waiting.add_done_callback(_look_at)
        # Shielded: whoever gives up waiting must not take it from the others.
        await asyncio.shield(waiting)

    def start_now(self) -> None:
        """The same for a program that has no event loop yet."""
        try:
            self._make_ready()
        except BaseException:
            self._worker.stop()
            self._worker.join(LAST_STEP)
            raise

    async def close(self, grace: float = 0.0) -> None:
        """Takes nothing new, lets what runs finish for `grace` seconds, cancels the rest."""
        if self._closing:
            await asyncio.shield(asyncio.wrap_future(self._closed))
            return
        self._closing = True
        try:
            await self._wind_down(grace)
        finally:
            self._closed.set_result(None)

    # Questions --------------------------------------------------------------------------

    async def answer(self, asked: Asked) -> Answers:
        """Raises what refuses the request as a whole, before any of its work; afterwards there are events."""
        try:
            with self._entry(len(asked.requests) * asked.choices):
                return await self._answer(asked)
        except MlxoneError:
            self._tally.refused()
            raise

    def models(self) -> list[ModelCard]:
        """As of the last look at the disk; `refresh` looks again."""
        return [self._card(offer) for offer in self._catalogue.offers]

    async def refresh(self) -> list[ModelCard]:
        await self.beside(self._catalogue.look)
        return self.models()

    async def load(self, name: str) -> ModelCard:
        """Only what the registry knows, and only where the operator allows it."""
        offer = await self._managed(name)
        await self.on_shelf(lambda shelf: shelf.bring_in(offer))
        return self._card(offer)

    async def unload(self, name: str) -> ModelCard:
        offer = await self._managed(name)
        await self.on_shelf(lambda shelf: shelf.put_away(offer))
        return self._card(offer)

    @cached_property
    def adapters(self) -> Mounting:
        """What is mounted on the models, and mounting by request."""
        return Mounting(self.options, self)

    @property
    def has_several(self) -> bool:
        """Whether a request may choose its model."""
        return not self._catalogue.is_named or len(self._catalogue.offers) > 1

    async def tokenize(self, model: str | None, text: str, *, add_special: bool = False) -> list[int]:
        encode = (await self._loaded(model)).words.tokenizer.encode
        return await self.beside(partial(encode, text, add_special=add_special))

    async def detokenize(self, model: str | None, ids: Sequence[int]) -> str:
        loaded = await self._loaded(model)
        check_tokens(ids, loaded.words.vocab_size)
        decode = loaded.words.tokenizer.decode
        return await self.beside(partial(decode, ids, skip_special=False))

    async def token_texts(self, model: str | None, ids: Sequence[int]) -> list[str]:
        loaded = await self._loaded(model)
        check_tokens(ids, loaded.words.vocab_size)
        text = loaded.words.tokenizer.token_text
        return await self.beside(lambda: [text(id) for id in ids])

    async def props(self, model: str | None = None) -> Props:
        from mlxone.service.props import props_of

        loaded = await self._loaded(model)
        return await self.beside(partial(props_of, loaded, self.options))

    def figures(self) -> Figures:
        """A snapshot, taken without waiting for anything."""
        found = Figures(
            owner=self._owner,
            model=self._last.id if self._last else None,
            started_at=self._started_at,
            running=self._worker.running,
            waiting=self._worker.waiting + self._entering,
            totals=self._tally.totals,
            decode_tps=self._tally.decode_tps,
        )
        shelf = self._shelf_made
        return found if shelf is None else with_shelf(found, shelf, self._last, self.options)

    # One request ------------------------------------------------------------------------

    @contextmanager
    def _entry(self, answers: int) -> Iterator[None]:
        self._check_open()
        if answers < 1:
            raise UsageError("a request needs a prompt and one choice at least")
        waiting, queue = self._worker.waiting + self._entering, self.options.queue
        if answers > max(queue, 1):  # it would be told to come again for ever
            what = f"{answers} answers are asked for at once and {queue} may wait"
            raise UsageError(what, hint="ask for fewer", param="n")
        if waiting + answers > queue and (waiting or self._worker.running):
            error = Overloaded(
                f"{waiting} answers are waiting and {queue} may: there is no room for {answers} more",
                hint="try again later",
            )
            error.retry_after = min(LONGEST_WAIT, max(1.0, waiting * self._tally.seconds_per_answer))
            raise error
        self._entering += answers
        try:
            yield
        finally:
            self._entering -= answers

    async def _answer(self, asked: Asked) -> Answers:
        from mlxone.service.preparing import prepare

        loaded = await self._loaded(asked.model)
        prepared = []
        for request in asked.requests:
            prepared.append(await self.beside(partial(prepare, loaded, request, self.options)))
        self._check_open()
        return self._submit(loaded.offer, prepared, asked.choices)

    def _submit(self, offer: Offer, prepared: Sequence[Prepared], choices: int) -> Answers:
        from mlxone.service.turns import AnswerTurn, Prompt

        mail = Mailbox(len(prepared) * choices, room=self._worker.wake, ended=self._tally.ended)
        jobs = []
        for place, one in enumerate(prepared):
            prompt = Prompt(self._shelf, offer, choices)
            for choice in range(choices):
                turn = AnswerTurn(prompt, one.choice(choice), self._tally, self._note)
                jobs.append(Job(turn, mail, place * choices + choice))
        answers = Answers(
            offer.id, mail, jobs, self._worker, timeout=self.options.timeout or None, clock=self._clock
        )
        self._open = {held: its for held, its in self._open.items() if held.is_open}
        self._open[answers] = self._last = offer
        for job in jobs:
            self._worker.submit(job)
        return answers

    def _note(self, loaded: Loaded, stats: Stats) -> None:
        """Learns from an answer, one at a time and never where anybody waits for it."""
        from mlxone.service import learning

        def learn() -> None:
            try:
                learning.note(loaded.words, stats)
            finally:
                self._noting = False

        if not self._noting and not self._closing:
            self._noting = True
            with suppress(ShuttingDown, RuntimeError):  # closed a moment ago
                self._in_pool(learn)

    # Models -----------------------------------------------------------------------------

    async def _loaded(self, name: str | None) -> Loaded:
        offer = await self.found(name)
        loaded = self._shelf.at_hand(offer)
        if loaded is None:
            loaded = await asyncio.wrap_future(self._worker.call(partial(self._shelf.take, offer)))
        return loaded

    def _at_hand(self, name: str | None) -> Offer | None:
        """The id of a loaded model means that model: no disk is asked."""
        if not self._catalogue.is_named and name:
            return next((one.offer for one in self._shelf.loaded if one.offer.id == name), None)
        return self._catalogue.at_hand(name)

    async def _managed(self, name: str) -> Offer:
        if not self.options.allow_manage:
            raise NotPermitted("models may not be loaded or unloaded here", hint="start with --allow-manage")
        return await self.found(name)

    async def found(self, name: str | None) -> Offer:
        """The model that a request means."""
        await self.start()
        at_hand = self._at_hand(name)
        return at_hand if at_hand is not None else await self.beside(partial(self._catalogue.find, name))

    def _card(self, offer: Offer) -> ModelCard:
        shelf = self._shelf_made
        loaded = shelf is not None and any(one.offer.key == offer.key for one in shelf.in_memory)
        return replace(offer.card, loaded=loaded)

    # Threads ----------------------------------------------------------------------------

    @cached_property
    def _shelf(self) -> Shelf:
        from mlxone.service.shelf import Shelf

        self._shelf_made = Shelf(self.options, clock=self._clock)
        return self._shelf_made

    def _make_ready(self) -> None:
        from mlxone.service import turns  # noqa: F401 - with all that the first request would wait for

        self.options.check()
        offers = self._catalogue.look()
        self._worker.call(partial(self._load_named, offers if self._catalogue.is_named else [])).result()
        if self.options.adapters:
            offer = offers[0] if self._catalogue.is_named else self._catalogue.find(None)
            given = self.options.adapters
            self._worker.call(lambda: mount_given(self._shelf, offer, given)).result()
        if self._catalogue.is_named:
            # Ready is who answers at once: the first model is waited for, the others follow when
            # nobody asks for anything.
            first, *self._cold = offers
            self._worker.call(partial(self._warm, first)).result()
        self._started = True
        self._worker.wake()

    def _load_named(self, offers: Sequence[Offer]) -> None:
        from mlxone.service.shelf import check_context

        self._shelf.ledger.measure()
        for offer in offers:
            self._check_open()
            check_context(self._shelf.bring_in_if_room(offer), self.options.ctx_size)

    def _warm(self, offer: Offer) -> None:
        self._check_open()
        self._shelf.warm(offer)

    def _chores(self) -> float | None:
        """What the models' thread does when it has nothing else to do, and now and then."""
        shelf = self._shelf_made
        if shelf is None:
            return None
        wanted = {offer.key for answers, offer in list(self._open.items()) if answers.is_open}
        soon = shelf.put_idle_away(lambda offer: offer.key in wanted)
        shelf.measure(now=True)
        for loaded in shelf.loaded:
            loaded.weigh()  # the error of an answer holds what it used until it is delivered
        if self._worker.running or self._worker.waiting:
            return soon  # what follows takes a while, and somebody would wait for it
        if self._cold and not self._closing:
            self._warm(self._cold.pop(0))
            return 0.0
        shelf.look_again()
        return soon

    def _put_all_away(self) -> None:
        if self._shelf_made is not None:
            self._shelf_made.put_all_away()

    async def _wind_down(self, grace: float) -> None:
        try:
            if self._worker.alive:
                await asyncio.wait([asyncio.wrap_future(self._worker.drained())], timeout=grace)
        finally:
            for answers in list(self._open):
                answers.fail(ShuttingDown("the server is shutting down"))
            await self._stop_threads()

    async def _stop_threads(self) -> None:
        """Waits for the step in flight, but not for ever: the models' thread is a daemon.

        The pool comes last: whatever it asked of that thread was answered or refused by then.
        """
        self._worker.stop()
        await asyncio.to_thread(self._worker.join, LAST_STEP)
        if self._worker.alive:
            log.error("the models' thread is still in a step after %g s, and is left there", LAST_STEP)
        if self._pool is not None:  # where that thread is left, one of the pool's may wait for it
            await asyncio.to_thread(self._pool.shutdown, wait=not self._worker.alive)

    def mounted(self) -> list[tuple[Offer, MountedAdapter]]:
        """All adapters, without waiting for anything."""
        return self._shelf_made.mounted if self._shelf_made else []

    async def on_shelf(self, work: Callable[[Shelf], T]) -> T:
        """On the models' thread, between two steps."""
        done = await asyncio.wrap_future(self._worker.call(lambda: work(self._shelf)))
        self._worker.wake()
        return done

    def beside(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """On a thread that nobody's answer waits for."""
        return asyncio.wrap_future(self._in_pool(work))

    def _in_pool(self, work: Callable[[], T]) -> Future[T]:
        self._check_open()
        self._pool = self._pool or ThreadPoolExecutor(TALKERS, thread_name_prefix="mlxone-words")
        return self._pool.submit(work)

    def _check_open(self) -> None:
        if self._closing:
            raise ShuttingDown("the server is shutting down", hint="try again in a moment")


def _look_at(ended: asyncio.Future[Any]) -> None:
    """Who waited may have gone: asyncio complains of a failure that nobody has looked at."""
    _ = ended.cancelled() or ended.exception()
