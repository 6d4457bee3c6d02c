"""What the loop itself refuses: no handler hears of it, so it is said, logged and counted here."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from mlxone.core.errors import MlxoneError
from mlxone.server.errors import retry_after
from mlxone.server.messages import Response

log = logging.getLogger("mlxone.server.requests")

Malformed = Callable[[MlxoneError, str], bytes]
"""The JSON body for what goes wrong before, or without, the handler, with the request's id."""


def uncounted(status: int) -> None:
    pass


class Refusals:
    def __init__(self, malformed: Malformed, count: Callable[[int], None] = uncounted) -> None:
        self._malformed = malformed
        self._count = count

    def response(self, error: MlxoneError, request_id: str) -> Response:
        return Response(error.status, self._malformed(error, request_id), headers=retry_after(error))

    def note(self, error: MlxoneError, request_id: str, peer: str) -> None:
        self._count(error.status)
        fields = {"id": request_id, "peer": peer, "status": error.status, "error": error.code}
        log.info("{id} {peer} refused {status}, {error}".format_map(fields), extra={"fields": fields})


def new_id() -> str:
    return secrets.token_hex(8)
