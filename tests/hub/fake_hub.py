"""A small HTTP server that plays the Hub: listings, files with ranges, a second host for large files,
every kind of refusal, and everything a network does to an answer on its way."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 1_000  # bytes; files from here on are "LFS": named by sha256, and on the second host


@dataclass
class Refusal:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000  # then all is well again


def refuse(status: int, code: str = "", message: str = "", times: int = 1_000_000) -> Refusal:
    named = {"X-Error-Code": code, "X-Error-Message": message}
    return Refusal(status, {k: v for k, v in named.items() if v}, times)


@dataclass(frozen=True)
class Fault:
    """What happens to one answer."""

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None  # bytes after which the line goes dead
    reset: bool = False  # and not politely
    unmeasured: bool = False  # no Content-Length: a cut looks like the end
    spoil: int | None = None  # one byte of the body is another
    surplus: bytes = b""
    etag: str | None = None
    ignore_range: bool = False
    shift: int = 0  # another range than the one asked for
    hold: int | None = None  # bytes after which nothing comes until `released`


@dataclass
class Repo:
    files: dict[str, bytes]
    commit: str = "a" * 40
    revisions: tuple[str, ...] = ("main",)
    info: Refusal | None = None  # how asking about the repo is refused
    get: dict[str, Refusal] = field(default_factory=dict)  # file -> how fetching it is refused
    sent: dict[str, bytes] = field(default_factory=dict)  # file -> the body sent in place of the true one
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # file -> one for each answer, in order
    always: dict[str, Fault] = field(default_factory=dict)  # file -> then this for every answer
    listed: list[dict[str, Any]] | None = None  # the listing sent in place of the true one


@dataclass(frozen=True)
class Asked:
    """One GET of a file, as the server that sent the body saw it."""

    file: str
    start: int
    end: int
    ranged: bool
    sent: int  # bytes, where the line went dead before the end
    authorization: str | None


@dataclass
class FakeHub:
    repos: dict[str, Repo] = field(default_factory=dict)  # a dataset as "datasets/org/name"
    models: list[dict[str, Any]] = field(default_factory=list)  # what a search goes through
    listing: Refusal | None = None
    log: list[str] = field(default_factory=list)  # "METHOD path" of every request
    asked: list[Asked] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)  # sent to the Hub itself
    queries: list[dict[str, list[str]]] = field(default_factory=list)
    two_hosts: bool = True
    linked: bool = True  # whether a redirect says what it leads to, as the Hub's do and a mirror's may not
    url: str = ""
    far: str = ""  # the second host
    tls: ssl.SSLContext | None = None  # with it both speak https
    released: threading.Event = field(default_factory=threading.Event)
    guard: threading.Lock = field(default_factory=threading.Lock)
    tickets: list[tuple[Repo, str, Fault]] = field(default_factory=list)

    def gets(self) -> list[str]:
        """The files that were fetched, in order."""
        return [
            line.rpartition("/")[2] for line in self.log if line.startswith("GET") and "/resolve/" in line
        ]

    def forget(self) -> None:
        self.log.clear()
        self.asked.clear()


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    with _server(hub) as hub.url, _server(hub) as hub.far:
        try:
            yield hub
        finally:
            hub.released.set()


@contextmanager
def _server(hub: FakeHub) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if hub.tls:
        server.socket = hub.tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads, server.block_on_close = True, False
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that lets go is no news
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if hub.tls else 'http'}://127.0.0.1:{server.server_address[1]}"
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
        url = urlsplit(self.path)
        self.hub.log.append(f"{self.command} {unquote(url.path)}")
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts == ["api", "models"]:
            self.search(parse_qs(url.query))
        elif parts[:2] == ["api", "models"]:
            self.model_info("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif parts[:2] == ["api", "datasets"]:
            self.model_info("/".join(parts[1:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif parts[:1] == ["far"]:
            self.body(*self.hub.tickets[int(parts[1])])
        elif parts[2:3] == ["resolve"]:
            self.hub.tokens.append(self.headers.get("Authorization"))
            self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        elif parts[:1] == ["datasets"] and parts[3:4] == ["resolve"]:
            self.file("/".join(parts[:3]), parts[4], "/".join(parts[5:]))
        else:
            self.send(404)

    def search(self, query: dict[str, list[str]]) -> None:
        self.hub.queries.append(query)
        if self.refused(self.hub.listing):
            return
        words = query.get("search", [""])[0].lower().split()
        rows = [
            row
            for row in self.hub.models
            if all(word in row["id"].lower() for word in words)
            and set(query.get("filter", [])) <= set(row.get("tags", ()))
            and query.get("author", [row["id"].partition("/")[0]]) == [row["id"].partition("/")[0]]
        ]
        rows.sort(key=lambda row: -row.get("downloads", 0))
        self.send_json(rows[: int(query.get("limit", ["1000"])[0])])

    def model_info(self, name: str, revision: str) -> None:
        # In any case of letters; the answer has the true one.
        name = next((known for known in self.hub.repos if known.lower() == name.lower()), name)
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
            siblings = repo.listed or [_sibling(file, content) for file, content in repo.files.items()]
            name = name.removeprefix("datasets/")
            self.send_json({"id": name, "modelId": name, "sha": repo.commit, "siblings": siblings})

    def file(self, name: str, revision: str, file: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or revision not in (*repo.revisions, repo.commit):
            self.send(404, {"X-Error-Code": "RevisionNotFound" if repo else "RepoNotFound"})
            return
        if self.refused(repo.get.get(file)):
            return
        if file not in repo.files:
            self.send(404, {"X-Error-Code": "EntryNotFound"})
            return
        with self.hub.guard:
            waiting = repo.faults.get(file)
            fault = waiting.pop(0) if waiting else repo.always.get(file, Fault())
        if fault.status is not None:
            self.send(fault.status, dict(fault.headers))
        elif self.hub.two_hosts and len(repo.files[file]) >= LARGE:
            self.redirect(repo, file, fault)
        else:
            self.body(repo, file, fault)

    def redirect(self, repo: Repo, file: str, fault: Fault) -> None:
        content = repo.files[file]
        with self.hub.guard:
            self.hub.tickets.append((repo, file, fault))
            ticket = len(self.hub.tickets) - 1
        headers = {"Location": f"{self.hub.far}/far/{ticket}?signature=x", "X-Repo-Commit": repo.commit}
        if self.hub.linked:
            headers["X-Linked-Etag"] = f'"{fault.etag or _etag(content)}"'
            headers["X-Linked-Size"] = str(len(content))
        self.send(302, headers)

    def body(self, repo: Repo, file: str, fault: Fault) -> None:
        content = repo.sent.get(file, repo.files[file])
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        ranged = asked is not None and not fault.ignore_range
        start, end = (int(asked[1]), min(int(asked[2]) + 1, len(content))) if ranged else (0, len(content))
        sent = len(content[start:end][: fault.cut])
        self.hub.asked.append(Asked(file, start, end, ranged, sent, self.headers.get("Authorization")))
        # The second host has its own idea of an ETag, as the real one does.
        near = not (self.hub.two_hosts and len(repo.files[file]) >= LARGE)
        etag = (fault.etag or _etag(repo.files[file])) if near else "of-the-storage"
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"'}
        if ranged and start >= len(content):
            self.send(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        part = content[start + fault.shift : end + fault.shift] + fault.surplus
        if fault.spoil is not None and part:
            at = fault.spoil % len(part)
            part = part[:at] + bytes([part[at] ^ 0xFF]) + part[at + 1 :]
        if ranged:
            first = start + fault.shift
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        self.send(206 if ranged else 200, headers, part, fault)

    def refused(self, refusal: Refusal | None) -> bool:
        if refusal is None or refusal.times <= 0:
            return False
        refusal.times -= 1
        self.send(refusal.status, refusal.headers)
        return True

    def send_json(self, value: Any) -> None:
        self.send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def send(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        fault: Fault | None = None,
    ) -> None:
        fault = fault or Fault()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if fault.unmeasured:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.send_body(body, fault)

    def send_body(self, body: bytes, fault: Fault) -> None:
        if fault.hold is not None:
            self.wfile.write(body[: fault.hold])
            self.hub.released.wait()
            body = body[fault.hold :]
        self.wfile.write(body[: fault.cut])
        if fault.cut is not None or fault.unmeasured:
            self.close_connection = True
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _etag(content: bytes) -> str:
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names small files


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    row: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if len(content) >= LARGE:
        row["lfs"] = {"sha256": _etag(content), "size": len(content), "pointerSize": 130}
    return row
