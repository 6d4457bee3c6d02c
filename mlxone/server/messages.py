"""A request and a response as values: what the loop hands to the routes, and what it gets back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

Headers = tuple[tuple[bytes, bytes], ...]  # names in lower case


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str  # percent-decoded, without the query
    query: Mapping[str, str]
    headers: Headers
    id: str
    peer: str  # who asks, for the log: an address, or "unix"
    read: Callable[[], Awaitable[bytes]]  # the whole body; more than may be is a TooLarge

    def header(self, name: bytes) -> str | None:
        """The first of that name, in lower case letters; bytes that are no text are replaced."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None


@dataclass(slots=True)
class Response:
    """A body is bytes, or an iterator of chunks that is closed whatever happens to the client."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    media_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)


Handler = Callable[[Request], Awaitable[Response]]
"""Cancelled when the client is gone, or, with `ENDING`, when the server ends: then the client gets a 503."""

ENDING = "the server is shutting down"
