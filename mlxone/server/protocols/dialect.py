"""What every wire format gives the server: a parsed call, and two ways to say its events.

Pure: bytes and values in, bytes out. A dialect meets the others at `Asked` and `Event` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mlxone.core.errors import MlxoneError
from mlxone.core.words import Asked, Event


@dataclass(frozen=True, slots=True)
class About:
    """What an answer says of itself."""

    id: str  # the request's id; a dialect puts its own prefix before it
    created: int  # seconds since 1970
    model: str  # the id of the model that answers
    version: str  # of this program


class Call(Protocol):
    """One parsed request."""

    @property
    def asked(self) -> Asked: ...

    @property
    def streams(self) -> bool: ...

    @property
    def ignored(self) -> tuple[str, ...]:
        """Paths of fields that mean nothing here; they are named in the debug log."""

    def streaming(self, about: About) -> Streaming: ...

    def collecting(self, about: About) -> Collecting: ...


class Streaming(Protocol):
    """Events to the bytes of a stream. Each method may have nothing to say: b""."""

    media_type: str

    def begin(self) -> bytes: ...

    def event(self, choice: int, event: Event) -> bytes:
        """Progress, Token or Finished of one of the answers. A Failed goes to `fail`."""

    def keep_alive(self) -> bytes:
        """When nothing was sent for a while: what clients pass over, with how far the prompt is read."""

    def end(self) -> bytes:
        """After the last answer's Finished."""

    def fail(self, error: MlxoneError) -> bytes:
        """In place of everything that would still have come; the response has begun, so it is an event."""


class Collecting(Protocol):
    """Events to one whole body."""

    def event(self, choice: int, event: Event) -> None: ...

    def body(self) -> bytes:
        """JSON, after the last answer's Finished."""
