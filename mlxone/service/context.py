"""Models that answer many at once: what a server serves, and what a program may embed.

Sockets know nothing of models and models nothing of sockets; this is where they meet. One thread
does the models' work (`worker.py`), templates and tokenising have threads of their own, and the
event loop only waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.core.words import Asked, Event
from mlxone.service.figures import Figures, ModelCard
from mlxone.service.options import Options


@dataclass(frozen=True, slots=True)
class Props:
    """What a client may want to know of a model before it asks."""

    model: str
    context_length: int
    chat_template: str
    bos_token: str
    eos_token: str
    sampling: dict[str, Any]  # what a request without any wishes gets


class Answers:
    """The events of all answers to one request, numbered; each ends in one terminal event.

    Leaving early (`aclose`, or the context manager) cancels within one step.
    """

    model: str  # the id of the model that answers

    def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        raise NotImplementedError

    async def __anext__(self) -> tuple[int, Event]:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Answers:
        raise NotImplementedError

    async def __aexit__(self, *_: object) -> None:
        raise NotImplementedError


class Context:
    def __init__(
        self,
        models: Sequence[str | Path] = (),
        *,
        folders: Sequence[str | Path] = (),
        options: Options | None = None,
        owner: str = "embedded",
    ) -> None:
        """Without `models` whatever the registry knows answers, loaded when it is asked for."""

    async def answer(self, asked: Asked) -> Answers:
        """Raises what refuses the request as a whole, before any of its work; afterwards there are events."""
        raise NotImplementedError

    def models(self) -> list[ModelCard]:
        raise NotImplementedError

    async def load(self, name: str) -> ModelCard:
        """Only what the registry knows, and only where the operator allows it."""
        raise NotImplementedError

    async def unload(self, name: str) -> ModelCard:
        raise NotImplementedError

    async def tokenize(self, model: str | None, text: str, *, add_special: bool = False) -> list[int]:
        raise NotImplementedError

    async def detokenize(self, model: str | None, ids: Sequence[int]) -> str:
        raise NotImplementedError

    async def token_texts(self, model: str | None, ids: Sequence[int]) -> list[str]:
        raise NotImplementedError

    async def props(self, model: str | None = None) -> Props:
        raise NotImplementedError

    def figures(self) -> Figures:
        raise NotImplementedError

    async def close(self, grace: float = 0.0) -> None:
        """Takes nothing new, lets what runs finish for `grace` seconds, cancels the rest."""
