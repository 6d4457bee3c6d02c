"""What the HTTP loop calls with every request, and what gets a response whatever happens.

Guard, then route, then handler. A failure of ours becomes its status in the dialect of its route; any other
one becomes a plain 500, with everything else about it in the log under the request's id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from mlxone.core.errors import ShuttingDown
from mlxone.server import cors
from mlxone.server.answering import told
from mlxone.server.errors import retry_after
from mlxone.server.exchange import GONE, Exchange, Pace, Phase, Shared, Watched
from mlxone.server.guard import Guard
from mlxone.server.messages import ENDING, Request, Response
from mlxone.server.openapi import document
from mlxone.server.routes import ERRORS, ROUTES
from mlxone.server.table import ErrorBody, Place, Route, Table
from mlxone.service.context import Context

NOWHERE, PACE = Place(), Pace()


class App:
    def __init__(
        self,
        context: Context,
        *,
        guard: Guard | None = None,
        pace: Pace = PACE,
        routes: Iterable[Route] = ROUTES,
    ) -> None:
        self.table = Table(routes)
        self.shared = Shared(context, lambda: document(self.table.routes), pace=pace)
        self.guard = guard or Guard()
        self._opened = asyncio.Event()

    def enter(self, phase: Phase) -> None:
        """Whoever came before the models were ready has waited; now it is decided."""
        self.shared.phase = phase
        if phase != "starting":
            self._opened.set()

    async def __call__(self, request: Request) -> Response:
        exchange = Exchange(request, self.shared)
        place = self.table.find(request.path) or NOWHERE
        exchange.path, exchange.argument = place.path, place.argument
        route = place.route(request.method)
        if route is not None and route.quick:
            exchange.level = logging.DEBUG
        extra: list[tuple[str, str]] = []
        try:
            extra = cors.headers(self.guard.admit(request))
            response = await self._answer(exchange, place, route)
        except asyncio.CancelledError as cut:
            self._cut_off(exchange, cut)
            raise
        except Exception as error:  # noqa: BLE001  the edge of one exchange: it answers, and the server goes on
            response = self._refuse(exchange, error, route.errors if route else ERRORS)
            if response.status == 405:
                response.headers.append(("allow", place.methods))
        response.headers += extra
        if isinstance(response.body, bytes):
            exchange.end(response.status)
        else:
            response.body = Watched(response.body, exchange, response.status)
        return response

    async def _answer(self, exchange: Exchange, place: Place, route: Route | None) -> Response:
        request = exchange.request
        if request.method == "OPTIONS":
            return self._options(request, place)
        if route is None or not route.open:
            self.guard.check_key(request)
        if place is NOWHERE:
            raise self.table.unknown(request.path)
        if route is None:
            raise self.table.wrong_method(request.method, place)
        exchange.ignores(f"?{name}" for name in sorted(request.query) if name not in route.asks)
        if not route.quick:
            await self._ready()
        return await route.handle(exchange)

    def _options(self, request: Request, place: Place) -> Response:
        if place is NOWHERE and request.path != "*":
            raise self.table.unknown(request.path)
        methods = "DELETE, GET, HEAD, OPTIONS, POST" if place is NOWHERE else place.methods
        headers = [("allow", methods)]
        if cors.is_preflight(request):
            headers += cors.preflight(request, methods)
        return Response(204, headers=headers)

    async def _ready(self) -> None:
        await self._opened.wait()
        if self.shared.phase == "draining":
            raise ShuttingDown("the server is shutting down", hint="try again in a moment")

    def _cut_off(self, exchange: Exchange, cut: asyncio.CancelledError) -> None:
        """What the client gets is the loop's to say; here is what is written down of it."""
        if cut.args == (ENDING,):
            exchange.error = ShuttingDown(ENDING)
        exchange.end(GONE if exchange.error is None else exchange.error.status)

    def _refuse(self, exchange: Exchange, error: Exception, errors: ErrorBody) -> Response:
        exchange.error = said = told(error, exchange.request.id)
        response = Response(said.status, errors(said, exchange.request.id))
        if said.status == 401:
            response.headers.append(("www-authenticate", "Bearer"))
        response.headers += retry_after(said)
        return response
