"""`GET /v1/models`, `GET /v1/models/{id}`, and what `/v1/models/load` and `/unload` are asked and answer.

`listing(cards)`, `one(card)`: bodies, of whatever has the attributes of `Card`.
`named(body)` -> Named(model, ignored): the model that a body `{"model": "…"}` names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from mlxone.server.protocols.reading import body_object, check_count, into, unknown


class Card(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def context_length(self) -> int | None: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def loaded(self) -> bool: ...
    @property
    def problem(self) -> str | None: ...
    @property
    def capabilities(self) -> tuple[str, ...]: ...


class Name(msgspec.Struct):
    model: str


@dataclass(frozen=True, slots=True)
class Named:
    model: str
    ignored: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode


def listing(cards: Iterable[Card]) -> bytes:
    return _encode({"object": "list", "data": [_value(card) for card in cards]})


def one(card: Card) -> bytes:
    return _encode(_value(card))


def named(body: bytes) -> Named:
    value = body_object(body)
    name = into(Name, value).model
    check_count("model", name, 1_000)
    return Named(name, tuple(unknown(value, Name.__struct_fields__)))


def _value(card: Card) -> dict[str, Any]:
    """OpenAI's four fields, then ours. Why a model cannot answer stays with the operator: it names places."""
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": _owner(card.id),
        "context_length": card.context_length,
        "size_bytes": card.size_bytes,
        "loaded": card.loaded,
        "usable": card.problem is None,
        "capabilities": card.capabilities,
    }


def _owner(id: str) -> str:
    """A repo's organization; what has none is this machine's own."""
    organization, slash, _ = id.partition("/")
    return organization if slash and organization else "local"
