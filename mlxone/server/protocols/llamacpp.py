"""`/props`, `/tokenize`, `/detokenize` and `/health` in llama.cpp's shapes; `/version`.

`props(of, version)`, `health()`, `version(text)`: bodies.
`tokenize(body)` -> Tokenize(text, add_special, with_pieces, model); `tokenized(ids, pieces)`: its answer.
`detokenize(body)` -> Detokenize(tokens, model); `detokenized(text)`: its answer.
`…Body` and `…Answer` are what they look like on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from mlxone.core.errors import UsageError
from mlxone.server.protocols.reading import MOST_IDS, body_object, check_ids, into, unknown

_encode = msgspec.json.Encoder().encode


class Props(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def context_length(self) -> int: ...
    @property
    def chat_template(self) -> str: ...
    @property
    def bos_token(self) -> str: ...
    @property
    def eos_token(self) -> str: ...
    @property
    def sampling(self) -> Mapping[str, Any]: ...


def props(of: Props, version: str) -> bytes:
    """`model_path` is the model's id: where it lies is nobody's business."""
    return _encode(
        {
            "default_generation_settings": {"n_ctx": of.context_length, "params": dict(of.sampling)},
            "total_slots": 1,
            "model_alias": of.model,
            "model_path": of.model,
            "chat_template": of.chat_template,
            "bos_token": of.bos_token,
            "eos_token": of.eos_token,
            "modalities": {"vision": False, "audio": False},
            "build_info": f"mlxone-{version}",
        }
    )


def health() -> bytes:
    return b'{"status":"ok"}'


def version(text: str) -> bytes:
    return _encode({"version": text})


class TokenizeBody(msgspec.Struct):
    content: str
    model: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(msgspec.Struct):
    tokens: list[int]
    model: str | None = None


class Health(msgspec.Struct):
    status: Literal["ok"]


class Version(msgspec.Struct):
    version: str


class Piece(msgspec.Struct):
    id: int
    piece: str


class TokenizeAnswer(msgspec.Struct):
    tokens: list[int | Piece]


class DetokenizeAnswer(msgspec.Struct):
    content: str


@dataclass(frozen=True, slots=True)
class Tokenize:
    text: str
    add_special: bool
    with_pieces: bool
    model: str | None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Detokenize:
    tokens: tuple[int, ...]
    model: str | None
    ignored: tuple[str, ...] = ()


def tokenize(body: bytes) -> Tokenize:
    value = body_object(body)
    asked = into(TokenizeBody, value)
    if asked.parse_special is False:
        raise UsageError(
            "parse_special cannot be false: special tokens written out in a text are always read as such",
            param="parse_special",
        )
    ignored = tuple(unknown(value, TokenizeBody.__struct_fields__))
    return Tokenize(
        asked.content, bool(asked.add_special), bool(asked.with_pieces), asked.model or None, ignored
    )


def tokenized(ids: Sequence[int], pieces: Sequence[str] | None = None) -> bytes:
    """With `pieces`, one text a token; a token that is only a part of a character reads U+FFFD."""
    if pieces is None:
        return _encode({"tokens": ids})
    return _encode({"tokens": [{"id": id, "piece": text} for id, text in zip(ids, pieces, strict=True)]})


def detokenize(body: bytes) -> Detokenize:
    value = body_object(body)
    asked = into(DetokenizeBody, value)
    if asked.tokens:
        check_ids("tokens", asked.tokens, MOST_IDS)
    ignored = tuple(unknown(value, DetokenizeBody.__struct_fields__))
    return Detokenize(tuple(asked.tokens), asked.model or None, ignored)


def detokenized(text: str) -> bytes:
    return _encode({"content": text})
