"""gzip for large JSON, when the client asks for it."""

from __future__ import annotations

import asyncio
import re
import zlib
from dataclasses import replace

from mlxone.server.messages import Response

_SMALL = 2_048  # less fits a packet or two anyway
_LARGE = 262_144  # more takes milliseconds, and other requests would wait for them
_LEVEL = 2  # JSON shrinks nearly as well as at 9, in a fraction of the time
_GZIP = 31  # zlib's name for: gzip's header, the largest window
_quality = re.compile(r"\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*", re.I)


async def packed(response: Response, accepts: str | None) -> Response:
    """The response, or its compressed twin if that is worth it and wanted."""
    body = response.body
    if not isinstance(body, bytes) or len(body) < _SMALL or not _is_json(response.media_type):
        return response
    headers = {name.lower(): value for name, value in response.headers}
    if "content-encoding" in headers:
        return response
    others = [(name, value) for name, value in response.headers if name.lower() != "vary"]
    varies = f"{headers['vary']}, accept-encoding" if "vary" in headers else "accept-encoding"
    response = replace(response, headers=[*others, ("vary", varies)])
    if accepts is not None and accepts_gzip(accepts):
        response.body = await asyncio.to_thread(_gzip, body) if len(body) > _LARGE else _gzip(body)
        response.headers.append(("content-encoding", "gzip"))
    return response


def accepts_gzip(header: str) -> bool:
    """What `Accept-Encoding` says of gzip: not refused, and not liked less than the plain form."""
    wanted: dict[str, float] = {}
    for item in header.lower().split(","):
        coding, _, parameter = item.partition(";")
        wanted[coding.strip()] = _weight(parameter)
    gzip = wanted.get("gzip", wanted.get("x-gzip", wanted.get("*", 0.0)))
    return gzip > 0 and gzip >= wanted.get("identity", 0.0)


def _weight(parameter: str) -> float:
    if not parameter.strip():
        return 1.0
    found = _quality.fullmatch(parameter)
    return float(found[1]) if found else 0.0


def _is_json(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return packer.compress(body) + packer.flush()
