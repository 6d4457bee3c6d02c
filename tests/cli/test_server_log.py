from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import pytest

from mlxone.cli.server_log import JsonFormatter, Logging, PlainFormatter

FIELDS = {"id": "4f2a", "status": 200, "ms": 812.4}


def record(message: str = "hello", level: int = logging.INFO, **how: Any) -> logging.LogRecord:
    made = logging.LogRecord("mlxone.x", level, "f.py", 1, message, how.get("args"), how.get("exc_info"))
    made.created = 1_700_000_000.0415
    if "fields" in how:
        made.fields = how["fields"]
    return made


def raised() -> Any:
    try:
        raise ValueError("bad\x1b[2J")
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize(
    ("level", "name"),
    [(10, "debug"), (20, "info "), (30, "warn "), (40, "error"), (50, "error"), (25, "level 25")],
)
def test_a_plain_line_is_clock_level_message(level: int, name: str):
    line = PlainFormatter().format(record(level=level))
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {name} hello", line)


def test_what_a_terminal_would_obey_is_shown_instead():
    line = PlainFormatter().format(record("%s", args=("\x1b[2Jgone\rhi",)))
    assert line.endswith("\u241b[2Jgonehi")


def test_a_traceback_follows_on_lines_of_its_own():
    first, *rest = PlainFormatter().format(record(exc_info=raised())).split("\n")
    assert first.endswith("hello")
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "ValueError: bad\u241b[2J"


def test_json_is_one_object_with_the_fields_in_it():
    text = JsonFormatter().format(record("a\nb", fields=FIELDS))
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "2023-11-14T22:13:20.042Z", "level": "info", "message": "a\nb", **FIELDS
    }  # fmt: skip


def test_no_field_takes_the_place_of_a_word():
    found = json.loads(
        JsonFormatter().format(record(fields={"level": "x", "message": "y", "time": 0, "z": 1}))
    )
    assert (found["level"], found["message"], found["z"]) == ("info", "hello", 1)


def test_json_has_the_traceback_and_what_json_cannot_say_as_text():
    found = json.loads(JsonFormatter().format(record(fields={"path": {1, 2}}, exc_info=raised())))
    assert found["traceback"].endswith("ValueError: bad\x1b[2J")
    assert found["path"] == "{1, 2}"


def test_only_what_is_asked_for_is_written_and_only_while_it_is_open():
    lines: list[str] = []
    log, asyncio_log = logging.getLogger("mlxone.server.requests"), logging.getLogger("asyncio")
    with Logging(lines.append, level="warn", as_json=False):
        log.info("quiet")
        log.warning("loud")
        asyncio_log.info("theirs")
        asyncio_log.error("never retrieved")
        assert not log.isEnabledFor(logging.INFO)
    log.error("after")
    assert [line.split(" ", 1)[1] for line in lines] == ["warn  loud", "error never retrieved"]
    assert logging.getLogger("mlxone").handlers == []


def test_a_message_that_cannot_be_made_is_no_reason_to_stop():
    lines: list[str] = []
    with Logging(lines.append, level="debug", as_json=False):
        logging.getLogger("mlxone.x").info("%d", "no number")
    assert lines == ["a message of mlxone.x could not be logged"]
