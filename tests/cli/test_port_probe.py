"""Who is at a port already, told by those who really are."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlxone.cli.port_probe import refuse_if_taken
from mlxone.core.errors import UsageError

HELLO = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def answering(listener: socket.socket, answer: bytes | None) -> Iterator[list[bytes]]:
    """Takes one connection; None answers nothing and hangs up. What it was asked is there afterwards."""
    asked: list[bytes] = []

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            asked.append(peer.recv(4096))
            if answer is not None:
                peer.sendall(answer)

    thread = threading.Thread(target=serve)
    listener.listen()
    thread.start()
    try:
        yield asked
    finally:
        thread.join()
        listener.close()


def refused_port(answer: bytes | None) -> str:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with answering(listener, answer), pytest.raises(UsageError) as refused:
        refuse_if_taken("127.0.0.1", port, None)
    said = str(refused.value)
    assert said.startswith(f"port {port} is taken: ")
    assert said.endswith(" answers there already (choose another with --port, or --port 0)")
    return said.split(": ", 1)[1].split(" answers there")[0]


def response(*headers: bytes, body: bytes = b"{}") -> bytes:
    return (
        HELLO + b"".join(h + b"\r\n" for h in (*headers, b"Content-Length: %d" % len(body))) + b"\r\n" + body
    )


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        (response(b"Server: mlxone/0.9", body=b'{"version": "0.9"}'), "mlxone 0.9"),
        (response(b"Server: mlxone/0.9", body=b'{"error": "no key"}'), "mlxone 0.9"),
        (response(b"Server: nginx/1.2"), "a web server (nginx/1.2)"),
        (response(b"Server: nginx", body=b'{"version": "3"}'), "a web server (nginx)"),
        (response(b"Server: \x1b[31mred"), "a web server (\u241b[31mred)"),
        (response(b"Server: " + b"x" * 500), f"a web server ({'x' * 60})"),
        (response(body=b"[" * 60_000), "a web server"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "a web server"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "a program that does not speak HTTP"),
        (b"", "a program that does not speak HTTP"),
        (None, "a program that does not speak HTTP"),
    ],
)
def test_it_is_called_by_its_name(answer: bytes | None, who: str):
    assert refused_port(answer) == who


def test_the_question_is_a_request_that_any_guard_lets_through():
    listener = socket.create_server(("127.0.0.1", 0))
    with answering(listener, response()) as asked, pytest.raises(UsageError):
        refuse_if_taken("0.0.0.0", listener.getsockname()[1], None)
    assert asked[0].startswith(b"GET /version HTTP/1.1\r\nHost: localhost\r\n")


def test_one_that_takes_connections_and_says_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mlxone.cli.port_probe.ANSWER", 0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UsageError, match="does not speak HTTP"),
    ):
        refuse_if_taken("127.0.0.1", silent.getsockname()[1], None)


def test_a_free_port_and_a_name_that_is_none_are_left_to_listening():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    refuse_if_taken("127.0.0.1", port, None)
    refuse_if_taken("127.0.0.1", 0, None)
    refuse_if_taken("no..name", port, None)
    refuse_if_taken("x" * 300, port, None)


def test_a_socket_file_that_somebody_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a socket's whole path is short
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("s")
    with answering(listener, response(b"Server: mlxone/1")), pytest.raises(UsageError) as refused:
        refuse_if_taken("127.0.0.1", 0, "s")
    assert str(refused.value) == "socket s is taken: mlxone 1 answers there already (name another file)"
    refuse_if_taken("127.0.0.1", 0, "s")  # the file is still there, nobody behind it
    refuse_if_taken("127.0.0.1", 0, "missing")
    refuse_if_taken("127.0.0.1", 0, "x" * 200)
