"""Which model a verb means: the argument, --model, or what is set up."""

from __future__ import annotations

import click
import pytest

from mlxone.cli.models import model_params, named_model
from mlxone.core.errors import UsageError


def parsed(*args: str) -> dict[str, str | None]:
    seen: dict[str, str | None] = {}
    command = click.Command("verb", params=model_params(required=False), callback=seen.update)
    command.main(args, standalone_mode=False)
    return seen


@pytest.mark.parametrize(
    ("args", "argument", "by_flag"),
    [
        ((), None, None),
        (("a/b",), "a/b", None),
        (("--model", "a/b"), None, "a/b"),
        (("--model=a/b", "c"), "c", "a/b"),
    ],
)
def test_both_ways_are_read(args: tuple[str, ...], argument: str | None, by_flag: str | None):
    assert parsed(*args) == {"model": argument, "model_flag": by_flag}


def test_either_way_names_it():
    assert named_model("a/b", None) == named_model(None, "a/b") == "a/b"


def test_two_are_one_too_many():
    for one, other in (("a", "b"), ("a", "a"), ("", "a")):
        with pytest.raises(UsageError, match="two models are named") as error:
            named_model(one, other)
        assert error.value.hint == "name one"


def test_none_where_one_is_needed():
    with pytest.raises(UsageError, match="no model is named"):
        named_model(None, None, required=True)
    assert named_model("a", None, required=True) == "a"


def test_none_takes_what_is_set_up(monkeypatch: pytest.MonkeyPatch):
    assert named_model(None, None) == "starter"
    monkeypatch.setenv("MLXONE_MODEL", "org/mine")
    assert named_model(None, None) == "org/mine"
    assert named_model("org/other", None) == "org/other"


def test_an_empty_name_is_a_name_and_no_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLXONE_MODEL", "org/mine")
    assert named_model("", None) == "" and named_model(None, "") == ""


@pytest.mark.parametrize(("required", "shown"), [(True, "MODEL"), (False, "[MODEL]")])
def test_help_says_whether_it_may_be_left_out(required: bool, shown: str):
    argument, by_flag = model_params(required=required)
    assert isinstance(argument, click.Argument) and argument.metavar == shown
    assert isinstance(by_flag, click.Option) and ("MLXONE_MODEL" in (by_flag.help or "")) is not required
