"""`mlxone doctor` from end to end: on this machine, and what a broken one is told."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxone.cli import doctor, terminal
from mlxone.cli.main import main
from mlxone.core.errors import UsageError
from mlxone.hub import places
from mlxone.service.checkup import device, examine
from mlxone.service.checkup.device import Told
from mlxone.service.checkup.findings import Finding
from tests.cli.conftest import Result

FINDINGS = [
    Finding("mlx", "ok", "MLX 1 computes"),
    Finding("network", "warn", "the Hub cannot be reached: no route", "check the network"),
    Finding("home", "fail", "/x cannot be\twritten to\x1b[31m", "make it writable, or set MLXONE_HOME"),
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*args: str) -> Result:
        code = main(["doctor", *args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def find(*findings: Finding) -> None:
        def examine_(**_: Any) -> Iterator[Finding]:
            yield from findings

        monkeypatch.setattr(examine, "examine", examine_)

    return find


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream is sys.stdout)
    monkeypatch.setenv("COLUMNS", "56")
    monkeypatch.setenv("TERM", "xterm")


def test_this_machine_is_well(run):
    result = run("--offline")
    assert result.code == 0
    head, *rows = [line.split("\t") for line in result.out.splitlines()]
    assert head == ["STATUS", "CHECK", "MESSAGE", "FIX"]
    assert {"program", "mlx", "memory", "home"} <= {row[1] for row in rows}
    assert all(len(row) == (3 if row[0] == "ok" else 4) for row in rows)


def test_as_json(run):
    result = run("--offline", "--json")
    found = json.loads(result.out)
    assert (result.code, result.err, list(found)) == (0, "", ["about", "checks"])
    assert found["about"]["kind"] == "source"
    for check in found["checks"]:
        wanted = {"name", "status", "message", "details"} | ({"fix"} if check["status"] != "ok" else set())
        assert set(check) == wanted


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_a_failure_is_the_exit_code(args: list[str], run, finds):
    finds(*FINDINGS)
    assert run(*args).code == 1
    finds(*FINDINGS[:2])
    assert run(*args).code == 0  # a warning is not


def test_rows_for_scripts(run, finds):
    finds(*FINDINGS)
    result = run()
    assert result.out.splitlines()[1:] == [
        "ok\tmlx\tMLX 1 computes",
        "warn\tnetwork\tthe Hub cannot be reached: no route\tcheck the network",
        "fail\thome\t/x cannot be written to␛[31m\tmake it writable, or set MLXONE_HOME",
    ]
    assert result.err == "1 failure, 1 warning\n"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "all is well"),
        (FINDINGS[:1], "all is well"),
        (FINDINGS[1:2], "1 warning"),
        (FINDINGS[1:] * 2, "2 failures, 2 warnings"),
    ],
)
def test_the_last_line(found: list[Finding], words: str):
    assert doctor.summary(found) == words


def test_a_terminal_gets_columns(run, finds, on_terminal, monkeypatch: pytest.MonkeyPatch):
    finds(*FINDINGS)
    shown = run().out
    assert "\x1b[32mok" in shown and "\x1b[1;31mfail" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert (
        run().out
        == re.sub(r"\x1b\[[\d;]*m", "", shown)
        == (
            "ok    mlx            MLX 1 computes\n"
            "warn  network        the Hub cannot be reached: no route\n"
            "                     -> check the network\n"
            "fail  home           /x cannot be written to␛[31m\n"
            "                     -> make it writable, or set\n"
            "                        MLXONE_HOME\n"
        )
    )


@pytest.mark.parametrize("width", [1, 20, 45, 80, 400])
def test_nothing_is_lost_in_any_width(width: int):
    for finding in FINDINGS:
        shown = " ".join(" ".join(doctor.lines(finding, width, colour=False)).split())
        for word in terminal.one_line(f"{finding.message} {finding.fix}").split():
            assert word in shown


def test_mlx_that_does_not_load(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "ask", lambda: Told(trouble="MLX cannot be loaded: x", hint="pip install y"))
    result = run("--offline")
    assert result.code == 1
    assert "fail\tmlx\tMLX cannot be loaded: x\tpip install y\n" in result.out


@pytest.mark.parametrize(
    "text", ["model = 3", "model_dirs = 3", "[serve]\nport = 'x'", "[serve]\nx = 1", "="]
)
def test_a_config_that_no_verb_would_take(text: str):
    doctor.read_config()
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text(text)
    with pytest.raises(UsageError, match=r"config\.toml"):
        doctor.read_config()


def test_a_variable_that_no_server_would_take(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLXONE_PORT", "many")
    with pytest.raises(UsageError, match="MLXONE_PORT"):
        doctor.read_config()


def test_a_home_that_cannot_be(run, home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "file").touch()
    monkeypatch.setenv("MLXONE_HOME", str(home / "file" / "x"))
    monkeypatch.setattr(device, "ask", lambda: Told({"kind": "cpu"}))
    result = run("--offline")
    assert result.code == 1
    assert re.search(
        r"^fail\thome\t.*file is not a folder\tmake it readable and writable, or set MLXONE_HOME",
        result.out,
        re.M,
    )


def test_somebody_without_a_home_whose_refuge_is_taken(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "MLXONE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / f"mlxone-{os.geteuid()}").touch()
    monkeypatch.setattr(device, "ask", lambda: Told({"kind": "cpu"}))
    result = run("--offline")
    assert result.code == 1 and "is not a private folder of this user\tset HOME, or MLXONE_HOME" in result.out
