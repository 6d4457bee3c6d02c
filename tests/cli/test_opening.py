"""A model that is not there: --pull, the question, and the error for scripts. And `mlxone get`."""

from __future__ import annotations

import sys

import pytest

from mlxone.cli import terminal
from tests.hub.conftest import cached as cached  # a fixture: this name is what asks for it


@pytest.fixture
def at_a_terminal(monkeypatch, mlxone):
    """stdin and stderr count as a terminal; what is typed is the argument."""

    def run(*args: str, typed: str):
        monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream in (sys.stdin, sys.stderr))
        return mlxone(*args, stdin=typed.encode())

    return run


def test_a_script_gets_the_error_that_names_get(mlxone, stage):
    stage.missing = {"org/new"}
    result = mlxone("run", "org/new", "hi")
    assert (result.code, stage.fetched) == (3, [])
    assert result.err == "mlxone: no model org/new on this machine (mlxone get org/new)\n"


def test_pull_downloads(mlxone, stage):
    stage.missing = {"org/new"}
    result = mlxone("run", "org/new", "hi", "--pull")
    assert (result.code, result.out, stage.fetched) == (0, "Paris.\n", ["org/new"])
    assert result.err == "downloading org/new (3.4 GB)\n"


def test_quiet_says_nothing(mlxone, stage):
    stage.missing = {"org/new"}
    assert mlxone("run", "org/new", "hi", "--pull", "--quiet").err == ""


def test_pull_understands_revisions(mlxone, stage):
    stage.missing = {"org/new@v1"}
    mlxone("run", "org/new@v1", "hi", "--pull")
    assert stage.fetched == ["org/new@v1"]


def test_pull_understands_short_names(mlxone, stage):
    stage.missing = {"short"}
    mlxone("run", "short", "hi", "--pull")
    assert stage.fetched == ["org/long"]


@pytest.mark.parametrize("name", ["./folder/model", "a query", "/abs/path", "a/b/c"])
def test_what_is_no_repo_is_not_looked_for_on_the_hub(mlxone, stage, name):
    stage.missing = {name}
    assert mlxone("run", "--model", name, "hi").code == 3
    assert mlxone("run", "--model", name, "hi", "--pull").code == 3
    assert stage.fetched == []


@pytest.mark.parametrize("typed", ["\n", "y\n", "Yes\n"])
def test_a_terminal_is_asked_with_the_size(at_a_terminal, stage, typed):
    stage.missing = {"org/new"}
    result = at_a_terminal("run", "org/new", "hi", typed=typed)
    assert (result.code, stage.fetched) == (0, ["org/new"])
    assert "org/new is not on this machine. Download 3.4 GB? [Y/n] " in result.err


@pytest.mark.parametrize("typed", ["n\n", "no\n", "", "what\n"])
def test_and_may_say_no(at_a_terminal, stage, typed):
    stage.missing = {"org/new"}
    result = at_a_terminal("run", "org/new", "hi", typed=typed)
    assert (result.code, stage.fetched) == (3, [])
    assert result.err.endswith("(mlxone get org/new)\n")


@pytest.mark.parametrize(
    ("args", "fetched"),
    [
        (["org/repo"], "org/repo"),
        (["short"], "org/long"),
        (["on-disk"], "org/on-disk"),
        (["org/repo", "--revision", "v1"], "org/repo@v1"),
        (["org/repo@v1"], "org/repo@v1"),
    ],
)
def test_get_prints_the_folder(mlxone, stage, cached, monkeypatch, args, fetched):
    cached("org/on-disk")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    result = mlxone("get", *args)
    assert (result.code, stage.fetched) == (0, [fetched])
    assert result.out == f"/cache/{fetched.partition('@')[0]}\n"


def test_get_of_a_folder_of_ones_own(mlxone, stage):
    result = mlxone("get", "local")
    assert (result.code, result.out, stage.fetched) == (3, "", [])
