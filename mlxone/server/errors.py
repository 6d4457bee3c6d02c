"""Failures that only HTTP knows; everything else is of `core.errors`."""

from __future__ import annotations

import math

from mlxone.core.errors import MlxoneError


class HttpError(MlxoneError):
    """A request that cannot be taken as it came."""

    code, exit_code, status = "bad_request", 13, 400


WAIT = (429, 503)


def retry_after(error: MlxoneError) -> list[tuple[str, str]]:
    """The header that says when one may come again, where one may."""
    seconds = getattr(error, "retry_after", 1.0)
    return [("retry-after", str(math.ceil(seconds)))] if error.status in WAIT else []


class Unauthorized(HttpError):
    code, status = "unauthorized", 401


class Forbidden(HttpError):
    code, status = "forbidden", 403


class NoSuchRoute(HttpError):
    code, status = "not_found", 404


class NotThisMethod(HttpError):
    code, status = "method_not_allowed", 405


class TooSlow(HttpError):
    code, status = "request_timeout", 408


class TooLarge(HttpError):
    code, status = "too_large", 413


class WrongMedia(HttpError):
    """A body that says it is something else than JSON."""

    code, status = "unsupported_media_type", 415


class NotReady(HttpError):
    """What was asked for is still on its way into memory."""

    code, status = "starting", 503


class HeadTooLarge(HttpError):
    code, status = "headers_too_large", 431


class UnknownCoding(HttpError):
    """A transfer coding other than chunked."""

    code, status = "unknown_transfer_coding", 501


class TooManyConnections(HttpError):
    code, status = "too_many_connections", 503


class TooManyBodies(HttpError):
    code, status = "too_many_bodies", 503
