"""Text to tokens and back, and what a client may know of a model before it asks."""

from __future__ import annotations

from mlxone import __version__
from mlxone.server.exchange import Exchange
from mlxone.server.messages import Response
from mlxone.server.protocols import llamacpp as codec


async def tokenize(exchange: Exchange) -> Response:
    asked, context = await exchange.body(codec.tokenize), exchange.shared.context
    exchange.ignores(asked.ignored)
    ids = await context.tokenize(asked.model, asked.text, add_special=asked.add_special)
    pieces = await context.token_texts(asked.model, ids) if asked.with_pieces else None
    return Response(body=codec.tokenized(ids, pieces))


async def detokenize(exchange: Exchange) -> Response:
    asked = await exchange.body(codec.detokenize)
    exchange.ignores(asked.ignored)
    text = await exchange.shared.context.detokenize(asked.model, asked.tokens)
    return Response(body=codec.detokenized(text))


async def props(exchange: Exchange) -> Response:
    asked_for = exchange.request.query.get("model") or None
    return Response(body=codec.props(await exchange.shared.context.props(asked_for), __version__))
