"""How the server is. Nothing here waits for a model, so that probes hear of it at once."""

from __future__ import annotations

from mlxone import __version__
from mlxone.core.errors import ShuttingDown
from mlxone.server.counters import Counters
from mlxone.server.errors import NotReady
from mlxone.server.exchange import Exchange
from mlxone.server.messages import Response
from mlxone.server.protocols import llamacpp, prometheus
from mlxone.server.protocols import stats as stats_codec
from mlxone.server.protocols.prometheus import Metric

HEALTHY = llamacpp.health()
VERSION = llamacpp.version(__version__)


async def health(exchange: Exchange) -> Response:
    phase = exchange.shared.phase
    if phase == "ok":
        return Response(body=HEALTHY)
    if phase == "starting":
        raise NotReady("the model is being loaded")
    raise ShuttingDown("the server is shutting down")


async def version(_: Exchange) -> Response:
    return Response(body=VERSION)


async def stats(exchange: Exchange) -> Response:
    return Response(body=stats_codec.body(exchange.shared.context.figures()))


async def metrics(exchange: Exchange) -> Response:
    shared = exchange.shared
    body = prometheus.text(shared.context.figures(), __version__, _ours(shared.counters))
    return Response(body=body, media_type=prometheus.MEDIA_TYPE)


async def openapi(exchange: Exchange) -> Response:
    return Response(body=exchange.shared.describe())


def _ours(counters: Counters) -> list[Metric]:
    ended = [
        ({"route": path, "status": str(status)}, n) for (path, status), n in sorted(counters.requests.items())
    ]
    return [
        Metric(
            "http_requests_total",
            "counter",
            "Requests by route and status; 499: the client went away.",
            ended,
        ),
        Metric(
            "http_requests_running", "gauge", "Requests that are being answered.", [({}, counters.in_flight)]
        ),
        Metric("http_connections", "gauge", "Open connections.", [({}, counters.connections())]),
    ]
