"""What a request cannot do: reach the disk, come from a stranger's page, do without a key, hold others up."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mlxone.text import bounds
from tests.e2e.serving import CHAT, Answer, Asks, Program, offer, serve
from tests.service.rig import TEMPLATE, write_folder

# Nothing of the disk ------------------------------------------------------------------------------


class Watch:
    """Every path that this process opens, lists or asks the disk about while it is on."""

    EVENTS = frozenset(("open", "os.listdir", "os.scandir", "os.chdir", "os.link", "os.symlink", "os.rename"))
    ASKS = ("stat", "lstat", "access", "readlink", "open")

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)  # for ever: off when the test is over
        for name in self.ASKS:
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _hear(self, event: str, args: tuple) -> None:
        if self.on and event in self.EVENTS:
            self._note(args[0])

    def _wrapped(self, real: Any) -> Any:
        def asked(path: Any, *args: Any, **more: Any) -> Any:
            if self.on:
                self._note(path)
            return real(path, *args, **more)

        return asked

    def _note(self, path: Any) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            self.seen.append(os.fsdecode(path))

    def touched(self, *words: str) -> list[str]:
        return [path for path in self.seen if any(word in path for word in words)]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    made = Watch(monkeypatch)
    yield made
    made.on = False


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A whole model that nobody offered."""
    return write_folder(tmp_path / "outside" / "secret-model")


def names_of(outside: Path) -> list[str]:
    up = "../" * 12
    return [
        "/etc/passwd",
        "../..",
        "~",
        "~root",
        ".",
        "..",
        "file:///etc/passwd",
        "/proc/self/environ",
        str(outside),
        f"{outside}/",
        f"file://{outside}",
        f"{up}etc/passwd",
        f"{up}{str(outside)[1:]}",
        os.path.relpath(outside),
        f"x/../../{outside.name}",
        "..\\..\\etc\\passwd",
        "a\x00/etc/passwd",
        "%2e%2e%2fetc%2fpasswd",
        "main@../../etc/passwd",
        f"offered@{outside}",
        f"offered@{up}etc/passwd",
        "$HOME",
        "`id`",
        "\n/etc/passwd",
        "/" * 5_000,
    ]


def test_no_name_of_a_model_reaches_the_disk(tmp_path: Path, outside: Path, watch: Watch):
    folder = tmp_path / "models"
    write_folder(folder / "offered")
    write_folder(folder / "other")
    with serve(folders=[folder], allow_manage=True) as server:
        watch.on = True
        assert server.chat(model="offered").status == 200
        assert watch.touched("offered")  # it does see what is read
        for name in names_of(outside):
            for answer in asked_everywhere(server, name):
                assert answer.status in (400, 403, 404), (name, answer.body)
                if answer.status == 404:
                    assert answer.error["type"] == "not_found_error"
        assert not watch.touched("passwd", "secret-model", "/proc/self", "\x00", "~")
        assert not [path for path in watch.seen if path in ("..", ".", "../..") or ".." in path.split("/")]
        assert server.stats()["server"]["loaded"] == ["offered"]


def asked_everywhere(server: Asks, name: str) -> Iterator[Answer]:
    """Wherever a request may name a model."""
    yield server.chat(model=name)
    yield server.ask("POST", "/v1/completions", {"model": name, "prompt": "x"})
    yield server.ask("POST", "/tokenize", {"model": name, "content": "x"})
    yield server.ask("POST", "/detokenize", {"model": name, "tokens": [1]})
    yield server.ask("POST", "/v1/models/load", {"model": name})
    yield server.ask("POST", "/v1/models/unload", {"model": name})
    coded = quote(name[:2_000], safe="")
    yield server.ask("GET", f"/v1/models/{coded}")
    yield server.ask("GET", f"/props?model={coded}")


@pytest.mark.parametrize(
    "route",
    ["", "models", "chat/completions", "props", "health", "stats", "metrics", "tokenize", "openapi.json"],
)
def test_no_path_of_a_request_reaches_the_disk(tmp_path: Path, watch: Watch, route: str):
    with serve(write_folder(tmp_path / "offered")) as server:
        watch.on = True
        for tail in (
            "/../../../../etc/passwd",
            "/..%2f..%2f..%2fetc%2fpasswd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "//etc/passwd",
            "/..\\..\\etc\\passwd",
            "?file=/etc/passwd&path=../../etc/passwd&model=../../etc/passwd",
            "/%00/etc/passwd",
        ):
            for method in ("GET", "POST", "HEAD", "OPTIONS"):
                answer = server.ask(method, f"/v1/{route}{tail}", b"{}" if method == "POST" else None)
                assert answer.status < 500 and b"root:" not in answer.body
        assert not watch.touched("passwd")


def test_chat_template_values_are_values(tmp_path: Path, watch: Watch):
    """No field of a request is the name of a template, or of anything that is read."""
    with serve(write_folder(tmp_path / "offered")) as server:
        watch.on = True
        more: dict[str, Any] = {
            "chat_template": "/etc/passwd",
            "adapter_path": "/etc/passwd",
            "draft": "/etc/passwd",
        }
        kwargs = {"chat_template": "/etc/passwd", "mood": "{% include '/etc/passwd' %}"}
        answer = server.chat("{% include '/etc/passwd' %}", **more, chat_template_kwargs=kwargs)
        assert answer.status in (200, 400)
        assert not watch.touched("passwd")


# Who may ask ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asks]:
    with offer(write_folder(tmp_path_factory.mktemp("models") / "tiny")) as running:
        yield running


ROUTES = [
    ("GET", "/health", None),
    ("GET", "/v1/models", None),
    ("GET", "/stats", None),
    ("GET", "/props", None),
    ("GET", "/openapi.json", None),
    ("POST", CHAT, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}),
    ("POST", "/tokenize", {"content": "Hi"}),
    ("OPTIONS", CHAT, None),
    ("GET", "/nowhere", None),
]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"]
)
@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda part: str(part)[:20])
def test_a_name_made_to_point_here_is_refused(server: Asks, method: str, path: str, body: Any, host: str):
    answer = server.ask(method, path, body, host=host)
    assert answer.status == 403 and answer.error["type"] == "permission_error"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1", "127.0.0.1:8090", "[::1]", "[::1]:8090", "LOCALHOST"]
)
def test_our_own_names_are_fine(server: Asks, host: str):
    assert server.ask("GET", "/v1/models", host=host).status == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "null", "http://10.0.0.1", "x"]
)
@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda part: str(part)[:20])
def test_a_strangers_page_is_refused(server: Asks, method: str, path: str, body: Any, origin: str):
    answer = server.ask(method, path, body, headers={"origin": origin})
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


def test_pages_that_may_ask(server: Asks, tmp_path: Path):
    for origin in ("http://localhost:3000", server.url, "http://[::1]:5173"):
        answer = server.ask("GET", "/v1/models", headers={"origin": origin})
        assert answer.status == 200 and answer.headers["access-control-allow-origin"] == origin
    with offer(write_folder(tmp_path / "m"), allowed_origins=["https://chat.example"]) as other:
        for origin, status in (("https://chat.example", 200), ("https://other.example", 403)):
            assert other.ask("GET", "/v1/models", headers={"origin": origin}).status == status


# Keys and prompts -------------------------------------------------------------------------------------

KEY, WRONG, PROMPT = "right-key-7f3a", "wrong-key-91bc", "the prompt nobody may read"


def test_a_key_is_needed_for_everything_but_health(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLXONE_LOG_LEVEL", "debug")  # for a program; here it is the line below
    heads = [
        {},
        {"authorization": f"Bearer {WRONG}"},
        {"x-api-key": WRONG},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"cookie": f"key={KEY}"},
    ]
    with caplog.at_level(logging.DEBUG), offer(write_folder(tmp_path / "m"), api_keys=[KEY]) as server:
        said = []
        for method, path, body in ROUTES:
            for head in heads:
                answer = server.ask(method, path, body, headers=dict(head))
                said.append(answer)
                if path == "/health":
                    assert answer.status == 200
                elif method != "OPTIONS":  # asks for nothing, and a browser's question carries no key
                    assert (answer.status, answer.error["type"]) == (401, "authentication_error")
                    assert answer.headers["www-authenticate"] == "Bearer"
            query = server.ask(method, f"{path}?api_key={KEY}&key={KEY}", body)
            assert query.status == 401 or path == "/health" or method == "OPTIONS"
        for head in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            assert server.ask("GET", "/v1/models", headers=head).status == 200
        logged = server.stderr if isinstance(server, Program) else caplog.text
    assert "/v1/models" in logged
    whole = logged + "".join(f"{answer.headers}{answer.body!r}" for answer in said)
    assert KEY not in whole and WRONG not in whole


def test_no_prompt_is_logged_at_info(tmp_path: Path, caplog):
    with caplog.at_level(logging.INFO, "mlxone"), serve(write_folder(tmp_path / "m")) as server:
        answer = server.chat(PROMPT, max_tokens=12)
        server.chat(PROMPT, temperature="hot")
        server.chat(PROMPT * 100)  # beyond the context
        server.ask("POST", "/tokenize", {"content": PROMPT})
        server.ask("POST", CHAT, f'{{"{PROMPT}": '.encode())
        server.ask("GET", f"/v1/models?q={quote(PROMPT)}")
    assert len([r for r in caplog.records if r.name == "mlxone.server.requests"]) == 6
    said = " ".join(
        json.dumps([r.getMessage(), getattr(r, "fields", None)], default=str) for r in caplog.records
    )
    assert PROMPT not in said and quote(PROMPT) not in said and answer.text not in said


# Templates --------------------------------------------------------------------------------------------

HOSTILE = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "huge": "{{ 'x' * 999999999 }}",
    "raises": "{{ raise_exception('I refuse') }}",
    "insides": "{{ messages.__class__.__mro__ }}",
    "reads": "{% include '/etc/passwd' %}",
    "breaks": "{% for %}",
    "divides": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_template_hurts_only_who_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str):
    monkeypatch.setattr(bounds, "TIME_LIMIT", 0.3)  # in this process; a program takes its time
    own = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": HOSTILE[how]}
    hostile = write_folder(tmp_path / "hostile", tokenizer_config=own)
    with offer(hostile, write_folder(tmp_path / "fine")) as server:
        answer = server.chat(model="hostile")
        said = answer.error
        assert (answer.status, said["code"], said["type"]) == (400, "template", "invalid_request_error")
        assert "\n" not in said["message"] and len(said["message"]) < 700
        tells_nothing(answer, tmp_path)
        assert server.chat(model="fine").status == 200
        assert server.ask("POST", "/v1/completions", {"model": "hostile", "prompt": "x"}).status == 200
        assert server.rows == (0, 0)


def test_others_are_served_while_a_template_takes_its_time(tmp_path: Path):
    """With the real limit of several seconds. The quick ones are all done before the slow one is."""
    own = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": HOSTILE["endless"]}
    hostile = write_folder(tmp_path / "hostile", tokenizer_config=own)
    with offer(hostile, write_folder(tmp_path / "fine")) as server, server.connect() as slow:
        assert server.chat(model="fine").status == 200  # it is loaded
        body = json.dumps({"model": "hostile", "messages": [{"role": "user", "content": "x"}]}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body)
        for _ in range(3):
            assert server.chat(model="fine").status == 200
            assert server.ask("GET", "/health").status == 200
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)
        slow.settimeout(60)
        assert slow.recv(64).startswith(b"HTTP/1.1 400 ")


# Errors -----------------------------------------------------------------------------------------------


def tells_nothing(answer: Answer, *places: Path, asked: str = "{}") -> None:
    """But for the name that was asked for: a client may hear its own words."""
    text = answer.body.decode().replace(asked, "")
    for word in ("Traceback", 'File "', "site-packages", ".py", str(Path.home()), *map(str, places)):
        assert word not in text, text
    assert sys.prefix not in text


def test_an_error_names_no_place_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "models"
    for name in ("damaged", "headless", "strange", "fine"):
        write_folder(folder / name)
    (folder / "damaged" / "model.safetensors").write_bytes(b"\x00" * 100)
    (folder / "headless" / "tokenizer_config.json").write_text('{"chat_template": 7}')
    (folder / "strange" / "config.json").write_text('{"model_type": "unheard-of"}')
    with offer(folders=[folder]) as server:
        for name in ("damaged", "headless", "strange", "nothing", str(folder / "fine")):
            for answer in asked_everywhere(server, name):
                assert answer.status >= 400 or answer.json.get("object") == "model"
                tells_nothing(answer, tmp_path, asked=name)
        assert server.chat(model="fine").status == 200
        for answer in (
            server.ask("GET", "/nowhere"),
            server.ask("DELETE", CHAT),
            server.ask("POST", CHAT, b"\xff"),
            server.ask("GET", "/v1/models"),
            server.ask("GET", "/props?model=fine"),
            server.ask("GET", "/stats"),
            server.ask("GET", "/metrics"),
        ):
            tells_nothing(answer, tmp_path)


def test_the_template_that_models_here_have_is_the_one_that_is_shown(server: Asks):
    assert server.ask("GET", "/props").json["chat_template"] == TEMPLATE
