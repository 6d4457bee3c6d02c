"""A request's target to a path and a query: decoded once, strictly, or an HttpError."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from mlxone.server.errors import HttpError

_stray_percent = re.compile(r"%(?![0-9A-Fa-f]{2})")
_control = re.compile(r"[\x00-\x1f\x7f]")


def read_target(method: str, target: str) -> tuple[str, dict[str, str]]:
    """Only the origin form, and `*` for OPTIONS. A slash that came as %2F is a slash like any other."""
    if target == "*" and method == "OPTIONS":
        return target, {}
    if method == "CONNECT" or not target.startswith("/"):
        raise HttpError("the request target has to be a path: this is no proxy")
    if "#" in target:
        raise HttpError("a fragment (#) does not belong in a request")
    path, _, query = target.partition("?")
    path = _decoded(path)
    if _control.search(path):
        raise HttpError("control characters in the path")
    return path, _read_query(query) if query else {}


def _read_query(query: str) -> dict[str, str]:
    """What is given several times is joined with commas, so that nothing of it is lost."""
    found: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = (_decoded(side) for side in part.replace("+", " ").partition("="))
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    if _stray_percent.search(text):
        raise HttpError("a % in the URL has to be followed by two hex digits")
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise HttpError("the URL's percent-encoded bytes are no UTF-8") from None
