"""Which of flag, variable and config file decides, and what each of them is told about a mistake."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.later_flags import LATER
from mlxone.cli.serve_values import values, variable
from mlxone.core.errors import UsageError
from mlxone.core.settings import SERVE_SETTINGS

FILE = Path("config.toml")
BY_NAME = {setting.name: setting for setting in SERVE_SETTINGS}


def found(flags: Any = None, environ: Any = None, config: Any = None) -> dict[str, Any]:
    given = values(flags or {}, environ or {}, config or {}, FILE)
    return {name: one.value for name, one in given.items()}


def test_what_nobody_gave_is_not_there():
    nothing = {s.name: () if s.many else None for s in SERVE_SETTINGS}
    assert found(nothing, {"MLXONE_PORT": "", "MLXONE_HOST": " ", "PORT": "1"}) == {}


@given(
    st.fixed_dictionaries(
        {},
        optional={"flag": st.integers(0, 9), "environ": st.integers(10, 19), "config": st.integers(20, 29)},
    )
)
def test_the_flag_decides_then_the_variable_then_the_file(given: dict[str, int]):
    flags = {"port": given.get("flag")}
    environ = {"MLXONE_PORT": str(given["environ"])} if "environ" in given else {}
    config = {"port": given["config"]} if "config" in given else {}
    expected = next((given[place] for place in ("flag", "environ", "config") if place in given), None)
    assert found(flags, environ, config).get("port") == expected


@pytest.mark.parametrize(
    ("name", "text", "in_toml", "value"),
    [
        ("port", "8091", 8091, 8091),
        ("host", "::1", "::1", "::1"),
        ("temperature", "0", 0, 0.0),
        ("top_k", "40", 40, 40),
        ("memory_budget", "1.5", 1.5, 1.5),
        ("memory_budget", "500MB", "500MB", 0.5),
        ("prompt_cache", "0", 0, 0.0),
        ("prompt_cache_bytes", "1000", 1000, 1000),
        ("timeout", "0.5", 0.5, 0.5),
        ("thinking", "False", False, False),
        ("allow_manage", "true", True, True),
        ("log_json", "false", False, False),
        ("log_level", "debug", "debug", "debug"),
        ("log_level", "INFO", "Info", "info"),
        ("chat_template_args", '{"a": 1}', '{"a": 1}', '{"a": 1}'),
        ("chat_template_args", '{"a": {"b": [1]}}', {"a": {"b": [1]}}, '{"a": {"b": [1]}}'),
        ("api_key", "one", "one", ("one",)),
        ("allowed_origins", "*", ["*"], ("*",)),
    ],
)
def test_a_variable_and_the_file_are_read_as_the_flag_is(name: str, text: str, in_toml: Any, value: Any):
    assert found(environ={variable(BY_NAME[name]): text}) == {name: value}
    assert found(config={name: in_toml}) == {name: value}


def test_a_list_in_the_file_is_a_flag_that_was_repeated():
    assert found(config={"api_key": ["one", "two"]}) == {"api_key": ("one", "two")}
    assert found({"api_key": ("three",)}, config={"api_key": ["one", "two"]}) == {"api_key": ("three",)}


@pytest.mark.parametrize(
    ("environ", "config", "says"),
    [
        ({"MLXONE_PORT": "http"}, {}, "MLXONE_PORT takes a whole number, not 'http'"),
        ({"MLXONE_PORT": "65536"}, {}, "MLXONE_PORT must be between 0 and 65535, not 65536"),
        ({"MLXONE_THINKING": "1"}, {}, "MLXONE_THINKING is true or false, not '1'"),
        ({"MLXONE_MEMORY_BUDGET": "much"}, {}, "MLXONE_MEMORY_BUDGET takes a size"),
        (
            {"MLXONE_LOG_LEVEL": "loud"},
            {},
            "MLXONE_LOG_LEVEL must be one of error, warn, info, ",
        ),
        ({}, {"port": -1}, "config.toml: serve.port must be between 0 and 65535, not -1"),
        ({}, {"port": 1.5}, "config.toml: serve.port takes a whole number, not '1.5'"),
        ({}, {"port": True}, "config.toml: serve.port takes a whole number, not 'true'"),
        ({}, {"port": [1]}, "config.toml: serve.port cannot be [1]"),
        ({}, {"host": {"a": 1}}, "config.toml: serve.host cannot be {'a': 1}"),
        (
            {},
            {"temperature": float("nan")},
            "config.toml: serve.temperature must be between 0 and",
        ),
        (
            {},
            {"chat_template_args": {"a": date(2026, 1, 1)}},
            "config.toml: serve.chat_template_args holds what ",
        ),
        ({}, {"prot": 1}, "config.toml: no setting of the server is called 'prot' (did you mean port?)"),
        (
            {},
            {"prompt-cache": 1},
            "config.toml: no setting of the server is called 'prompt-cache' (did you mean prompt_cache?)",
        ),
        ({}, {"model": "x"}, "config.toml: no setting of the server is called 'model' (docs/server.md lists"),
        ({}, {"kv_quant": 4}, "config.toml: serve.kv_quant is not built yet"),
        ({"MLXONE_BATCH": "4"}, {}, "MLXONE_BATCH is not built yet (until then requests are"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_place(environ: Any, config: Any, says: str):
    with pytest.raises(UsageError) as caught:
        found(environ=environ, config=config)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", LATER)
def test_the_variable_of_a_flag_that_is_to_come_is_refused(flag: str):
    name = "MLXONE_" + flag[2:].replace("-", "_").upper()
    with pytest.raises(UsageError, match=f"^{name} is not built yet"):
        found(environ={name: "1"})
    assert found(environ={name: ""}) == {}


def test_an_empty_key_is_no_open_door():
    assert found(environ={"MLXONE_API_KEY": " "}) == {"api_key": ("",)}  # which the plan refuses
    assert found({"api_key": ("sk",)}, environ={"MLXONE_API_KEY": ""}) == {"api_key": ("sk",)}


def test_each_value_knows_its_place():
    given = values({"port": 1}, {"MLXONE_API_KEY": "a"}, {"grace": 2}, FILE)
    assert {name: one.shown_as for name, one in given.items()} == {
        "port": "--port",
        "api_key": "MLXONE_API_KEY",
        "grace": "config.toml: serve.grace",
    }


@pytest.mark.parametrize(
    ("one", "other"), [("uds", "port"), ("uds", "host"), ("prompt_cache", "prompt_cache_bytes")]
)
def test_two_ways_to_say_one_thing(one: str, other: str):
    texts = {"uds": "s", "port": "1", "host": "h", "prompt_cache": "1", "prompt_cache_bytes": "1"}
    a, b = BY_NAME[one], BY_NAME[other]
    both = {variable(a): texts[one], variable(b): texts[other]}
    with pytest.raises(UsageError) as caught:
        found(environ=both)
    assert str(caught.value) == f"{variable(a)} and {variable(b)} do not go together (give one of them)"
    # Of two places the earlier one decides.
    assert found(environ={variable(a): texts[one]}, config={other: texts[other]}).keys() == {one}
    assert found(environ={variable(b): texts[other]}, config={one: texts[one]}).keys() == {other}


def test_no_flag_is_there_and_to_come_at_once():
    spellings = {word for s in SERVE_SETTINGS for word in (s.flag, *s.aliases)}
    assert spellings & LATER.keys() == set()


def test_the_variables_are_nobody_elses():
    # Read by other parts, and for all verbs.
    taken = {"MLXONE_HOME", "MLXONE_MODEL", "MLXONE_MODEL_DIR", "MLXONE_CPU", "MLXONE_BLAS", "MLXONE_WIRE"}
    to_come = {"MLXONE_" + flag[2:].replace("-", "_").upper() for flag in LATER}
    assert ({variable(s) for s in SERVE_SETTINGS} | to_come) & taken == set()
