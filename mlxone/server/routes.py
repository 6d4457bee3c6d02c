"""Every route, once. All are there with and without `/v1`; HEAD goes with GET, OPTIONS with all."""

from __future__ import annotations

from functools import partial

from mlxone.server.handlers import adapters, answers, models, state, texts
from mlxone.server.protocols import openai_errors
from mlxone.server.protocols.adapters import AdapterListing, AdapterObject, Gone, MountBody
from mlxone.server.protocols.llamacpp import (
    DetokenizeAnswer,
    DetokenizeBody,
    Health,
    TokenizeAnswer,
    TokenizeBody,
    Version,
)
from mlxone.server.protocols.openai_fields import ChatBody, CompletionBody
from mlxone.server.protocols.openai_models import Name
from mlxone.server.protocols.prometheus import MEDIA_TYPE
from mlxone.server.table import JSON, Route

ERRORS = openai_errors.error_body  # the dialect of what is at no route

EVENTS = "text/event-stream"
OpenAI = partial(Route, errors=ERRORS, fails=openai_errors.ErrorAnswer)
Llama = OpenAI  # its newer versions speak of errors as OpenAI does

ROUTES: tuple[Route, ...] = (
    OpenAI(
        "POST",
        "/chat/completions",
        answers.chat,
        summary="Answer a conversation.",
        takes=ChatBody,
        gives=(JSON, EVENTS),
    ),
    OpenAI(
        "POST",
        "/completions",
        answers.completion,
        summary="Go on with a text.",
        takes=CompletionBody,
        gives=(JSON, EVENTS),
    ),
    OpenAI("GET", "/models", models.listing, summary="The models that a request may name."),
    OpenAI("GET", "/models/{id}", models.one, summary="One of them; an id may contain slashes."),
    OpenAI("POST", "/models/load", models.load, summary="Load a model, where allowed.", takes=Name),
    OpenAI("POST", "/models/unload", models.unload, summary="Unload a model, where allowed.", takes=Name),
    OpenAI(
        "GET",
        "/adapters",
        adapters.listing,
        summary="The adapters that a request may choose.",
        asks=("model",),
        answer=AdapterListing,
    ),
    OpenAI(
        "POST",
        "/adapters",
        adapters.mount,
        summary="Mount an adapter, where allowed.",
        takes=MountBody,
        answer=AdapterObject,
    ),
    OpenAI(
        "DELETE",
        "/adapters/{id}",
        adapters.unmount,
        summary="Unmount one, where allowed; answers that use it go on.",
        asks=("model",),
        answer=Gone,
    ),
    Llama(
        "POST",
        "/tokenize",
        texts.tokenize,
        summary="Text to tokens.",
        takes=TokenizeBody,
        answer=TokenizeAnswer,
    ),
    Llama(
        "POST",
        "/detokenize",
        texts.detokenize,
        summary="Tokens to text.",
        takes=DetokenizeBody,
        answer=DetokenizeAnswer,
    ),
    Llama("GET", "/props", texts.props, summary="What a model is like.", asks=("model",)),
    Llama(
        "GET",
        "/health",
        state.health,
        summary="Whether requests are answered.",
        open=True,
        quick=True,
        answer=Health,
    ),
    OpenAI("GET", "/stats", state.stats, summary="What was done and what is held.", quick=True),
    OpenAI(
        "GET", "/metrics", state.metrics, summary="The same for Prometheus.", quick=True, gives=(MEDIA_TYPE,)
    ),
    OpenAI(
        "GET", "/version", state.version, summary="The version of this program.", quick=True, answer=Version
    ),
    OpenAI("GET", "/openapi.json", state.openapi, summary="This document.", quick=True),
)
