"""A mirror of releases on 127.0.0.1, and a PATH that holds only what a test puts there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packer import release

# What install.sh may need besides the shell; a fetcher and a hasher come on top.
TOOLS = ("cat", "chmod", "dirname", "mkdir", "mktemp", "mv", "rm", "rmdir", "wc")


@dataclass
class Mirror:
    """Path -> what is served there; `cut` names what is broken off half-way."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def publish(self, version: str, platform: str = "linux-x86_64", mark: str = "") -> dict[str, bytes]:
        """A release of fake files, each a script that says what it is; returns name -> content."""
        names = release.assets(version, platform).values()
        made = {name: f"#!/bin/sh\necho {name} {mark}\n".encode() for name in names}
        lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in made.items())
        self.files |= {f"/v{version}/{name}": content for name, content in made.items()}
        self.files[f"/v{version}/SHA256SUMS"] = lines.encode()
        return made


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        self.mirror.asked.append(self.path)
        body = self.mirror.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path in self.mirror.cut else body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests look at `asked`."""


@contextlib.contextmanager
def serving() -> Iterator[Mirror]:
    mirror = Mirror()
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Machine:
    """Where install.sh believes it runs: tools of this machine by name, and fake ones by what they print."""

    bin: Path
    home: Path

    def link(self, *names: str) -> Machine:
        for name in names:
            found = shutil.which(name)
            assert found, f"{name} is not here"
            (self.bin / name).symlink_to(found)
        return self

    def fake(self, name: str, script: str) -> Machine:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)
        return self

    def without(self, *names: str) -> Machine:
        for name in names:
            (self.bin / name).unlink()
        return self

    def system(self, name: str, machine: str, *, libc: str = "glibc 2.36", bits: int = 64) -> Machine:
        self.fake("uname", f"case $1 in -s) echo '{name}' ;; -m) echo '{machine}' ;; esac")
        known = f"echo '{libc}'" if libc else "exit 1"
        return self.fake(
            "getconf", f"case $1 in LONG_BIT) echo {bits} ;; GNU_LIBC_VERSION) {known} ;; *) exit 1 ;; esac"
        )

    def run(
        self, shell: list[str], *words: str, script: str | None = None, **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        """install.sh as a file; or `script` from a pipe."""
        variables = {"PATH": str(self.bin), "HOME": str(self.home)} | environment
        source = [str(release.ROOT / release.INSTALLER)] if script is None else ["-s", "--"]
        return subprocess.run(
            [*shell, *source, *words],
            env={k: v for k, v in variables.items() if v is not None},
            input=script or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=self.home,
        )


def shells() -> list[list[str]]:
    """Every kind of shell that is here, as a command."""
    kinds = [["dash"], ["bash", "--posix"], ["bash"], ["busybox", "sh"], ["zsh", "--emulate", "sh"]]
    found = [[str(shutil.which(kind[0])), *kind[1:]] for kind in kinds if shutil.which(kind[0])]
    return found or [["/bin/sh"]]


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def can_run(program: Path) -> bool:
    return os.access(program, os.X_OK)
