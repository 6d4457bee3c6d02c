"""From a method and a path to a route. The routes themselves stand in `routes.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

import msgspec

from mlxone.core.errors import MlxoneError
from mlxone.server.errors import HttpError, NoSuchRoute, NotThisMethod
from mlxone.server.exchange import Exchange
from mlxone.server.messages import Response

JSON = "application/json"
V1 = "/v1"  # every route is there with and without it
_TAIL = "{id}"  # at the end of a path: anything, slashes too
_SHOWN = 100  # characters of a path that a message repeats, or that is compared with ours

Handle = Callable[[Exchange], Awaitable[Response]]
ErrorBody = Callable[[MlxoneError, str], bytes]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    handle: Handle
    errors: ErrorBody  # the dialect that its errors speak…
    fails: type[msgspec.Struct]  # …and what they look like
    summary: str
    open: bool = False  # no key needed
    quick: bool = False  # never waits for a model: answered while one is loaded, logged at debug only
    takes: type[msgspec.Struct] | None = None  # the wire type of its body
    asks: tuple[str, ...] = ()  # what may stand in its query
    gives: tuple[str, ...] = (JSON,)  # media types of its answers
    answer: type[msgspec.Struct] | None = None  # the wire type of what it gives, where it is a small one


@dataclass(frozen=True, slots=True)
class Place:
    """What there is at a path."""

    path: str = "(unknown)"  # as in the table: few, whatever clients ask for
    routes: dict[str, Route] = field(default_factory=dict)  # by method
    argument: str = ""  # what stood at `{id}`

    @property
    def methods(self) -> str:
        """As an Allow header says it."""
        also = {"HEAD"} if "GET" in self.routes else set()
        return ", ".join(sorted({"OPTIONS", *self.routes} | also))

    def route(self, method: str) -> Route | None:
        return self.routes.get("GET" if method == "HEAD" else method)


class Table:
    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, Place] = {}
        for route in self.routes:
            place = self._exact.setdefault(route.path, Place(route.path))
            assert route.method not in place.routes, f"{route.method} {route.path} is there twice"
            place.routes[route.method] = route
        self._tails = [p for p in self._exact.values() if p.path.endswith(_TAIL)]

    def find(self, path: str) -> Place | None:
        if path.startswith(V1 + "/"):
            path = path.removeprefix(V1)
        found = self._exact.get(path)
        for place in self._tails:
            head = place.path.removesuffix(_TAIL)
            if path.startswith(head) and len(path) > len(head):
                if found is None or found is place:
                    return Place(place.path, place.routes, path.removeprefix(head))
                # A path of its own that could be an id as well: each method goes where it is known.
                return Place(found.path, {**place.routes, **found.routes}, path.removeprefix(head))
        return found

    def unknown(self, path: str) -> HttpError:
        names = [route.path for route in self.routes]
        near = get_close_matches(path[:_SHOWN].removeprefix(V1), names, n=3, cutoff=0.5)
        also = ", ".join(V1 + name for name in dict.fromkeys(near))
        hint = f"near it: {also}" if also else f"{V1}/chat/completions and the rest are in /openapi.json"
        return NoSuchRoute(f"there is nothing at {path[:_SHOWN]!r}", hint=hint)

    def wrong_method(self, method: str, place: Place) -> HttpError:
        return NotThisMethod(f"{place.path} does not take {method[:20]}", hint=f"it takes {place.methods}")
