"""Many short requests at one server process, and what it holds before, on the way and after."""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.e2e.serving import CHAT, JSON_TYPE, PATIENCE, Program, chat

CLIENTS = 4
TEXTS = 70  # far more than the prompt cache holds; the tokenizers library keeps 10,000 texts of its own


@dataclass(frozen=True, slots=True)
class Held:
    resident: int
    active: int  # in MLX's arrays, without kept prompts: those come and go
    rows: tuple[int, int]


def held(server: Program) -> Held:
    """With nothing at work; the middle of several looks, as a process breathes."""
    server.until_idle()
    looks = [(server.resident_bytes, _active(server)) for _ in range(5)]
    resident, active = (round(statistics.median(values)) for values in zip(*looks, strict=True))
    return Held(resident, active, server.rows)


def _active(server: Program) -> int:
    stats = server.stats()
    return stats["memory"]["active_bytes"] - stats["prompt_cache"]["bytes"]


def ask(server: Program, numbers: range) -> int:
    """Short requests of every kind on one connection after another; how many were answered."""
    answered = 0
    for first in range(numbers.start, numbers.stop, 20):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        for number in range(first, min(first + 20, numbers.stop)):
            answered += KINDS[number % len(KINDS)](connection, number % TEXTS)
        connection.close()
    return answered


def ask_many(server: Program, count: int, start: int = 0) -> int:
    """The same by several clients at once."""
    share = count // CLIENTS
    shares = [range(start + i * share, start + (i + 1) * share) for i in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as crowd:
        return sum(crowd.map(lambda numbers: ask(server, numbers), shares))


def _post(connection: http.client.HTTPConnection, body: object, path: str = CHAT) -> tuple[int, bytes]:
    connection.request("POST", path, json.dumps(body), JSON_TYPE)
    response = connection.getresponse()
    return response.status, response.read()


def _whole(connection: http.client.HTTPConnection, number: int) -> bool:
    status, body = _post(connection, chat(f"Question {number:02}"))
    return status == 200 and json.loads(body)["usage"]["completion_tokens"] > 0


def _streamed(connection: http.client.HTTPConnection, number: int) -> bool:
    status, body = _post(connection, chat(f"Question {number:02}", stream=True, n=2))
    return status == 200 and body.endswith(b"data: [DONE]\n\n")


def _drawn(connection: http.client.HTTPConnection, number: int) -> bool:
    asked = {
        "prompt": f"Text {number:02}",
        "max_tokens": 4,
        "temperature": 1.0,
        "seed": number,
        "logprobs": 3,
    }
    return _post(connection, asked, "/v1/completions")[0] == 200


def _refused(connection: http.client.HTTPConnection, number: int) -> bool:
    return _post(connection, chat(f"Question {number:02}", temperature="hot"))[0] == 400


def _looked_up(connection: http.client.HTTPConnection, number: int) -> bool:
    connection.request("GET", "/v1/models")
    response = connection.getresponse()
    return bool(response.read()) and response.status == 200


def _left(connection: http.client.HTTPConnection, number: int) -> bool:
    """Goes away in the middle of a stream; the next request makes a connection of its own."""
    body = json.dumps(chat(f"Question {number:02}", stream=True, max_tokens=200))
    connection.request("POST", CHAT, body, JSON_TYPE)
    response = connection.getresponse()
    begun = response.status == 200 and bool(response.read(10))
    response.close()
    connection.close()
    return begun


KINDS: tuple[Callable[[http.client.HTTPConnection, int], bool], ...] = (
    *(_whole, _streamed, _whole, _drawn, _whole, _refused, _streamed, _looked_up, _whole, _left),
)
