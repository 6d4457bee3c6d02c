"""Which models there are, and which are in memory."""

from __future__ import annotations

from mlxone.core.amounts import first_of
from mlxone.core.errors import ModelNotFound
from mlxone.server.exchange import Exchange
from mlxone.server.messages import Response
from mlxone.server.protocols import openai_models as codec


async def listing(exchange: Exchange) -> Response:
    return Response(body=codec.listing(await exchange.shared.context.refresh()))


async def one(exchange: Exchange) -> Response:
    cards = await exchange.shared.context.refresh()
    for card in cards:
        if card.id == exchange.argument:
            return Response(body=codec.one(card))
    known = first_of([card.id for card in cards], 3)
    raise ModelNotFound(
        f"there is no model {exchange.argument[:200]!r}", hint=f"there is {known or 'none'}", param="model"
    )


async def load(exchange: Exchange) -> Response:
    return Response(body=codec.one(await exchange.shared.context.load(await _named(exchange))))


async def unload(exchange: Exchange) -> Response:
    return Response(body=codec.one(await exchange.shared.context.unload(await _named(exchange))))


async def _named(exchange: Exchange) -> str:
    asked = await exchange.body(codec.named)
    exchange.ignores(asked.ignored)
    return asked.model
