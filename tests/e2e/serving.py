"""Real servers for the proofs: in this process on a thread of their own, or as the program that users start.

`MLXONE_BINARY` names the program (the packed one, say); by itself it is this interpreter's `-m mlxone`.
With it `offer` starts that program, too, where it is quicker in this process otherwise; and a test that looks
inside, by `serve`, is left out: it would prove the sources once more and not the program.
Clients here are raw sockets where the bytes are the point. Nothing sleeps to wait: `until` asks again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.server.serving import Serving
from mlxone.service.model import Model
from tests.engine import tiny
from tests.service import rig
from tests.service.rig import TOKENIZER, Reciter, Stage

PATIENCE = 120.0  # seconds for what should take a moment: the machine may be busy
CHAT = "/v1/chat/completions"
JSON_TYPE = {"content-type": "application/json"}
LONG = 16_384
LONG_CONFIG = {**tiny.PLAIN, "max_position_embeddings": LONG}


def until(condition: Callable[[], Any], what: str = "it", patience: float = PATIENCE) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.002)
    return found


def chat(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0, **fields}


# Asking ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def text(self) -> str:
        return self.json["choices"][0]["message"]["content"]

    @property
    def events(self) -> list[Any]:
        """The JSON of a stream's events; strict about their form."""
        assert self.headers["content-type"].startswith("text/event-stream")
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        data = [block for block in blocks if not block.startswith(":")]
        assert all(block.startswith("data: ") and "\n" not in block for block in data)
        return [json.loads(b[6:]) if b != "data: [DONE]" else b[6:] for b in data]


def read_answer(sock: socket.socket, method: str = "GET") -> Answer:
    """Whatever the server says on this socket, to its end."""
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    try:
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        response.close()


def request_bytes(
    method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, host: str = "localhost"
) -> bytes:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}"]
    if body is not None:
        lines += [f"content-length: {len(data)}"]
        headers = JSON_TYPE | (headers or {})
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


class Asks:
    """What can be asked of a server at a port, in this process or another."""

    port: int | None
    uds: str | None = None  # a socket file in place of the port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, *, patience: float = PATIENCE) -> socket.socket:
        sock = socket.socket(socket.AF_INET if self.uds is None else socket.AF_UNIX)
        sock.settimeout(patience)
        sock.connect(("127.0.0.1", self.port) if self.uds is None else self.uds)
        return sock

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        with self.connect() as sock:
            headers = more.pop("headers", {}) | {"connection": "close"}
            with contextlib.suppress(ConnectionError):  # refused before it was all sent: the answer says why
                sock.sendall(request_bytes(method, path, body, headers, **more))
            return read_answer(sock, method)

    def chat(self, text: str = "Hi", *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        return self.ask("POST", CHAT, chat(text, **fields), headers=headers or {})

    def stats(self, **headers: str) -> dict[str, Any]:
        return self.ask("GET", "/stats", headers=headers).json

    @property
    def rows(self) -> tuple[int, int]:
        """Answers at work, and waiting."""
        batch = self.stats()["batch"]
        return batch["active_rows"], batch["waiting"]

    def until_idle(self) -> None:
        until(lambda: self.rows == (0, 0), "the end of all rows")

    @property
    def metrics(self) -> dict[str, int]:
        """The server's own counts by name and labels; whoever asks for them is among them."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        counts = (
            line.removeprefix("mlxone_http_").rsplit(" ", 1) for line in lines if "mlxone_http_" in line
        )
        return {name: int(count) for name, count in counts if not name.startswith("# ")}

    def until_alone(self) -> None:
        """Until nobody is connected and nothing is answered but the question whether that is so."""
        alone = {"requests_running": 1, "connections": 1}
        until(lambda: alone.items() <= self.metrics.items(), "the end of all connections and requests")


def reset(sock: socket.socket) -> None:
    """Gone without a goodbye: the other side gets an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def is_closed(sock: socket.socket) -> bool:
    """Whether the server has ended this connection; what it said before is thrown away."""
    sock.setblocking(False)
    try:
        while sock.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


# In this process ------------------------------------------------------------------------------


class Here(Asks):
    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.context = serving.context
        self.port = serving.port
        self.uds = serving.url.removeprefix("unix:") if self.port is None else None

    @property
    def connections(self) -> int:
        return self.serving.counters.connections()


def serve(*models: str | Path, **options: Any) -> contextlib.AbstractContextManager[Here]:
    """A server that a test looks into."""
    if os.environ.get("MLXONE_BINARY"):
        pytest.skip("looks into a server in this process; MLXONE_BINARY names another program")
    return _serve(*models, **options)


OF_THE_SERVER = {"uds", "limits", "api_keys", "grace", "allowed_origins", "allowed_hosts"}


@contextlib.contextmanager
def _serve(*models: str | Path, **options: Any) -> Iterator[Here]:
    of_server = {name: options.pop(name) for name in OF_THE_SERVER & options.keys()}
    if "uds" in of_server:
        of_server["uds"] = str(of_server["uds"])
    context = mlxone.load_context(*models, **options)
    with mlxone.create_server(context, port=0, **({"grace": 5.0} | of_server)) as serving:
        yield Here(serving)


class Theatre:
    """A server whose model says a script, step by step, and only while the test lets it.

    `hold()` stops the model inside its next pass, whoever's it is; `go()` lets it on.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.stage = Stage(folder, patch)
        self.stage.dress = self._dress
        self.model = self.stage.model("scripted", LONG_CONFIG)
        self._may_go = threading.Event()
        self._may_go.set()
        self.at_work = threading.Event()  # set by each pass
        self.failing: list[Exception] = []  # raised by the next passes, one each
        self.passes = 0

    def hold(self) -> None:
        self.at_work.clear()
        self._may_go.clear()

    def go(self) -> None:
        self._may_go.set()

    @property
    def decoder(self) -> Reciter:
        return self.stage.decoders["scripted"]

    def _dress(self, model: Model) -> None:
        assert isinstance(model.decoder, Reciter)
        model.decoder.before_layer = self._before_layer

    def _before_layer(self, layer: int) -> None:
        if layer:
            return
        self.passes += 1
        self.at_work.set()
        assert self._may_go.wait(PATIENCE), "nobody let the model go on"
        if self.failing:
            raise self.failing.pop(0)


def write_endless(folder: Path) -> Path:
    """A real model whose answers never end by themselves: it has no token that says so."""
    config = {"bos_token": "<s>", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    return rig.write_folder(folder, LONG_CONFIG, tokenizer_config=config)


def told(folder: Path, prompt: str, count: int) -> str:
    """What the library answers with this model."""
    return "".join(token.text for token in mlxone.generate(mlxone.load(folder), prompt, max_tokens=count))


def recited(prompt: str, count: int) -> str:
    """What the scripted model answers to one user message."""
    read = len(TOKENIZER.encode_rendered(f"<s>user: {prompt}\nassistant:"))
    return TOKENIZER.decode(rig.recited(rig.SCRIPT, read, count))


# As a program ---------------------------------------------------------------------------------


def command() -> list[str]:
    return shlex.split(os.environ.get("MLXONE_BINARY", "")) or [sys.executable, "-m", "mlxone"]


class Program(Asks):
    """`mlxone serve …` in a process and a home of its own."""

    def __init__(self, home: Path, *args: str | Path, **env: str) -> None:
        self.home, self._errors = home, home / "stderr"
        home.mkdir(parents=True, exist_ok=True)
        given = [*command(), "serve", "--port", "0", "--log-json", *map(str, args)]
        places = {"HOME": home, "MLXONE_HOME": home / "mlxone", "HF_HOME": home / "hf"}
        caches = {"HF_HUB_CACHE": home / "hf" / "hub", "XDG_CONFIG_HOME": home / "config"}
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                given,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                env=os.environ | {name: str(path) for name, path in (places | caches).items()} | env,
            )
        assert self.process.stdout is not None
        too_late = threading.Timer(PATIENCE, self.process.kill)
        too_late.start()
        line = self.process.stdout.readline()
        too_late.cancel()
        if not line:
            self.__exit__()
            pytest.fail(f"it never was ready: {self.stderr}")
        self.ready = json.loads(line)
        self.port = int(self.ready["url"].rpartition(":")[2])

    @property
    def stderr(self) -> str:
        return self._errors.read_text(encoding="utf-8")

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line of the log. One that is no JSON, such as a traceback's, is a failure."""
        return [json.loads(line) for line in self.stderr.splitlines()]

    @property
    def holds(self) -> list[str]:
        """What it says that it uses."""
        folder = self.home / "mlxone" / "running"
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def tell(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.tell(number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    @property
    def resident_bytes(self) -> int:
        """Of the serving process, with what its C library keeps free for later."""
        found = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.ready["pid"])], capture_output=True, text=True, check=True
        )
        return int(found.stdout) * 1024

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


# Either ---------------------------------------------------------------------------------------

ONCE_EACH = {"folders": "model-dir", "api_keys": "api-key", "adapters": "adapter"}  # what is several here


@contextlib.contextmanager
def offer(*models: str | Path, **options: Any) -> Iterator[Asks]:
    """A server of which a test only sees the answers: in this process, or the program MLXONE_BINARY names."""
    if not os.environ.get("MLXONE_BINARY"):
        with _serve(*models, **options) as here:
            yield here
        return
    cache = {"HF_HUB_CACHE": os.environ["HF_HUB_CACHE"]}
    with (
        tempfile.TemporaryDirectory() as home,
        Program(Path(home), *flags(models, options), **cache) as there,
    ):
        yield there


def flags(models: Sequence[str | Path], options: dict[str, Any]) -> list[str]:
    """The options of `serve` as they are called on the command line."""
    found = [word for model in models for word in ("--model", str(model))]
    for name, value in options.items():
        flag = "--" + ONCE_EACH.get(name, name).replace("_", "-")
        if name in ONCE_EACH:
            each = [f"{id}={path}" for id, path in value.items()] if isinstance(value, dict) else value
            found += [word for one in each for word in (flag, str(one))]
        elif value is True:
            found.append(flag)
        else:
            found += [flag, ",".join(value) if isinstance(value, list) else str(value)]
    return found
