"""Whether the Hub answers: one question, a few seconds, and one line where it does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread

import pytest

from mlxone.core.errors import HubError, MlxoneError
from mlxone.hub import reach as module
from mlxone.hub.reach import reach
from tests.hub.fake_hub import FakeHub, refuse


def test_a_hub_that_answers(fake_hub: FakeHub):
    found = reach()
    assert found.endpoint == fake_hub.url
    assert 0 <= found.seconds <= module.SECONDS
    assert fake_hub.log == ["GET /api/models"]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_hub_that_refuses(fake_hub: FakeHub, status: int):
    fake_hub.listing = refuse(status)
    with pytest.raises(MlxoneError) as e:
        reach()
    assert "\n" not in str(e.value)
    assert len(fake_hub.log) == 1  # nobody waits for a second attempt


def test_nobody_listens(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached") as e:
        reach()
    assert e.value.hint


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none(fake_hub: FakeHub, endpoint: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(MlxoneError):
        reach()


@pytest.fixture
def fresh_sessions() -> Iterator[None]:
    """The client reads the proxy variables when it makes its session, and keeps that."""
    from huggingface_hub import close_session

    close_session()
    yield
    close_session()


def test_a_proxy_is_asked(fake_hub: FakeHub, fresh_sessions: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", fake_hub.url)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    assert reach().endpoint == "http://hub.example"
    assert fake_hub.log == ["GET /api/models"]


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_one_that_is_silent(fake_hub: FakeHub, silent: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", silent)
    with pytest.raises(HubError):
        reach(0.3)


def test_a_resolver_that_takes_its_time(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    done = Event()
    monkeypatch.setattr(module, "_ask", lambda seconds: done.wait(60))
    with pytest.raises(HubError, match=r"does not answer within 0\.2 seconds"):
        reach(0.2)
    done.set()


@pytest.mark.parametrize("page", [b"<html>Log in</html>", b"{}", b"", b"[" * 100_000])
def test_something_else_that_answers(fake_hub: FakeHub, page: bytes, monkeypatch: pytest.MonkeyPatch):
    class Portal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Portal) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(HubError, match="answers, but not as the Hub does") as e:
            reach()
        thread.join()
    assert "login page" in e.value.hint
