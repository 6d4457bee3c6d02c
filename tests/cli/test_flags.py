from __future__ import annotations

import click
import pytest

from mlxone.cli.flags import read_logit_bias, setting_flags
from mlxone.core.errors import UsageError
from mlxone.core.settings import SETTINGS


def parse(*args: str) -> dict[str, object]:
    command = click.Command("x", params=list(setting_flags({}, "All")), callback=lambda **flags: flags)
    return command.make_context("x", list(args)).params


def test_every_setting_is_a_flag_and_unset_by_itself():
    assert parse() == {setting.name: None for setting in SETTINGS}


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        (["--top-p", "0.9"], "top_p", 0.9),
        (["--temp", "0"], "temperature", 0.0),
        (["--temperature=1e0"], "temperature", 1.0),
        (["--top-k", "40"], "top_k", 40),
        (["--seed", "1", "--seed", "2"], "seed", 2),
        (["--presence-penalty", "-1.5"], "presence_penalty", -1.5),
    ],
)
def test_values(args, name, value):
    assert parse(*args)[name] == value


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--top-p", "1.5"], "--top-p must be between 0 and 1, not 1.5"),
        (["--top-p", "nan"], "--top-p must be between 0 and 1, not nan"),
        (["--temp", "inf"], "--temperature must be between 0 and 5, not inf"),
        (["--top-k", "-1"], "--top-k must be between 0 and 1000000, not -1"),
        (["--max-tokens", "0"], "--max-tokens must be at least 1, not 0"),
        (["--max-tokens", "12.5"], "--max-tokens takes a whole number, not '12.5'"),
        (["--top-p", ""], "--top-p takes a number, not ''"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_flag(args, says):
    with pytest.raises(UsageError) as caught:
        parse(*args)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["5=1.5"], {5: 1.5}),
        (["5=-100", "7=2", "5=1"], {5: 1.0, 7: 2.0}),
        (['{"5": -1, "7": 2.5}', "7=0"], {5: -1.0, 7: 0.0}),
        (["{}"], {}),
    ],
)
def test_logit_bias(texts, expected):
    assert read_logit_bias(texts) == expected


@pytest.mark.parametrize(
    "text", ["", "5", "x=1", "5=x", "5=1=2", "-1=2", "5=nan", "5=inf", "{", "[1]", '{"5": null}', "{" * 9999]
)
def test_a_wrong_logit_bias_is_one_line(text):
    with pytest.raises(UsageError, match="^--logit-bias "):
        read_logit_bias([text])
