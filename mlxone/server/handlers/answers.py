"""The routes that a model answers: read in their dialect, the rest is the same for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mlxone.server.answering import respond
from mlxone.server.exchange import Exchange
from mlxone.server.messages import Response
from mlxone.server.protocols import openai_chat, openai_completions
from mlxone.server.protocols.dialect import Call

LONG = 200_000  # bytes of a body that are read beside the event loop: others are being answered there


async def chat(exchange: Exchange) -> Response:
    return await _answered(exchange, openai_chat.parse)


async def completion(exchange: Exchange) -> Response:
    return await _answered(exchange, openai_completions.parse)


async def _answered(exchange: Exchange, parse: Callable[[bytes], Call]) -> Response:
    body = await exchange.body()
    call = parse(body) if len(body) < LONG else await asyncio.to_thread(parse, body)
    return await respond(exchange, call)
