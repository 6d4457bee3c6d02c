"""Clients that misbehave, or just go away: nothing of them stays, and the others are served.

The program shows that by its own counts (`offer`). In this process alone are those tests that need limits
of fractions of a second, which no flag gives, or count the passes of the model.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mlxone.server.limits import Limits
from tests.e2e.serving import (
    CHAT,
    LONG,
    PATIENCE,
    Asks,
    Theatre,
    chat,
    is_closed,
    offer,
    read_answer,
    recited,
    request_bytes,
    reset,
    serve,
    told,
    until,
    write_endless,
)

ENDLESS = {"stream": True, "max_tokens": None}  # to the end of a long context
SHORT = Limits(read_seconds=0.4, idle_seconds=0.4, write_seconds=0.4, unsent_bytes=65_536)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless(tmp_path_factory.mktemp("models") / "endless")


@pytest.fixture(scope="module")
def next_one(endless: Path) -> str:
    """What it says to who comes when all are gone."""
    return told(endless, "And now?", 4)


@pytest.fixture
def theatre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Theatre]:
    made = Theatre(tmp_path, monkeypatch)
    yield made
    made.go()


def post(text: str = "Hi", **fields: object) -> bytes:
    return request_bytes("POST", CHAT, chat(text, **fields))


def nothing_is_left(server: Asks, expected: str) -> None:
    """No row, no connection, no exchange, and the next one is answered."""
    server.until_idle()
    server.until_alone()
    assert server.chat("And now?").text == expected


def read_until(sock: socket.socket, mark: bytes, times: int = 1) -> bytes:
    seen = b""
    while seen.count(mark) < times:
        piece = sock.recv(4096)
        assert piece, f"it ended with {seen[-300:]!r}"
        seen += piece
    return seen


# 200 clients that leave -----------------------------------------------------------------------

MOMENTS = ("connected", "in the headers", "in the body", "asked", "at the head", "in the stream")


def leave_at(server: Asks, seed: int) -> None:
    """A client that goes away at a moment, and in a manner, that its seed decides."""
    chance, moment = random.Random(seed), MOMENTS[seed % len(MOMENTS)]
    data = post("x" * chance.randrange(1, 2_000), **ENDLESS)
    body = data.index(b"\r\n\r\n") + 4
    sock = server.connect()
    with contextlib.suppress(ConnectionError):
        if moment == "in the headers":
            sock.sendall(data[: chance.randrange(1, body)])
        elif moment == "in the body":
            sock.sendall(data[: chance.randrange(body, len(data))])
        elif moment != "connected":
            sock.sendall(data)
        if moment == "at the head":
            read_until(sock, b"\r\n\r\n")
        elif moment == "in the stream":
            read_until(sock, b"data: ", chance.randrange(2, 40))
    if chance.random() < 0.3:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
    (reset if chance.random() < 0.5 else socket.socket.close)(sock)


def test_200_clients_that_leave_at_random_moments(endless: Path, next_one: str):
    with offer(endless, queue=1_000) as server:
        with ThreadPoolExecutor(12) as crowd:
            for done in [crowd.submit(leave_at, server, seed) for seed in range(200)]:
                done.result(PATIENCE)
        nothing_is_left(server, next_one)
        # Whoever had the head of a stream had begun, and nobody read one to its end.
        assert server.metrics['requests_total{route="/chat/completions",status="499"}'] >= 200 // 3
        assert server.stats()["totals"]["answers"] == 1


def test_those_who_leave_while_they_wait_never_begin(endless: Path, next_one: str):
    """One has the model's only place; all the others are in the queue."""
    with offer(endless, queue=1_000, prompt_cache_bytes=0) as server:
        first = server.connect()
        first.sendall(post("first", **ENDLESS))
        read_until(first, b"data: ", 2)
        others = [server.connect() for _ in range(40)]
        for number, sock in enumerate(others):
            sock.sendall(post(f"other {number}", stream=number % 2 == 0))
        until(lambda: server.rows == (1, 40), "all in the queue")
        for number, sock in enumerate(others):
            (reset if number % 3 else socket.socket.close)(sock)
        until(lambda: server.rows == (1, 0), "the end of the queue")
        reset(first)
        nothing_is_left(server, next_one)
        totals = server.stats()["totals"]
        assert totals["answers"] == 1
        # The prompts of the first and of the last; of the others none was read.
        assert totals["prompt_tokens"] == len("first" + "And now?")
        assert totals["generated_tokens"] < LONG // 2


# Half-open and dead peers -----------------------------------------------------------------------


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("leave", [half_close, reset])
def test_an_end_in_the_middle_of_an_answer_gives_its_row_up(
    endless: Path, next_one: str, leave: Callable[[socket.socket], None], streams: bool
):
    with offer(endless) as server, server.connect() as sock:
        sock.sendall(post(stream=streams, max_tokens=None))
        until(lambda: server.rows == (1, 0), "its place")
        leave(sock)
        if sock.fileno() >= 0:  # half closed: the server's end of it goes, too
            until(partial(is_closed, sock), "the end of the connection")
        nothing_is_left(server, next_one)
        totals = server.stats()["totals"]
        assert totals["answers"] == 1 and totals["generated_tokens"] < LONG // 2


def test_who_has_said_all_it_has_to_say_is_still_answered(endless: Path):
    with offer(endless) as server, server.connect() as sock:
        sock.sendall(request_bytes("GET", "/version"))
        sock.shutdown(socket.SHUT_WR)
        assert read_answer(sock).json["version"]


def test_a_peer_that_says_nothing_more_is_not_kept(theatre: Theatre):
    """Before a request, after one, and in the middle of a body."""
    with serve(theatre.model, limits=SHORT) as server:
        silent, served, halfway = (server.connect() for _ in range(3))
        served.sendall(request_bytes("GET", "/health"))
        assert read_answer(served).status == 200
        halfway.sendall(post()[:-5])
        assert read_answer(halfway).status == 408
        for sock in (silent, served, halfway):
            until(partial(is_closed, sock), "the end of a silent connection")
            sock.close()
        nothing_is_left(server, recited("And now?", 4))


# Slow ones --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 9_000, b""])
def test_slowloris(theatre: Theatre, what: bytes):
    """100 clients, a byte of a head from each now and then: each is ended, and the others never wait."""
    with serve(theatre.model, limits=SHORT) as server:
        slow = [server.connect() for _ in range(100)]
        alive, served, sent = dict.fromkeys(slow), 0, 0
        while alive:
            for sock in list(alive):
                if is_closed(sock):
                    del alive[sock]
                elif what:
                    with contextlib.suppress(OSError):
                        sock.send(what[sent : sent + 1])
            sent += 1
            assert server.chat("Hello").text == recited("Hello", 4)
            served += 1
            assert sent < len(what or b"x" * 9_000), "they were never ended"
        assert served
        for sock in slow:
            sock.close()
        nothing_is_left(server, recited("And now?", 4))


# Over a socket file: what the kernel keeps there is little and always the same, not up to megabytes.
BULKY = {"stream": True, "logprobs": True, "top_logprobs": 20}  # about 2 KB a token


def test_a_slow_reader_delays_nobody_and_is_dropped(theatre: Theatre, tmp_path: Path):
    with serve(theatre.model, limits=SHORT, uds=tmp_path / "s", prompt_cache_bytes=0) as server:
        slow = server.connect()
        slow.sendall(post("slow", **BULKY, max_tokens=None))
        rest = read_until(slow, b"data: ")
        assert server.chat("Hello").text == recited("Hello", 4)
        nothing_is_left(server, recited("And now?", 4))
        assert theatre.passes < 2_000  # what nobody takes is not made
        with contextlib.suppress(ConnectionError):
            while piece := slow.recv(1 << 20):
                rest = (rest + piece)[-100:]
        assert b"[DONE]" not in rest
        slow.close()


def test_a_reader_that_only_pauses_misses_nothing(theatre: Theatre, tmp_path: Path):
    with serve(theatre.model, uds=tmp_path / "s", prompt_cache_bytes=0) as server:
        slow = server.connect()
        slow.sendall(post("slow", **BULKY, max_tokens=1_500))
        assert theatre.at_work.wait(PATIENCE)
        # First come, first served: that the other is answered means that the slow one was left behind.
        assert server.chat("Hello").text == recited("Hello", 4)
        assert theatre.passes < 1_400 and server.rows == (1, 0)
        answer = read_answer(slow)
        slow.close()
        assert answer.events[-1] == "[DONE]"
        said = "".join(e["choices"][0]["delta"].get("content") or "" for e in answer.events[:-1])
        assert said == recited("slow", 1_500)


# Much -------------------------------------------------------------------------------------------


def test_more_connections_than_allowed_are_refused_and_come_back(theatre: Theatre):
    with serve(theatre.model, limits=Limits(connections=4)) as server:
        held = [server.connect() for _ in range(4)]
        until(lambda: server.connections == 4, "their connections")
        answer = server.ask("GET", "/health")
        assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
        for sock in held:
            sock.close()
        nothing_is_left(server, recited("And now?", 4))
