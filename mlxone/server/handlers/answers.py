"""The routes that a model answers: read in their dialect, the rest is the same for all."""

from __future__ import annotations

from mlxone.server.answering import respond
from mlxone.server.exchange import Exchange
from mlxone.server.messages import Response
from mlxone.server.protocols import openai_chat, openai_completions


async def chat(exchange: Exchange) -> Response:
    return await respond(exchange, await exchange.body(openai_chat.parse))


async def completion(exchange: Exchange) -> Response:
    return await respond(exchange, await exchange.body(openai_completions.parse))
