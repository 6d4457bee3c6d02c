"""A small HTTP server that plays the Hub: model info, HEAD and GET of files, and every kind of refusal."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1_000  # bytes; files from here on are "LFS" and come with a sha256


@dataclass
class Refusal:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000  # then all is well again


def refuse(status: int, code: str = "", message: str = "", times: int = 1_000_000) -> Refusal:
    named = {"X-Error-Code": code, "X-Error-Message": message}
    return Refusal(status, {k: v for k, v in named.items() if v}, times)


@dataclass
class Repo:
    files: dict[str, bytes]
    commit: str = "a" * 40
    revisions: tuple[str, ...] = ("main",)
    info: Refusal | None = None  # how asking about the repo is refused
    get: dict[str, Refusal] = field(default_factory=dict)  # file -> how fetching it is refused
    sent: dict[str, bytes] = field(default_factory=dict)  # file -> the body sent in place of the true one
    cut: dict[str, int] = field(default_factory=dict)  # file -> bytes after which the line goes dead


@dataclass
class FakeHub:
    repos: dict[str, Repo] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)  # "METHOD path" of every request
    url: str = ""

    def gets(self) -> list[str]:
        """The files that were fetched, in order."""
        return [
            line.rpartition("/")[2] for line in self.log if line.startswith("GET") and "/resolve/" in line
        ]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None: ...

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.model_info("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif parts[2:3] == ["resolve"]:
            self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.send(404)

    def model_info(self, name: str, revision: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self.send(
                401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}
            )
        elif self.refused(repo.info):
            pass
        elif revision not in (*repo.revisions, repo.commit):
            self.send(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [_sibling(file, content) for file, content in repo.files.items()]
            body = json.dumps({"id": name, "modelId": name, "sha": repo.commit, "siblings": siblings})
            self.send(200, {"Content-Type": "application/json"}, body.encode())

    def file(self, name: str, revision: str, file: str) -> None:
        repo = self.hub.repos[name]
        if self.refused(repo.get.get(file)):
            return
        if revision not in (*repo.revisions, repo.commit) or file not in repo.files:
            self.send(404, {"X-Error-Code": "EntryNotFound"})
            return
        content = repo.files[file]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{_etag(content)}"', "Accept-Ranges": "bytes"}
        headers["X-Linked-Size"] = str(len(content))
        self.send(200, headers, repo.sent.get(file, content), cut=repo.cut.get(file))

    def refused(self, refusal: Refusal | None) -> bool:
        if refusal is None or refusal.times <= 0:
            return False
        refusal.times -= 1
        self.send(refusal.status, refusal.headers)
        return True

    def send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


def _etag(content: bytes) -> str:
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names small files


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "b" * 40}
    if len(content) >= LARGE:
        row["lfs"] = {"sha256": _etag(content), "size": len(content), "pointerSize": 130}
    return row
