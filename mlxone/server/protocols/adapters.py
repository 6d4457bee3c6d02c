"""`/v1/adapters`: `mounting(body)`, and the bodies `listing`, `one`, `gone` of whatever looks like `Card`.

With `several` models each adapter says which it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from mlxone.server.protocols.reading import body_object, check_count, into, unknown

LONGEST = {"id": 64, "path": 4_096, "model": 1_000}


class Card(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def mounted_layers(self) -> int: ...


class MountBody(msgspec.Struct):
    id: str
    path: str
    model: str | None = None


class AdapterObject(msgspec.Struct, omit_defaults=True):
    """On the wire."""

    id: str
    path: str
    rank: int
    scale: float
    size_bytes: int
    mounted_layers: int
    model: str | None = None


class AdapterListing(msgspec.Struct):
    adapters: list[AdapterObject]


class Gone(msgspec.Struct):
    id: str
    deleted: bool = True


@dataclass(frozen=True, slots=True)
class Mounting:
    id: str
    path: str
    model: str | None
    ignored: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode


def mounting(body: bytes) -> Mounting:
    value = body_object(body)
    asked = into(MountBody, value)
    for name, most in LONGEST.items():
        if (given := getattr(asked, name)) is not None and (given or name != "model"):
            check_count(name, given, most)
    ignored = tuple(unknown(value, MountBody.__struct_fields__))
    return Mounting(asked.id, asked.path, asked.model or None, ignored)


def listing(cards: Iterable[tuple[str, Card]], *, several: bool) -> bytes:
    return _encode(AdapterListing([_object(model if several else None, card) for model, card in cards]))


def one(model: str, card: Card, *, several: bool) -> bytes:
    return _encode(_object(model if several else None, card))


def gone(id: str) -> bytes:
    return _encode(Gone(id))


def _object(model: str | None, card: Card) -> AdapterObject:
    values: dict[str, Any] = {
        name: getattr(card, name) for name in AdapterObject.__struct_fields__ if name != "model"
    }
    return AdapterObject(**values, model=model)
