"""Before a start: does anything answer at that place already, and who is it.

Not a promise that the place is free. Whoever listens there a moment later is found when we do.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from mlxone.cli.terminal import one_line
from mlxone.core.errors import UsageError

CONNECT, ANSWER = 0.5, 1.0  # seconds
MOST = 65_536  # bytes read of a stranger's answer
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def refuse_if_taken(host: str, port: int, uds: str | None) -> None:
    """Raises the line that says who is there."""
    try:
        found = _connect(host, port, uds)
    except (OSError, UnicodeError):  # nobody, or a name that listening will complain about
        return
    with found:
        who = _who(found)
    if uds is not None:
        raise UsageError(f"socket {uds} is taken: {who} answers there already", hint="name another file")
    raise UsageError(
        f"port {port} is taken: {who} answers there already", hint="choose another with --port, or --port 0"
    )


def _connect(host: str, port: int, uds: str | None) -> socket.socket:
    if uds is None:
        if not port:
            raise OSError("any free port")
        return socket.create_connection((_EVERYWHERE.get(host, host), port), timeout=CONNECT)
    found = socket.socket(socket.AF_UNIX)
    try:
        found.settimeout(CONNECT)
        found.connect(uds)
    except BaseException:
        found.close()
        raise
    return found


def _who(found: socket.socket) -> str:
    answer = _ask(found)
    if answer is None:
        return "a program that does not speak HTTP"
    server, body = answer
    if server.lower().startswith("mlxone") or body.get("server") == "mlxone":
        version = body.get("version") or server.partition("/")[2]
        return one_line(f"mlxone {version}".strip())
    return one_line(f"a web server ({server[:60]})") if server else "a web server"


def _ask(found: socket.socket) -> tuple[str, dict[str, Any]] | None:
    """What it calls itself and what it says at /version; None where it says nothing that is HTTP."""
    import http.client  # mostly nobody is there to be asked

    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        found.settimeout(ANSWER)
        found.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        response = http.client.HTTPResponse(found, method="GET")
        response.begin()
        body = response.read(MOST)
        return response.getheader("Server") or "", _object(body)
    return None


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
