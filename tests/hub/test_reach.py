"""Whether the Hub answers: one question, a few seconds, and one line where it does not."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_mirror_that_has_no_models(fake_hub: FakeHub, status: int):
    fake_hub.listing = refuse(status)
    with pytest.raises(HubError, match=f"^{fake_hub.url} answers, but not as the Hub does") as e:
        reach()
    assert f"its status is {status}: check the network" in e.value.hint


# What is said of an address may be posted somewhere.


@pytest.fixture
def secret_address(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> str:
    address = fake_hub.url.removeprefix("http://")
    monkeypatch.setenv("HF_ENDPOINT", f"http://me:secret@{address}")
    return f"http://{address}"


def test_a_password_is_not_shown(fake_hub: FakeHub, secret_address: str):
    assert reach().endpoint == secret_address


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_nor_by_a_refusal(fake_hub: FakeHub, secret_address: str, status: int):
    fake_hub.listing = refuse(status)
    with pytest.raises(MlxoneError) as e:
        reach()
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://me:secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("me:secret@127.0.0.1:9", "127.0.0.1:9"),
        ("http://secret@127.0.0.1:9/mirror@2", "http://127.0.0.1:9/mirror@2"),
    ],
)
def test_nor_where_nobody_listens(
    fake_hub: FakeHub, endpoint: str, shown: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(HubError, match=f"^{re.escape(shown)} cannot be reached: ") as e:
        reach()
    assert "secret" not in str(e.value) and "HF_ENDPOINT" in e.value.hint


def test_nor_where_nobody_answers_in_time(
    fake_hub: FakeHub, secret_address: str, monkeypatch: pytest.MonkeyPatch
):
    done = Event()
    monkeypatch.setattr(module, "_ask", lambda seconds: done.wait(60))
    with pytest.raises(HubError, match=f"^{secret_address} does not answer within"):
        reach(0.2)
    done.set()


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["ftp://me:secret@x", "http://me:secret@127.0.0.1:9", "http://127.0.0.1:x"])
def test_a_proxy_that_cannot_be_used(
    fake_hub: FakeHub, fresh_sessions: None, variable: str, proxy: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(HubError) as e:
        reach()
    assert variable in e.value.hint and "secret" not in str(e.value)


def test_a_variable_that_names_no_certificates(
    fake_hub: FakeHub, fresh_sessions: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", "/nope")
    with pytest.raises(HubError, match="SSL_CERT_FILE names /nope, which is no file") as e:
        reach()
    assert e.value.hint == "correct or unset SSL_CERT_FILE"
