"""The servers beside each other: each a process of its own, on a port of its own."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.serve_client import HOST, Messages, wait_for

OURS, THEIRS = "mlxone", "mlx-lm"
FILES = 4_096  # open files a process may have, for the idle connections


class Server:
    def __init__(self, side: str, folder: Path, home: Path) -> None:
        self.side = side
        self.port = _free_port()
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command(side, folder, self.port),
            env={**os.environ, "MLXONE_HOME": str(home), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(self.port, lambda: self.process.poll() is None)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        _end(self.process)

    @property
    def resident_bytes(self) -> int:
        said = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return int(said.stdout) * 1024


def command(side: str, folder: Path, port: int) -> list[str]:
    if side == THEIRS:
        options = ["--model", str(folder), "--host", HOST, "--port", str(port), "--log-level", "WARNING"]
        return [sys.executable, "-m", "mlx_lm", "server", *options]
    if find_spec("rich") and find_spec("markdown_it"):
        return [sys.executable, "-m", "mlxone", "serve", "--model", str(folder), "--port", str(port)]
    return [sys.executable, "-m", "bench.serve_worker", "server", str(folder), str(port)]


def more_files() -> None:
    """Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Engine:
    """mlxone without a server, driven over a pipe."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.serve_worker", "engine", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, messages: Messages, count: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"messages": list(messages), "count": count}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the engine's process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        _end(self._process)


@contextmanager
def running(folders: dict[str, Path], home: Path) -> Iterator[dict[str, Server]]:
    """A server for each side, all at once."""
    with ExitStack() as servers:
        yield {side: servers.enter_context(Server(side, folder, home)) for side, folder in folders.items()}


def turns(sides: Sequence[str], number: int) -> list[str]:
    """Who goes first takes turns, too."""
    return sorted(sides, reverse=number % 2 == 1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(20.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
