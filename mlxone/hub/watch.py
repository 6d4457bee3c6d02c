"""Whoever wants to see a download: told on the thread that asked for it, some times a second."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from mlxone.hub.repo import File, Plan


class State(Enum):
    FETCHING = "fetching"
    WAITING = "waiting for another process"
    CHECKING = "checking"
    DONE = "done"


class Watch:
    """Does nothing with what it hears; others override what they want to know."""

    def begin(self, plan: Plan, held: Mapping[str, int]) -> None:
        """How many bytes of each file are there already."""

    def file(self, file: File, state: State, held: int) -> None:
        """A file in flight, or just finished. `held` falls where a damaged file is fetched again."""

    def end(self, fetched: int) -> None:
        """All is in its place; so many bytes came over the network."""
