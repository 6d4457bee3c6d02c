"""Log-probabilities of generated tokens, in the chat route's shape and in the older route's.

A token's text may reach the answer later than the token; what is said of tokens waits here until
there is text to send it with, so that nothing is lost.
"""

from __future__ import annotations

from typing import Any, Protocol

from mlxone.core.words import Token

LEAST = -9999.0  # how OpenAI writes minus infinity, which JSON cannot


class Logprobs(Protocol):
    def add(self, token: Token) -> None: ...

    def waiting(self) -> bool: ...

    def take(self) -> dict[str, Any]:
        """All since the last call."""


class ChatLogprobs:
    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []

    def add(self, token: Token) -> None:
        top = [_entry(other.text, other.logprob) for other in token.top_logprobs or ()]
        self._entries.append({**_entry(_piece(token), token.logprob), "top_logprobs": top})

    def waiting(self) -> bool:
        return bool(self._entries)

    def take(self) -> dict[str, Any]:
        entries, self._entries = self._entries, []
        return {"content": entries, "refusal": None}


class LegacyLogprobs:
    """Four lists; an offset counts the characters of the answer that were there before the token."""

    def __init__(self) -> None:
        self._offset = 0
        self._lists = self._new()

    @staticmethod
    def _new() -> dict[str, list[Any]]:
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def add(self, token: Token) -> None:
        piece, logprob = _piece(token), _finite(token.logprob)
        # Several tokens may read the same: the likeliest stays. The drawn one is always there.
        top = {other.text: _finite(other.logprob) for other in reversed(token.top_logprobs or ())}
        top.setdefault(piece, logprob)
        for name, value in zip(self._lists, (piece, logprob, top, self._offset), strict=True):
            self._lists[name].append(value)
        self._offset += len(token.text)

    def waiting(self) -> bool:
        return bool(self._lists["tokens"])

    def take(self) -> dict[str, Any]:
        lists, self._lists = self._lists, self._new()
        return lists


def _entry(piece: str, logprob: float | None) -> dict[str, Any]:
    # Half a character has no text of its own, and its bytes are not known here.
    exact = "\N{REPLACEMENT CHARACTER}" not in piece
    return {
        "token": piece,
        "logprob": _finite(logprob),
        "bytes": list(piece.encode()) if exact else None,
    }


def _piece(token: Token) -> str:
    return token.text if token.piece is None else token.piece


def _finite(logprob: float | None) -> float:
    """Not `max`: of NaN only the comparison that fails is sure."""
    return logprob if logprob is not None and logprob > LEAST else LEAST
