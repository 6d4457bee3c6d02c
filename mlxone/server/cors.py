"""What browsers want to hear before a page may read an answer. Who may is for `guard` to say.

Credentials (cookies) are never allowed: this server has none, and keys come in headers of the page's own.
"""

from __future__ import annotations

from mlxone.server.guard import ANY
from mlxone.server.messages import Request

EXPOSED = "retry-after, x-request-id"
REMEMBERED = "600"  # seconds for which a browser need not ask again


def headers(allowed: str | None) -> list[tuple[str, str]]:
    """For every response to a page; `allowed` is what the guard found."""
    if allowed is None:
        return []
    vary = [] if allowed == ANY else [("vary", "origin")]
    return [("access-control-allow-origin", allowed), ("access-control-expose-headers", EXPOSED), *vary]


def is_preflight(request: Request) -> bool:
    return (
        request.method == "OPTIONS"
        and request.header(b"origin") is not None
        and request.header(b"access-control-request-method") is not None
    )


def preflight(request: Request, methods: str) -> list[tuple[str, str]]:
    """What may be sent. Any header may: none has a meaning here that a page should not give it."""
    found = [("access-control-allow-methods", methods), ("access-control-max-age", REMEMBERED)]
    if wanted := request.header(b"access-control-request-headers"):
        # Not `*`: it does not cover `authorization`.
        found.append(("access-control-allow-headers", wanted))
    if request.header(b"access-control-request-private-network") == "true":
        found.append(("access-control-allow-private-network", "true"))
    return found
