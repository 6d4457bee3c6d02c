"""What the server itself has done: read by `/metrics` and by whoever shows a running server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

REFUSED = "(refused)"  # in place of a route


def _none() -> int:
    return 0


class Counters:
    """Written and read on the event loop; a look from another thread may be one request late."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # (route, status) -> how many have ended
        self.in_flight = 0
        self.connections: Callable[[], int] = _none  # that are open now

    @property
    def total(self) -> int:
        return self.requests.total()

    def began(self) -> None:
        self.in_flight += 1

    def refused(self, status: int) -> None:
        """What got no further than the loop."""
        self.requests[REFUSED, status] += 1

    def ended(self, route: str, status: int) -> None:
        self.in_flight -= 1
        self.requests[route, status] += 1
