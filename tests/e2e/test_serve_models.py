"""Several models and one budget: loaded when asked for, put away when others need the room."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.fitting.work import Work
from mlxone.hub.snapshots import STARTER_REPO
from mlxone.service.admission import SHORTEST, _case
from tests.e2e.serving import CHAT, Asks, chat, offer, request_bytes, told, until, write_endless
from tests.engine import tiny
from tests.service.rig import write_folder

# Weights outweigh what an answer needs, so that it is they who decide what fits.
HEAVY = {
    **tiny.PLAIN,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three models side by side."""
    first = write_folder(tmp_path / "models" / "a", HEAVY)
    for name in "bc":
        shutil.copytree(first, tmp_path / "models" / name)
    return tmp_path / "models"


def needs(folder: Path, context: int = SHORTEST) -> Any:
    case, _ = _case(mlxone.load(folder))
    return case.needs(Work(context))


def room_for(models: int, folder: Path) -> float:
    """A budget in GB for so many of them, and not for one more."""
    one = needs(folder / "a")
    assert one.total_bytes < 2 * one.weights_bytes
    return (one.total_bytes + (models - 1) * one.weights_bytes) / 1e9


def loaded(server: Asks) -> list[str]:
    """The one used last comes last."""
    return server.stats()["server"]["loaded"]


def listed(server: Asks) -> dict[str, bool]:
    """All but the starter, which only the binary has."""
    found = {one["id"]: one["loaded"] for one in server.ask("GET", "/v1/models").json["data"]}
    found.pop(STARTER_REPO, None)
    return found


# On demand --------------------------------------------------------------------------------------


def test_a_model_is_loaded_when_it_is_asked_for(folder: Path):
    with offer(folders=[folder]) as server:
        assert loaded(server) == [] and listed(server) == {"a": False, "b": False, "c": False}
        for name in "ab":
            answer = server.chat("Hello", model=name, max_tokens=8)
            assert (answer.json["model"], answer.text) == (name, told(folder / name, "Hello", 8))
        assert loaded(server) == ["a", "b"] and listed(server) == {"a": True, "b": True, "c": False}
        assert server.ask("GET", "/v1/models/b").json["loaded"] is True


def test_a_model_that_comes_while_it_serves_is_found(folder: Path):
    with offer(folders=[folder]) as server:
        assert server.chat(model="late").status == 404
        write_folder(folder / "late")
        assert server.chat(model="late").status == 200
        assert "late" in listed(server)


def test_named_models_alone_answer(folder: Path):
    with offer(folder / "a", folder / "b") as server:
        assert set(listed(server)) == {"a", "b"}
        assert server.chat(model="c").error["code"] == "model_not_found"
    with offer(folder / "a") as server:
        answer = server.chat(model="whatever")  # one model answers to every name, and says its own
        assert (answer.status, answer.json["model"]) == (200, "a")


# The budget -------------------------------------------------------------------------------------


def test_the_one_used_least_recently_makes_room(folder: Path):
    with offer(folders=[folder], memory_budget=room_for(2, folder), prompt_cache_bytes=0) as server:
        for asked, then in (("a", ["a"]), ("b", ["a", "b"]), ("a", ["b", "a"]), ("c", ["a", "c"])):
            assert server.chat(model=asked).status == 200
            assert loaded(server) == then


def test_two_that_do_not_fit_together_take_turns(folder: Path):
    with offer(folders=[folder], memory_budget=room_for(1, folder), prompt_cache_bytes=0) as server:
        for asked in "abab":
            assert server.chat(model=asked).status == 200
            assert loaded(server) == [asked]


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(folder: Path):
    write_folder(folder / "small")
    budget = needs(folder / "a").weights_bytes / 1e9
    with offer(folders=[folder], memory_budget=budget) as server:
        for streams in (False, True):
            answer = server.chat(model="a", stream=streams)
            said = answer.error
            assert (answer.status, said["type"]) == (400, "memory_admission")
            assert (said["code"], said["param"]) == ("model_over_budget", "model")
            assert said["weights_bytes"] == needs(folder / "a").weights_bytes
            assert said["needed_bytes"] > said["budget_bytes"] == int(budget * 1e9)
        assert server.chat(model="small").status == 200
        assert loaded(server) == ["small"]


def test_an_answer_beyond_the_budget_is_refused_with_what_would_fit(tmp_path: Path):
    folder = write_folder(tmp_path / "small")
    budget = needs(folder, 300).total_bytes / 1e9
    with offer(folder, memory_budget=budget, prompt_cache_bytes=0) as server:
        for streams in (False, True):
            answer = server.chat(max_tokens=400, stream=streams)
            said = answer.error
            assert (answer.status, said["type"]) == (400, "memory_admission")
            assert said["code"] == "context_over_budget" and said["max_tokens"] == 400
            assert said["needed_bytes"] > said["budget_bytes"] == int(budget * 1e9)
        fits = said["max_context"] - said["prompt_tokens"]
        assert 250 < fits < 400
        over = server.chat(max_tokens=fits + 1)
        assert (over.status, over.error["code"]) == (400, "context_over_budget")
        assert server.chat(max_tokens=fits).status == 200
        answer = server.chat(max_tokens=None)  # as far as the memory goes
        assert answer.status == 200
        assert answer.json["usage"]["total_tokens"] <= said["max_context"]
        assert server.rows == (0, 0)


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(folder: Path):
    with offer(folder / "a") as server:
        said = server.chat("x" * 3_000).error
        assert (said["type"], said["code"]) == ("memory_admission", "context_over_budget")
        assert said["prompt_tokens"] > said["max_context"] == 2048


# Managed, and idle --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models/load", "/v1/models/unload", "/models/load", "/models/unload"])
def test_managing_is_not_for_everybody(folder: Path, path: str):
    with offer(folders=[folder]) as server:
        assert server.chat(model="b").status == 200
        for name in ("a", "b", "nothing"):
            answer = server.ask("POST", path, {"model": name})
            assert (answer.status, answer.error["type"]) == (403, "permission_error")
        assert loaded(server) == ["b"]


def test_managing_where_it_is_allowed(folder: Path):
    def tell(verb: str, name: str) -> Any:
        return server.ask("POST", f"/v1/models/{verb}", {"model": name})

    with offer(folders=[folder], allow_manage=True) as server:
        assert tell("load", "a").json["loaded"] is True
        assert tell("load", "a").status == 200 and tell("load", "b").status == 200
        assert listed(server) == {"a": True, "b": True, "c": False}
        assert tell("unload", "a").json["loaded"] is False
        assert tell("unload", "a").status == 200  # as it is already
        assert loaded(server) == ["b"]
        for verb in ("load", "unload"):
            for name in ("nothing", str(folder / "c"), "../..", ""):
                assert tell(verb, name).status in (400, 404)
        assert listed(server) == {"a": False, "b": True, "c": False}
        assert server.chat(model="a").status == 200


def test_a_model_at_work_is_not_unloaded(tmp_path: Path):
    with offer(write_endless(tmp_path / "endless"), allow_manage=True) as server, server.connect() as sock:
        sock.sendall(request_bytes("POST", CHAT, chat(stream=True, max_tokens=None)))
        until(lambda: server.rows == (1, 0), "the beginning of its work")
        answer = server.ask("POST", "/v1/models/unload", {"model": "endless"})
        assert (answer.status, answer.error["type"]) == (429, "rate_limit_error")
        assert loaded(server) == ["endless"]


def test_an_idle_model_is_unloaded_and_comes_back(folder: Path):
    def held() -> int:
        return server.stats()["memory"]["active_bytes"]

    with offer(folder / "a", idle_unload=2.0) as server:
        said = server.chat("Hello").text
        before, weights = held(), needs(folder / "a").weights_bytes
        until(lambda: loaded(server) == [], "the end of its idleness")
        until(lambda: before - held() > 0.9 * weights, "its memory")
        assert server.chat("Hello").text == said
