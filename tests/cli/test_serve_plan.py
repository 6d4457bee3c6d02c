from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxone.cli.serve_plan import plan
from mlxone.core.errors import TemplateError, UsageError
from mlxone.core.settings import SERVER_SETTINGS
from mlxone.server import serving
from mlxone.server.serving import Address
from mlxone.service import options
from mlxone.service.options import Options


def test_nothing_given_is_a_server_of_this_machine_only():
    made = plan({})
    assert made.options == Options()
    assert (made.host, made.port, made.uds) == (Address().host, Address().port, None)
    assert (made.api_keys, made.allowed_origins, made.allowed_hosts) == ((), (), ())
    assert (made.grace, made.log_level, made.log_json) == (serving.GRACE, "info", False)


def test_the_table_and_the_rooms_below_agree_on_defaults():
    table = {setting.name: setting.default for setting in SERVER_SETTINGS}
    assert table["prompt_cache"] * 1e9 == options.PROMPT_CACHE_BYTES
    assert (table["queue"], table["timeout"]) == (options.QUEUE, options.TIMEOUT)
    assert (table["host"], table["port"], table["grace"]) == (serving.HOST, serving.PORT, serving.GRACE)


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"memory_budget": 1.5}, "memory_budget", 1.5),
        ({"ctx_size": 512}, "ctx_size", 512),
        ({"prefill_step": 7}, "prefill_step", 7),
        ({"prompt_cache": 0.0}, "prompt_cache_bytes", 0),
        ({"prompt_cache": 0.1}, "prompt_cache_bytes", 100_000_000),
        ({"prompt_cache_bytes": 0}, "prompt_cache_bytes", 0),
        ({"prompt_cache_bytes": 77}, "prompt_cache_bytes", 77),
        ({"prompt_cache_size": 3}, "prompt_cache_entries", 3),
        ({"temperature": 0.0, "top_k": 5}, "sampling", {"temperature": 0.0, "top_k": 5}),
        ({"max_tokens": 9}, "max_tokens", 9),
        ({"thinking": False}, "thinking", False),
        ({"chat_template_args": '{"a": [1]}'}, "template_kwargs", {"a": [1]}),
        ({"timeout": 0.0}, "timeout", None),
        ({"timeout": 2.5}, "timeout", 2.5),
        ({"queue": 1}, "queue", 1),
        ({"idle_unload": 60.0}, "idle_unload", 60.0),
        ({"idle_unload": 0.0}, "idle_unload", None),
        ({"allow_manage": True}, "allow_manage", True),
    ],
)
def test_each_value_goes_to_its_option_and_to_no_other(given: dict[str, Any], field: str, value: Any):
    made = plan(given).options
    assert getattr(made, field) == value
    others = [name for name in Options.__slots__ if name != field]
    assert [name for name in others if getattr(made, name) != getattr(Options(), name)] == []


def test_a_template_is_read_before_the_start(tmp_path: Path):
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages }}")
    assert plan({"chat_template": str(file)}).options.chat_template == file
    with pytest.raises(UsageError, match="^--chat-template .*: no such file$"):
        plan({"chat_template": str(tmp_path / "missing")})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{% for %}", ", line 1: "),
        ("a\n{{ }", ", line 2: "),
        ("x" * 300_000, " is longer than"),
    ],
)
def test_a_template_that_does_not_parse_stops_the_start(text: str, says: str, tmp_path: Path):
    file = tmp_path / "t.jinja"
    file.write_text(text)
    with pytest.raises(TemplateError) as caught:
        plan({"chat_template": str(file)})
    assert str(caught.value).startswith(f"{file}{says}")
    assert caught.value.exit_code == 11


def test_keys_come_from_the_line_and_from_files(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("# of the team\nsk-one\n\n  sk-two  \r\n")
    assert plan({"api_key": ("sk-zero", f"@{file}")}).api_keys == ("sk-zero", "sk-one", "sk-two")


def test_origins_and_hosts_may_be_joined_by_commas():
    made = plan(
        {"allowed_origins": ("https://a.example, http://b.example:81", "*"), "allowed_hosts": ("A.b,c",)}
    )
    assert made.allowed_origins == ("https://a.example", "http://b.example:81", "*")
    assert made.allowed_hosts == ("a.b", "c")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"host": " "}, "--host is empty"),
        ({"uds": ""}, "--uds is not a file's name: ''"),
        ({"uds": "no/such/folder/s"}, "--uds no/such/folder/s: there is no folder no/such/folder"),
        ({"uds": __file__}, f"--uds {__file__} is there already and no socket"),
        ({"chat_template_args": "{"}, "--chat-template-args is not JSON"),
        ({"chat_template_args": "{" * 100_000}, "--chat-template-args is not JSON"),
        ({"chat_template_args": "[]"}, "--chat-template-args takes a JSON object, not '[]'"),
        (
            {"chat_template_args": '{"messages": 1}'},
            "--chat-template-args cannot hold 'messages'",
        ),
        ({"allowed_origins": ("a.example",)}, "--allowed-origins: not an origin: 'a.example'"),
        ({"allowed_origins": ("https://a.example/page",)}, "--allowed-origins: not an origin"),
        ({"allowed_origins": ("*,",)}, "--allowed-origins has an empty part: '*,'"),
        ({"allowed_hosts": ("a.example:80",)}, "--allowed-hosts: not a host's name: 'a.ex"),
        ({"api_key": (__file__,)}, f"--api-key names a file: {__file__} (@{__file__} means the keys in it)"),
        ({"api_key": ("@/no/such/file",)}, "--api-key /no/such/file: no such file"),
        ({"api_key": ("",)}, "--api-key: an API key has to have characters"),
        ({"api_key": ()}, "--api-key holds no key"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(given: dict[str, Any], says: str):
    with pytest.raises(UsageError) as caught:
        plan(given)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
    # Set elsewhere, it is called by that place.
    name = next(iter(given))
    with pytest.raises(UsageError) as caught:
        plan(given, {name: "THERE"})
    assert str(caught.value).startswith(says.replace(f"--{name.replace('_', '-')}", "THERE"))
    assert "--" not in str(caught.value)


def test_what_the_rooms_below_say_is_said_of_the_place():
    made = plan({"ctx_size": 9}, {"ctx_size": "MLXONE_CTX_SIZE"})
    said = made.in_their_words(UsageError("ctx_size 9 is too much", hint="less"))
    assert str(said) == "MLXONE_CTX_SIZE 9 is too much (less)"
    assert str(made.in_their_words(UsageError("max_tokens is odd"))) == "--max-tokens is odd"
    other = UsageError("two models would be called a")
    assert made.in_their_words(other) is other


@pytest.mark.parametrize("bad", ["two words", "new\nline", "nul\0"])
def test_no_complaint_repeats_a_key(bad: str, tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("two words\n")
    for word in (bad, f"@{file}"):
        with pytest.raises(UsageError) as caught:
            plan({"api_key": (word,)})
        assert "two" not in str(caught.value)
        assert "nul" not in str(caught.value)


def test_a_file_without_keys_is_no_open_door(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("# none yet\n\n")
    with pytest.raises(UsageError, match=f"^--api-key {file} holds no key"):
        plan({"api_key": (f"@{file}",)})
