"""One request inside the engine: its tokens, its memory, who computes it, how its next token is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from mlxone.backend.arrays import lock, mx
from mlxone.core.errors import UsageError
from mlxone.core.words import Sampling
from mlxone.engine.processors import History, make_processors
from mlxone.engine.sample import logprobs_of, make_draw
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token and, where asked for, its log-probability and the likeliest alternatives."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Pending:
    """A step that was submitted and not read yet."""

    __slots__ = ("extras", "token")

    def __init__(self, token: mx.array, extras: tuple[mx.array, ...] = ()) -> None:
        self.token, self.extras = token, extras
        mx.async_eval(token, *extras)

    def read(self) -> Drawn:
        token = cast(int, self.token.item())
        if not self.extras:
            return Drawn(token)
        logprob, best, values = self.extras
        top = zip(cast(list[int], best.tolist()), cast(list[float], values.tolist()), strict=True)
        return Drawn(token, cast(float, logprob.item()), tuple(top))


class Row:
    def __init__(
        self,
        decoder: Decoder,
        ids: Sequence[int],
        state: ModelState,
        sampling: Sampling,
        *,
        seed: int,
        logprobs: int | None = None,
    ) -> None:
        self.decoder = decoder  # with what this row's adapters change; rows beside it may have others
        self.ids = list(ids)
        self.state = state
        self.fed = list(ids[: state.offset])  # exactly the tokens the state holds…
        self.in_flight: Pending | None = None  # …but for this one, submitted and not read yet
        self.let_go = False
        self._near_end: mx.array | None = None  # of the step submitted last
        self.steps = 0
        self._draw = make_draw(sampling, seed)
        self._processors, widest = make_processors(sampling)
        self._history = History(ids, widest) if self._processors else None
        self._logprobs = logprobs

    @property
    def unread(self) -> list[int]:
        """Prompt tokens that are not in the state yet."""
        return self.ids[len(self.fed) :]

    def stops(self, borders: Sequence[int]) -> list[int]:
        """Where reading has to pause for the state to be kept: the prompt's end, and where others may part.

        A state that can be cut gives any beginning later on, so it pauses nowhere.
        """
        if self.state.cuttable:
            return []
        end = len(self.ids) - 1
        return sorted({stop for stop in (*borders, end) if len(self.fed) < stop <= end})

    def check(self) -> None:
        if self.let_go:
            raise UsageError(
                "the layer states of this answer were taken over by another use of them",
                hint="finish one before the next, or give each its own: state.fork()",
            )

    def follow(self, near_end: mx.array) -> None:
        """Submits most of a step, but not before the device is near the end of the one before.

        An array that the device still reads cannot be written in place: a step submitted earlier
        would copy all keys and values. On an H100 and a Llama 8B at 49,000 tokens that was 3 to
        7 GB more, and a twentieth of the speed. What is left of the step before keeps the device busy.
        """
        before, self._near_end = self._near_end, near_end
        if before is not None:
            mx.eval(before)
        mx.async_eval(near_end)

    def settle(self) -> None:
        """Leaves the state with exactly the tokens of `fed`: the step in flight is taken back if possible."""
        if self.let_go:
            return
        in_flight, self.in_flight = self.in_flight, None
        if all(layer.offset <= len(self.fed) for layer in self.state.layers):  # less: its owner trimmed it
            return
        if self.state.rewind(len(self.fed)):
            return
        if in_flight is not None and all(s.offset == len(self.fed) + 1 for s in self.state.layers):
            self.fed.append(in_flight.read().token)
        else:  # a pass broke off between two layers
            self.state.forget()
            self.fed.clear()

    def release(self) -> None:
        """What `ModelState.hold` calls when another takes the state."""
        with lock:  # another thread may be in the middle of a pass
            self.settle()
            self.let_go = True

    def choose(self, logits: mx.array) -> Pending:
        """Submits the draw from logits [V]; the token joins the history unread."""
        if self._history is not None:
            for process in self._processors:
                logits = process(self._history.recent, logits)
        token = self._draw(logits, self.steps)
        self.steps += 1
        if self._history is not None:
            self._history.add(token)
        if self._logprobs is None:
            return Pending(token)
        return Pending(token, logprobs_of(logits, token, self._logprobs))
