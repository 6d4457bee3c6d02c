"""`mlxone serve` as a process, with the starter behind it and a client before it."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte
import pytest

ROOT = Path(__file__).parents[2]
QUESTION = {"messages": [{"role": "user", "content": "Name the capital of France."}], "temperature": 0}
ENDLESS = {
    "messages": [{"role": "user", "content": "Count."}],
    "stream": True,
    "min_p": 0.0,
    "temperature": 1.5,
}
WAIT = 120  # seconds for what takes one or two on an idle machine

Serve = Callable[..., "Server"]


class Server:
    def __init__(self, *args: str, **how: Any) -> None:
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        command = [sys.executable, "-m", "mlxone", "serve", *args]
        self.child = subprocess.Popen(command, cwd=ROOT, text=True, bufsize=1, **how)
        self.url = ""

    def ready(self) -> str:
        """Waits for the line that says so."""
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert line, self.child.stderr and self.child.stderr.read()
        self.url = re.findall(r"(?:http://|unix:)[^\s\"]+", line)[0]
        return line

    def logged(self, words: str) -> str:
        """Reads the log up to a line with these words."""
        assert self.child.stderr is not None
        for line in self.child.stderr:
            if words in line:
                return line
        raise AssertionError(f"{words!r} was not logged")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=WAIT)

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        client = self.connect()
        headers = {"content-type": "application/json", **headers}
        client.request("POST" if body else "GET", path, body and json.dumps(body), headers)
        response = client.getresponse()
        status, content = response.status, response.read()
        client.close()
        return status, json.loads(content)

    @contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        """An answer without an end, begun."""
        client = self.connect()
        headers = {"content-type": "application/json"}
        client.request("POST", "/v1/chat/completions", json.dumps(ENDLESS), headers)
        with client.getresponse() as response:
            response.readline()
            yield response
        client.close()

    def end(self, number: int) -> tuple[int, str]:
        self.child.send_signal(number)
        _, err = self.child.communicate(timeout=WAIT)
        return self.child.returncode, err or ""


@pytest.fixture
def serve(starter_home: Path) -> Iterator[Serve]:
    servers: list[Server] = []

    def start(*args: str, model: Sequence[str] = ("starter",), **how: Any) -> Server:
        servers.append(Server(*model, *args, **how))
        return servers[-1]

    yield start
    for server in servers:
        server.child.kill()
        server.child.communicate()


def test_from_the_ready_line_to_a_clean_end(serve: Serve):
    server = serve("--port", "0")
    line = server.ready()
    assert re.fullmatch(
        r"mlxone serving starter on http://127\.0\.0\.1:\d+ \(context 8,192; 0\.\d\d of \d+\.\d GB\)\n", line
    )
    assert server.ask("/health") == (200, {"status": "ok"})
    status, answer = server.ask("/v1/chat/completions", QUESTION)
    assert status == 200
    assert "Paris" in answer["choices"][0]["message"]["content"]
    logged = server.logged("POST /v1/chat/completions 200")
    assert re.match(r"\d\d:\d\d:\d\d info  \w+ POST /v1/chat/completions 200 [\d.]+ ms, \d+ prompt", logged)

    # Somebody else who wants its port is told who has it.
    port = server.url.rpartition(":")[2]
    other = Server("starter", "--port", port)
    out, err = other.child.communicate(timeout=WAIT)
    assert (other.child.returncode, out) == (2, "")
    assert re.fullmatch(rf"mlxone: port {port} is taken: mlxone [\d.]+ answers there already \(.*\)\n", err)

    code, rest = server.end(signal.SIGTERM)
    assert code == 0
    assert rest.endswith("info  stopping\n")
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=WAIT)


def test_without_a_model_the_default_is_called_as_it_is_listed(serve: Serve):
    server = serve("--port", "0", "--log-json", model=())
    ready = json.loads(server.ready())
    listed = [model["id"] for model in server.ask("/v1/models")[1]["data"]]
    assert ready["default"] in listed and ready["models"] == listed
    assert (ready["loaded"], ready["context"]) == ([], None)


def test_a_socket_file_and_json_lines(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a socket's whole path is short
    path = os.path.relpath(tmp_path / "s", ROOT)
    server = serve("--uds", str(path), "--log-json", "--api-key", "sk-1", "--log-level", "debug")
    ready = json.loads(server.ready())
    assert ready["url"].startswith("unix:")
    assert (ready["models"], ready["context"]) == (["starter"], 8192)

    class Client(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect("s")

    server.connect = lambda: Client("localhost")  # type: ignore[method-assign]
    assert server.ask("/health")[0] == 200
    assert server.ask("/v1/models")[0] == 401
    assert server.ask("/v1/models", authorization="Bearer sk-1")[0] == 200
    code, log = server.end(signal.SIGINT)
    assert code == 130
    lines = [json.loads(line) for line in log.splitlines()]
    assert [(x["path"], x["status"]) for x in lines if "path" in x] == [
        ("/health", 200), ("/v1/models", 401), ("/v1/models", 200)
    ]  # fmt: skip
    assert "sk-1" not in log
    assert not (tmp_path / "s").exists()


def test_ctrl_c_cuts_off_what_the_grace_does_not_cover(serve: Serve):
    server = serve("--port", "0", "--grace", "0")
    server.ready()
    with server.stream() as response:
        server.child.send_signal(signal.SIGINT)
        server.logged("stopping: 1 answer may go on for 0 s")
        rest = response.read()
    assert b"error" in rest or b"[DONE]" in rest
    assert server.child.wait(WAIT) == 130


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_second_signal_does_not_wait_for_the_grace(second: int, code: int, serve: Serve):
    server = serve("--port", "0", "--grace", "100000")
    server.ready()
    with server.stream():
        server.child.send_signal(signal.SIGTERM)
        server.logged("stopping: 1 answer may go on")
        assert server.end(second)[0] == code


def test_an_address_that_is_not_ours(serve: Serve):
    server = serve("--port", "0", "--host", "192.0.2.1")
    out, err = server.child.communicate(timeout=WAIT)
    assert (server.child.returncode, out) == (2, "")
    assert re.search(r"mlxone: cannot listen on 192\.0\.2\.1", err)


def test_elsewhere_than_here_without_a_key_is_warned_about(serve: Serve):
    server = serve("--port", "0", "--host", "0.0.0.0")
    assert "http://127.0.0.1:" in server.ready()
    assert " warn  0.0.0.0:0 can be reached from other machines" in server.end(signal.SIGTERM)[1]


def test_on_a_terminal_a_bar_stands_below_the_log(serve: Serve):
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "24"}
    server = serve("--port", "0", stderr=theirs, env=env)
    os.close(theirs)
    screen = pyte.Screen(140, 24)
    stream = pyte.ByteStream(screen)

    def watch(until: Callable[[list[str]], bool]) -> list[str]:
        """Draws what comes until the screen shows what is waited for, or nothing comes any more."""
        shown: list[str] = []
        while not until(shown) and select.select([ours], [], [], WAIT)[0]:
            try:
                data = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
            stream.feed(data)
            shown = [line.rstrip() for line in screen.display if line.strip()]
        return shown

    shown = watch(lambda lines: lines[:1] == ["loading starter"])
    assert shown == ["loading starter"]
    server.ready()
    shown = watch(lambda lines: "0 requests" in "".join(lines))
    logged, *bar = shown
    assert logged.endswith("info  loaded starter")
    assert re.fullmatch(r"0 running · 0 requests · http://127\.0\.0\.1:\d+", bar[0])
    assert re.match(r"memory \d\.\d\d of \d+\.\d GB · ", bar[1])
    server.ask("/v1/chat/completions", QUESTION)
    shown = watch(lambda lines: "1 request " in "".join(lines) and "POST" in lines[1])
    assert "POST /v1/chat/completions 200" in shown[1]
    assert len(shown) == 4
    server.child.send_signal(signal.SIGTERM)
    shown = watch(lambda lines: False)
    assert [line.split(" ")[1] for line in shown] == ["info", "info", "info"]
    assert server.child.wait(WAIT) == 0
    os.close(ours)
