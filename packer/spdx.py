"""Which licence texts an SPDX expression asks for.

Of alternatives (`OR`) the first one is taken whose texts are all at hand, of what holds together
(`AND`, `WITH`) every text. `+` and `-or-later` are the text of the version that they begin with.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_TOKEN = re.compile(r"[()]|[^\s()]+")


class UnknownError(Exception):
    """No way through the expression leads by known texts alone; says the identifier that is in the way."""


def texts(expression: str, known: Collection[str]) -> frozenset[str]:
    """The names of the texts, of those that are known. UnknownError where that is not enough."""
    tokens = _TOKEN.findall(expression)
    found = _alternatives(tokens, known)
    if tokens:  # a parenthesis too many, or two identifiers with nothing between
        raise UnknownError(tokens[0])
    return found


def _alternatives(tokens: list[str], known: Collection[str]) -> frozenset[str]:
    ways: list[frozenset[str]] = []
    unknown: list[UnknownError] = []
    while True:
        try:
            ways.append(_together(tokens, known))
        except UnknownError as e:
            unknown.append(e)
        if not _next_is(tokens, "OR"):
            break
    if not ways:
        raise unknown[0]
    return ways[0]


def _together(tokens: list[str], known: Collection[str]) -> frozenset[str]:
    """Reads to the end of its part even where something is unknown: what follows is another way."""
    found: frozenset[str] = frozenset()
    unknown: UnknownError | None = None
    while True:
        try:
            found |= _one(tokens, known)
        except UnknownError as e:
            unknown = unknown or e
        if not (_next_is(tokens, "AND") or _next_is(tokens, "WITH")):
            break
    if unknown:
        raise unknown
    return found


def _one(tokens: list[str], known: Collection[str]) -> frozenset[str]:
    token = tokens.pop(0) if tokens else "the end"
    if token == "(":
        try:
            return _alternatives(tokens, known)
        finally:
            if not _next_is(tokens, ")"):
                tokens.insert(0, "(")  # never closed: `texts` finds it
    name = re.sub(r"(\+|-only|-or-later)$", "", token)
    if name not in known:
        raise UnknownError(token)
    return frozenset([name])


def _next_is(tokens: list[str], word: str) -> bool:
    if tokens and tokens[0].upper() == word:
        tokens.pop(0)
        return True
    return False
