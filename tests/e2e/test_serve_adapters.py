"""Adapters over HTTP: mounted, chosen by each request and unmounted, while others are answered."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlxone
from tests.e2e.serving import CHAT, Asks, Program, chat, offer, request_bytes, told, until, write_endless
from tests.engine import tiny
from tests.service.adapter_folders import write_adapter
from tests.service.rig import write_folder

TOKENS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another one, and the folder `runs` with adapters: a, b and c, and one of the other model."""
    place = tmp_path_factory.mktemp("adapters")
    model = write_endless(place / "tiny")
    other = write_folder(place / "other", {**tiny.PLAIN, "hidden_size": 64})
    for seed, id in enumerate("abc"):
        write_adapter(place / "runs" / id, model, seed=seed + 1)
    write_adapter(place / "runs" / "wide", other)
    write_adapter(place / "elsewhere", model, seed=9)
    return place


@pytest.fixture
def server(place: Path) -> Iterator[Asks]:
    with offer(place / "tiny", adapter_dir=place / "runs") as running:
        yield running


def answers(place: Path, *adapters: str) -> str:
    """What the library says with these."""
    model = mlxone.load(place / "tiny")
    for id in adapters:
        model.adapters.mount(id, place / "runs" / id)
    return "".join(t.text for t in mlxone.generate(model, "Hello", max_tokens=TOKENS, adapters=adapters))


def says(server: Asks, **fields: Any) -> str:
    answer = server.chat("Hello", **{"max_tokens": TOKENS} | fields)
    assert answer.status == 200, answer.body
    return answer.text


def mount(server: Asks, id: str, path: str | Path | None = None, **more: Any) -> Any:
    return server.ask("POST", "/v1/adapters", {"id": id, "path": str(path or id), **more})


def ids(server: Asks) -> list[str]:
    return [one["id"] for one in server.ask("GET", "/v1/adapters").json["adapters"]]


def test_mount_choose_unmount(server: Asks, place: Path):
    base = answers(place)
    assert ids(server) == [] and says(server) == base
    made = mount(server, "a")
    assert made.status == 200 and made.json == {
        "id": "a", "path": "a", "rank": 4, "scale": 8.0, "mounted_layers": 14,
        "size_bytes": made.json["size_bytes"],
    }  # fmt: skip
    assert mount(server, "b", place / "runs" / "b").status == 200
    assert server.ask("GET", "/adapters").json["adapters"][0] == made.json and ids(server) == ["a", "b"]
    one, both = answers(place, "a"), answers(place, "a", "b")
    assert len({base, one, both}) == 3
    for wish, text in [("a", one), ("none", base), ("a+b", both), (None, base), ("", base), ("a", one)] * 2:
        assert says(server, adapter=wish) == text
    completion = {"prompt": "Hello", "max_tokens": TOKENS, "temperature": 0, "adapter": "a"}
    assert server.ask("POST", "/v1/completions", completion).json["choices"][0]["text"] == one
    streamed = server.chat("Hello", max_tokens=TOKENS, stream=True, adapter="a+b").events[:-1]
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in streamed) == both
    assert server.stats()["adapters"]["mounted"] == 2
    gone = server.ask("DELETE", "/v1/adapters/a")
    assert (gone.status, gone.json) == (200, {"id": "a", "deleted": True})
    assert server.ask("DELETE", "/v1/adapters/a").status == 404
    assert ids(server) == ["b"] and says(server) == base and says(server, adapter="b") == answers(place, "b")


def test_requests_at_once_with_different_adapters(server: Asks, place: Path):
    for id in "abc":
        assert mount(server, id).status == 200
    wishes = ["none", "a", "b", "c", "a+b", "b+a", "a+b+c"] * 2
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n, wish=wish: found.__setitem__(n, says(server, adapter=wish)))
        for n, wish in enumerate(wishes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, wish in enumerate(wishes):
        names = [] if wish == "none" else wish.split("+")
        assert found[number] == answers(place, *names), wish


def test_prompts_are_not_shared_between_adapters(server: Asks, place: Path):
    """Also not with one that had the same name before."""

    def cached(adapter: str) -> int:
        answer = server.chat("Hello, how are you?", max_tokens=2, adapter=adapter)
        return answer.json["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert mount(server, "x", "a").status == 200
    assert [cached("none"), cached("x")] == [0, 0] and min(cached("none"), cached("x")) > 0
    assert server.ask("DELETE", "/v1/adapters/x").status == 200
    assert mount(server, "x", "b").status == 200
    assert cached("x") == 0 and says(server, adapter="x") == answers(place, "b")


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"id": "w", "path": "wide"}, 400, "adapter_mismatch", "path"),
        ({"id": "a", "path": "b"}, 400, "usage", "id"),  # that id is taken
        ({"id": "none", "path": "b"}, 400, "usage", "id"),
        ({"id": "b+c", "path": "b"}, 400, "usage", "id"),
        ({"id": "b", "path": "nowhere"}, 404, "adapter_not_found", "path"),
        ({"id": "b", "path": "../elsewhere"}, 403, "not_permitted", "path"),
        ({"id": "b", "path": "/etc"}, 403, "not_permitted", "path"),
        ({"id": "b", "path": "link"}, 403, "not_permitted", "path"),
        ({"id": "b", "path": "hollow"}, 403, "not_permitted", "path"),
        ({"id": "b", "path": "empty"}, 400, "adapter_mismatch", "path"),
        ({"id": "b", "path": "short"}, 400, "adapter_mismatch", "path"),
        ({"id": "b", "path": ""}, 400, "usage", "path"),
        ({"id": "b"}, 400, "usage", "path"),
        ({"id": 5, "path": "b"}, 400, "usage", "id"),
    ],
)
def test_what_cannot_be_mounted_changes_nothing(
    place: Path, server: Asks, body: dict[str, Any], status: int, code: str, param: str
):
    runs = place / "runs"
    if not (runs / "link").exists():
        (runs / "link").symlink_to(place / "elsewhere")
        shutil.copytree(runs / "a", runs / "short")
        for name in ("hollow", "empty"):
            (runs / name).mkdir()
        (runs / "hollow" / "adapters.safetensors").symlink_to(place / "elsewhere" / "adapters.safetensors")
        whole = (runs / "a" / "adapters.safetensors").read_bytes()
        (runs / "short" / "adapters.safetensors").write_bytes(whole[:-1])
    assert mount(server, "a").status == 200
    before = says(server, adapter="a")
    answer = server.ask("POST", "/v1/adapters", body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert str(place) not in answer.error["message"]
    if body["id"] == "w":
        assert answer.error["message"].startswith("wide: tensor 'model.layers.0.")
    assert ids(server) == ["a"] and says(server, adapter="a") == before


@pytest.mark.parametrize(
    ("adapter", "status", "code"),
    [
        ("b", 404, "adapter_not_found"),
        ("a+b", 404, "adapter_not_found"),
        ("a+a", 400, "usage"),
        ("a+none", 400, "usage"),
        ("+", 400, "usage"),
        (["a"], 400, "usage"),
        (5, 400, "usage"),
        ({"id": "a"}, 400, "usage"),
        ("x" * 5_000, 400, "usage"),
    ],
)
def test_what_cannot_be_chosen(server: Asks, adapter: Any, status: int, code: str):
    assert mount(server, "a").status == 200
    for streams in (False, True):
        answer = server.chat("Hello", adapter=adapter, stream=streams)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, "adapter")
    if code == "adapter_not_found":
        assert "mounted: a" in answer.error["message"]


def test_unmounted_while_it_answers(server: Asks, place: Path):
    assert mount(server, "a").status == 200
    whole = says(server, adapter="a", max_tokens=400)
    with server.connect() as sock:
        sock.sendall(request_bytes("POST", CHAT, chat("Hello", max_tokens=400, adapter="a", stream=True)))
        until(lambda: server.rows[0], "the answer")
        assert server.ask("DELETE", "/v1/adapters/a").status == 200
        assert server.chat("Hello", adapter="a").status == 404
        text = ""
        with sock.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"data: [DONE]"):
                    break
                if line.startswith(b"data: "):
                    choices = json.loads(line[6:])["choices"]
                    text += choices[0]["delta"].get("content", "")
    assert text == whole
    server.until_idle()
    assert says(server) == answers(place)


def test_without_a_folder_nobody_mounts(place: Path):
    with offer(place / "tiny", adapters={"a": place / "runs" / "a"}) as server:
        for answer in (mount(server, "b", place / "runs" / "b"), server.ask("DELETE", "/v1/adapters/a")):
            assert (answer.status, answer.error["code"]) == (403, "not_permitted")
        assert server.ask("DELETE", "/v1/adapters/b").status == 404
        assert says(server) == answers(place, "a") != says(server, adapter="none") == answers(place)


def test_two_models(place: Path):
    given = place / "runs" / "a"
    options = {"adapter_dir": place / "runs", "allow_manage": True, "adapters": {"a": given}}
    with offer(place / "tiny", place / "other", **options) as server:
        assert mount(server, "a", "wide", model="other").json["model"] == "other"
        assert mount(server, "x", "b", model="other").error["code"] == "adapter_mismatch"
        assert mount(server, "x", "b", model="third").status == 404
        listed = server.ask("GET", "/v1/adapters").json["adapters"]
        assert {(one["model"], one["path"]) for one in listed} == {("tiny", str(given)), ("other", "wide")}
        assert says(server) == answers(place, "a")  # the first model's default, and not the other's
        assert says(server, model="other") == told(place / "other", "Hello", TOKENS)
        with_adapter = says(server, model="other", adapter="a")
        for name in ("tiny", "other"):
            assert server.ask("POST", "/v1/models/unload", {"model": name}).status == 200
        assert says(server, model="other", adapter="a") == with_adapter
        assert says(server) == answers(place, "a")
        assert server.ask("DELETE", "/v1/adapters/a?model=other").status == 200
        assert server.chat("Hello", model="other", adapter="a").status == 404
        assert [one["model"] for one in server.ask("GET", "/v1/adapters").json["adapters"]] == ["tiny"]


def test_the_program(place: Path, tmp_path: Path):
    runs = place / "runs"
    args = (place / "tiny", "--adapter", f"first={runs / 'a'}", "--adapter-path", runs / "b")
    with Program(tmp_path / "home", *args, MLXONE_ADAPTER_DIR=str(runs)) as server:
        assert ids(server) == ["first", "b"]
        paths = [one["path"] for one in server.ask("GET", "/v1/adapters").json["adapters"]]
        assert paths == [str(runs / "a"), str(runs / "b")]
        assert says(server) == answers(place)  # of several none is the default
        assert says(server, adapter="first+b") == answers(place, "a", "b")
        assert mount(server, "c").status == 200 and says(server, adapter="c") == answers(place, "c")
        assert server.end() == 0
        mounted = [line["message"] for line in server.log if line["message"].startswith("mounted adapter")]
        assert len(mounted) == 3 and mounted[0].startswith("mounted adapter first on tiny: ")
