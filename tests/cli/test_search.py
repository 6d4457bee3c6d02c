"""`mlxone search`, against a Hub on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mlxone.cli import terminal
from mlxone.cli.main import main
from mlxone.hub import client
from tests.cli.conftest import Result
from tests.hub.conftest import cached as cached  # fixtures: these names are what asks for them
from tests.hub.conftest import fake_hub as fake_hub
from tests.hub.fake_hub import FakeHub, refuse


def listed(name: str, tags: list[str], downloads: int, **counts: int) -> dict[str, Any]:
    row = {"id": name, "tags": tags, "downloads": downloads, "likes": 3}
    row["lastModified"] = "2026-03-04T05:06:07.000Z"
    if counts:
        row["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
    return row


MODELS = [
    listed("big/Qwen3-4B", ["safetensors"], 9_000_000, BF16=4_000_000_000),
    listed("mlx-community/Qwen3-4B-4bit", ["mlx", "safetensors"], 5_000, U32=500_000_000, BF16=1_000_000),
    listed("someone/Qwen3-4B-mlx", ["mlx"], 70),
    listed("mlx-community/Qwen3-odd", ["safetensors"], 60, Q9=7),
    listed("other/Llama", ["mlx", "safetensors"], 10**7),
    listed("old/Qwen3-4B", ["pytorch"], 10**8),
]


@pytest.fixture
def search(fake_hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    fake_hub.models = list(MODELS)

    def run(*args: str) -> Result:
        code = main(["search", *args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def names(result: Result) -> list[str]:
    return [line.partition("\t")[0] for line in result.out.splitlines()[1:]]


def test_mlx_first_then_by_downloads(search):
    result = search("qwen3")
    assert (result.code, result.err) == (0, "")
    assert names(result) == [
        "mlx-community/Qwen3-4B-4bit",
        "someone/Qwen3-4B-mlx",
        "mlx-community/Qwen3-odd",
        "big/Qwen3-4B",
    ]


def test_what_a_row_says(search, cached):
    cached("big/Qwen3-4B")
    rows = [line.split("\t") for line in search("qwen3").out.splitlines()]
    assert rows[0] == ["MODEL", "MLX", "SIZE", "PARAMS", "DOWNLOADS", "LIKES", "UPDATED", "HERE"]
    # Packed weights are eight to an element, so their count is none of parameters.
    assert rows[1][2:4] == ["2.0 GB", ""]
    assert rows[2][2:4] == ["", ""]  # the listing says nothing
    assert rows[3][2:4] == ["", ""]  # or something nobody knows
    assert rows[4] == ["big/Qwen3-4B", "no", "8.0 GB", "4.0B", "9000000", "3", "2026-03-04", "yes"]
    assert [row[-1] for row in rows[1:4]] == [""] * 3


def test_here_is_wherever_models_are_looked_for(search, cached, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Whole ones: in another program's folder, as GGUF, or under another case of letters."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "none"))
    elsewhere = tmp_path / "home" / ".lmstudio" / "models" / "someone" / "Qwen3-4B-mlx"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    elsewhere.mkdir(parents=True)
    (elsewhere / "config.json").write_text('{"model_type": "qwen3"}')
    (elsewhere / "model.safetensors").write_bytes(b"")
    cached("Big/qwen3-4B")
    half = cached("mlx-community/Qwen3-4B-4bit", weights=False)
    (half / "config.json").write_text('{"model_type": "qwen3"}')
    held = cached("mlx-community/Qwen3-odd", weights=False, config=False)
    for name in ("m-Q4_0.gguf", "m-Q8_0.gguf"):
        (held / name).write_bytes(b"GGUF")
    rows = [line.split("\t") for line in search("qwen3").out.splitlines()[1:]]
    assert {row[0]: row[-1] for row in rows} == {
        "mlx-community/Qwen3-4B-4bit": "",
        "someone/Qwen3-4B-mlx": "yes",
        "mlx-community/Qwen3-odd": "yes",
        "big/Qwen3-4B": "yes",
    }


ODD = [None, 7, -1, 2.5, "x", True, [], ["x", 3], {}, {"parameters": None}, {"parameters": {"BF16": "many"}}]


@pytest.mark.parametrize(
    "field", ["tags", "downloads", "likes", "lastModified", "safetensors", "library_name"]
)
def test_a_listing_of_odd_types_is_a_listing(search, monkeypatch, field: str):
    # The Hub of the test would sort them, so it is passed by.
    rows = [listed(f"org/m{i}", ["mlx"], 5, BF16=2) | {field: odd} for i, odd in enumerate(ODD)]
    monkeypatch.setattr(client, "listing", lambda path, query: rows)
    result = search("m", "--json")
    assert (result.code, result.err) == (0, "")
    for hit in json.loads(result.out):
        assert {type(hit[name]) for name in ("downloads", "likes")} == {int}
        assert hit["size_bytes"] in (None, 4)
        assert hit["updated"] is None or isinstance(hit["updated"], str)


@pytest.mark.parametrize("rows", [{}, 3, None, [3], [{}], [{"id": 3}]])
def test_what_is_no_listing_is_one_line(search, monkeypatch, rows: Any):
    monkeypatch.setattr(client, "listing", lambda path, query: rows)
    result = search("m")
    assert (result.code, result.out) == (8, "")
    assert result.err == "mlxone: the Hub's answer is no list of models (check HF_ENDPOINT)\n"


def test_several_words_and_a_limit(search):
    assert names(search("QWEN3", "4b")) == [
        "mlx-community/Qwen3-4B-4bit",
        "someone/Qwen3-4B-mlx",
        "big/Qwen3-4B",
    ]
    assert names(search("qwen3", "--limit", "1")) == ["mlx-community/Qwen3-4B-4bit"]


def test_json(search):
    rows = json.loads(search("qwen3", "--json").out)
    assert rows[0] == {
        "repo": "mlx-community/Qwen3-4B-4bit",
        "mlx": True,
        "size_bytes": 2_002_000_000,
        "parameters": None,
        "downloads": 5_000,
        "likes": 3,
        "updated": "2026-03-04",
        "on_disk": False,
    }


def test_nothing_found_is_the_answer_no(search):
    assert search("gemma", "9") == Result(1, "", "mlxone: no model on the Hub matches 'gemma 9'\n")
    nothing = search("gemma", "--json")
    assert (nothing.code, json.loads(nothing.out)) == (1, [])


def test_a_terminal_gets_a_table(search, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream is sys.stdout)
    monkeypatch.setenv("TERM", "xterm")
    lines = search("qwen3").out.splitlines()
    assert "\x1b[1mMODEL" in lines[0]
    assert not any("\t" in line for line in lines)
    assert max(map(len, lines[1:])) <= 80


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (refuse(429), "too many requests"),
        (refuse(500), "status 500"),
        (refuse(401, message="Invalid credentials in Authorization header"), "does not accept the token"),
    ],
)
def test_a_refusal_is_one_line(search, fake_hub: FakeHub, refusal, reason: str):
    fake_hub.listing = refusal
    result = search("qwen3")
    assert (result.code, result.out, result.err.count("\n")) == (8, "", 1)
    assert reason in result.err


def test_a_passing_refusal_is_not_the_end(search, fake_hub: FakeHub):
    fake_hub.listing = refuse(503, times=1)
    assert search("qwen3").code == 0


def test_offline(search, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = search("qwen3")
    assert result.code == 8
    assert "HF_HUB_OFFLINE is set" in result.err
    assert fake_hub.log == []


@pytest.mark.parametrize("args", [[], ["x", "--limit", "0"], ["x", "--limit", "many"]])
def test_usage(search, args):
    assert search(*args).code == 2
