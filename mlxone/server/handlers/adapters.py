"""Which adapters are mounted, and mounting by request where the operator named a folder for it."""

from __future__ import annotations

from mlxone.server.exchange import Exchange
from mlxone.server.messages import Response
from mlxone.server.protocols import adapters as codec


async def listing(exchange: Exchange) -> Response:
    context = exchange.shared.context
    found = await context.adapters.listing(_model(exchange))
    return Response(body=codec.listing(found, several=context.has_several))


async def mount(exchange: Exchange) -> Response:
    asked, context = await exchange.body(codec.mounting), exchange.shared.context
    exchange.ignores(asked.ignored)
    model, card = await context.adapters.mount(asked.id, asked.path, asked.model)
    return Response(body=codec.one(model, card, several=context.has_several))


async def unmount(exchange: Exchange) -> Response:
    _, card = await exchange.shared.context.adapters.unmount(exchange.argument, _model(exchange))
    return Response(body=codec.gone(card.id))


def _model(exchange: Exchange) -> str | None:
    return exchange.request.query.get("model") or None
