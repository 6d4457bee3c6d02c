"""A response's head: what every answer says besides what the handler says."""

from __future__ import annotations

import time
from functools import lru_cache
from http import HTTPStatus

import h11

from mlxone.server.messages import Response

# How a message is delimited, and who sends it when, is not the handler's to say.
_OURS = frozenset(
    ("content-length", "content-type", "transfer-encoding", "connection", "date", "server", "x-request-id")
)
BODILESS = (204, 304)
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def head(response: Response, server: bytes, request_id: str, close: bool) -> h11.Response:
    """ValueError or h11.LocalProtocolError: the handler's headers cannot be sent."""
    headers = [
        (b"date", _date(int(time.time()))),
        (b"server", server),
        (b"x-request-id", request_id.encode()),
    ]
    if response.status not in BODILESS:
        if response.media_type:
            headers.append((b"content-type", response.media_type.encode("latin-1")))
        if isinstance(response.body, bytes):
            headers.append((b"content-length", b"%d" % len(response.body)))
    for name, value in response.headers:
        if name.lower() in _OURS:
            raise ValueError(f"a handler may not set the header {name!r}")
        headers.append((name.encode("ascii"), value.encode("latin-1")))
    if close:
        headers.append((b"connection", b"close"))
    reason = _REASONS.get(response.status, b"")
    return h11.Response(status_code=response.status, headers=headers, reason=reason)


def last(
    talk: h11.Connection, response: Response, server: bytes, request_id: str, *, bodiless: bool = False
) -> bytes:
    """All that is said to who is turned away."""
    assert isinstance(response.body, bytes)
    said = talk.send(head(response, server, request_id, close=True))
    return said if bodiless else said + talk.send(h11.Data(data=response.body))


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    """As HTTP writes it, whatever the locale."""
    t = time.gmtime(second)
    day, month = _DAYS[t.tm_wday], _MONTHS[t.tm_mon - 1]
    clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    return f"{day}, {t.tm_mday:02} {month} {t.tm_year:04} {clock} GMT".encode()
