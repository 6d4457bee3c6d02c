"""What a connection may take of the server. Every input has a limit; docs/server.md lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    header_bytes: int = 65_536  # request line and headers together
    body_bytes: int = 32_000_000
    all_body_bytes: int = 256_000_000  # of bodies that came and are not answered yet, of all connections
    connections: int = 2_000
    idle_seconds: float = 120.0  # between two requests of a connection
    read_seconds: float = 30.0  # for the headers, and for each further piece of a body
    write_seconds: float = 30.0  # for a client to take anything of what waits for it
    unsent_bytes: int = 262_144  # of a response that may wait for a slow client
