"""`config.json`: what is read, what is refused, and that each complaint names file and key."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import DamagedModel, StorageError
from mlxone.formats import config as module
from mlxone.formats.config import Config, nested_deeper, read_json
from tests.models.checkpoints import refused

NOT_NUMBERS: list[Any] = [True, False, "4", [4], {"a": 4}, math.nan, math.inf, -math.inf, 10**400, 1e39]
NOT_COUNTS: list[Any] = [*NOT_NUMBERS, 0, -1, 4.0, 2**31, 2**80]


def written(folder: Path, text: str | bytes) -> Path:
    file = folder / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def nested(levels: int) -> str:
    return '{"a": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def test_an_object_is_read(tmp_path: Path):
    assert read_json(written(tmp_path, '{"a": [1, 2.5, "é", null]}')) == {"a": [1, 2.5, "é", None]}
    assert read_json(written(tmp_path, b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}, "a byte order mark is no damage"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ('{"a": 1', "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        ('{"a": ' + "7" * 5000 + "}", "not valid JSON"),
        ("[1]", "does not hold a JSON object"),
        ("null", "does not hold a JSON object"),
        ('{"__float__": "NaN"}', "does not hold a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        (nested(module.MAX_DEPTH + 1), "nested more than"),
        (nested(900), "nested more than"),
    ],
)
def test_text_that_is_no_object_is_refused(tmp_path: Path, text: str | bytes, reason: str):
    with refused(DamagedModel, str(tmp_path / "config.json"), reason):
        read_json(written(tmp_path, text))


def test_depth_is_counted_exactly(tmp_path: Path):
    assert read_json(written(tmp_path, nested(module.MAX_DEPTH)))
    assert not nested_deeper({"a": {"b": [1]}}, 3) and nested_deeper({"a": {"b": [1]}}, 2)


def test_a_missing_file(tmp_path: Path):
    with refused(DamagedModel, str(tmp_path / "config.json"), "is missing", "`mlxone get --verify`"):
        Config.read(tmp_path)


def test_a_folder_or_a_pipe_in_the_files_place(tmp_path: Path):
    (tmp_path / "config.json").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("config.json", "pipe"):
        with refused(DamagedModel, str(tmp_path / name), "is not a file"):
            read_json(tmp_path / name)


def test_a_file_the_system_does_not_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def deny(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    file = written(tmp_path, "{}")
    with refused(StorageError, "cannot be read"):
        read_json(tmp_path / ("x" * 300))
    monkeypatch.setattr(Path, "read_bytes", deny)
    with refused(StorageError, str(file), "Permission denied"):
        read_json(file)


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = written(tmp_path, "{}")
    monkeypatch.setattr(module, "MAX_CONFIG_BYTES", 2)
    assert read_json(file) == {}
    monkeypatch.undo()
    os.truncate(file, module.MAX_CONFIG_BYTES + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with refused(DamagedModel, str(file), "larger than 64 MiB"):
        read_json(file)


def test_numbers_json_cannot_say(tmp_path: Path):
    """transformers 5 writes them as tagged objects; a tag it does not write stays an object."""
    values = {"a": {"__float__": "Infinity"}, "b": [{"__float__": "-Infinity"}], "c": {"__float__": "NaN"}}
    read = read_json(
        written(tmp_path, json.dumps(values | {"d": {"__float__": "7"}, "e": {"__float__": []}}))
    )
    assert (read["a"], read["b"]) == (math.inf, [-math.inf]) and math.isnan(read["c"])
    assert (read["d"], read["e"]) == ({"__float__": "7"}, {"__float__": []})


@pytest.mark.parametrize("tag", ["Infinity", "-Infinity", "NaN"])
def test_such_a_number_is_no_size(tmp_path: Path, tag: str):
    config = Config(read_json(written(tmp_path, json.dumps({"n": {"__float__": tag}}))), source="the file")
    for getter in (config.count, config.number, config.positive):
        with refused(DamagedModel, "the file: n must be"):
            getter("n")


def test_a_good_value_comes_back_as_its_type():
    config = Config({"n": 3, "x": 2, "f": True, "s": {"a": 1}, "low": -1.5})
    assert config.count("n") == 3 and config.count("n", most=3) == 3 and Config({"n": 1}).count("n") == 1
    assert Config({"x": 1e-9}).positive("x") == 1e-9
    assert type(config.number("x")) is float and config.positive("x") == 2.0
    assert config.number("low") == -1.5 and config.flag("f") is True and config.section("s") == {"a": 1}


@pytest.mark.parametrize("value", NOT_COUNTS, ids=lambda v: str(v)[:12])
def test_a_count_is_a_whole_number_above_zero(value: Any):
    with refused(DamagedModel, "config.json: size must be a whole number from 1 to 2147483647, not "):
        Config({"size": value}).count("size")


def test_a_count_may_have_a_lower_limit():
    with refused(DamagedModel, "size must be a whole number from 1 to 7, not 8"):
        Config({"size": 8}).count("size", most=7)


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda v: str(v)[:12])
def test_a_number_is_finite_in_float32(value: Any):
    for getter in (Config({"eps": value}).number, Config({"eps": value}).positive):
        with refused(DamagedModel, "config.json: eps must be a finite number, not "):
            getter("eps")


@pytest.mark.parametrize("value", [0, 0.0, -1e-9, -3])
def test_a_positive_number_is_above_zero(value: float):
    assert Config({"eps": value}).number("eps") == value
    with refused(DamagedModel, "config.json: eps must be a number above 0, not "):
        Config({"eps": value}).positive("eps")


@pytest.mark.parametrize("value", [0, 1, "true", [], {}])
def test_a_flag_is_true_or_false(value: Any):
    with refused(DamagedModel, "config.json: tied must be true or false, not "):
        Config({"tied": value}).flag("tied")


@pytest.mark.parametrize("value", [[], "text", 1, True])
def test_a_section_is_an_object(value: Any):
    with refused(DamagedModel, "config.json: rope_scaling must be an object, not "):
        Config({"rope_scaling": value}).section("rope_scaling")


def test_a_missing_key_is_named_unless_there_is_a_default():
    config = Config({"other": 1}, source="the file")
    for getter in (config.count, config.number, config.positive, config.flag):
        with refused(DamagedModel, "the file: size is missing"):
            getter("size")
    assert config.count("size", 5) == 5 and config.flag("size", False) is False
    assert config.section("size") == {}


def test_null_is_absent_and_a_familys_default_lies_beneath():
    config = Config({"a": None, "b": 2}).with_defaults({"a": 7, "b": 7})
    assert (config["a"], config["b"], len(config), sorted(config)) == (7, 2, 2, ["a", "b"])
    assert "a" not in Config({"a": None})


def test_a_complaint_shows_the_value_shortly_and_in_one_line():
    with refused(DamagedModel, 'not "x\\n\\ud800xxx'):
        Config({"size": "x\n\ud800" + "x" * 10**6}).count("size")
