"""A small client: one request over HTTP/1.1 with the standard library, and when its tokens came.

Lines are only stamped while they come and read afterwards, so that the client takes little of the machine.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

HOST = "127.0.0.1"
PATIENCE = 900.0  # seconds; mlx-lm reads a long prompt slowly on a CPU
HEALTH = f"GET /health HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Streamed:
    sent: float  # when the request went out
    first: float  # when the first piece of text came
    last: float
    text: str
    prompt_tokens: int
    tokens: int

    @property
    def first_ms(self) -> float:
        return (self.first - self.sent) * 1e3

    @property
    def decode_tps(self) -> float:
        return (self.tokens - 1) / (self.last - self.first)


def ask(port: int, messages: Messages, count: int) -> Streamed:
    body = {
        "messages": list(messages),
        "max_tokens": count,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with ExitStack() as stack:
        connection = HTTPConnection(HOST, port, timeout=PATIENCE)
        stack.callback(connection.close)
        sent = time.perf_counter()
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
        )
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"the server answered {response.status}: {response.read()[:500]!r}")
        lines: list[tuple[float, bytes]] = []
        while line := response.readline():
            lines.append((time.perf_counter(), line))
            if line.startswith(b"data: [DONE]"):
                break
    return _read(sent, lines)


def _read(sent: float, lines: list[tuple[float, bytes]]) -> Streamed:
    pieces: list[tuple[float, str]] = []
    usage: dict[str, Any] = {}
    for at, line in lines:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        text = "".join(choice["delta"].get("content") or "" for choice in event.get("choices") or ())
        if text:
            pieces.append((at, text))
    if not pieces or not usage:
        raise SystemExit(f"no text or no usage in {b''.join(line for _, line in lines)[:500]!r}")
    whole = "".join(text for _, text in pieces)
    return Streamed(
        sent, pieces[0][0], pieces[-1][0], whole, usage["prompt_tokens"], usage["completion_tokens"]
    )


def wait_for(port: int, alive: Any) -> None:
    """Until somebody listens there; `alive` is asked whether there is still hope."""
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline and alive():
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
            return
        time.sleep(0.002)
    raise SystemExit("a server did not start")


def requests_per_second(port: int, seconds: float) -> float:
    """GET /health, one after the other on one connection: by wrk where there is one."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return _by_hand(port, seconds)
    command = [wrk, "-c1", "-t1", f"-d{max(1, round(seconds))}s", f"http://{HOST}:{port}/health"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s*([\d.]+)", said)
    if found is None or "Non-2xx" in said:
        raise SystemExit(f"wrk says {said}")
    return float(found[1])


def _by_hand(port: int, seconds: float) -> float:
    connection = _connect(port)
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        if not _healthy(connection):  # closed after one answer: that, too, is a speed
            connection.close()
            connection = _connect(port)
        count += 1
    connection.close()
    return count / (time.perf_counter() - start)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _healthy(connection: socket.socket) -> bool:
    """One exchange; whether the connection is still open after it."""
    connection.sendall(HEALTH)
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = connection.recv(65_536)
        if not more:
            return False
        answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0:
        missing -= len(connection.recv(missing)) or missing
    return length is not None and b"connection: close" not in head.lower()


def idle_connections(port: int, count: int) -> ExitStack:
    """So many connections, each used once and kept open until the stack is closed."""
    stack = ExitStack()
    for _ in range(count):
        connection = stack.enter_context(_connect(port))
        if not _healthy(connection):
            raise SystemExit("the server does not keep connections open")
    return stack
