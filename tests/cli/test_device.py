"""`mlxone device`: for our own processes, so it answers in JSON and no help lists it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from mlxone.backend import probe
from mlxone.cli.group import HIDDEN, VERBS, group
from mlxone.cli.main import main
from mlxone.fitting import host
from mlxone.fitting.host import Host

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def test_it_prints_one_json_object(capsys: pytest.CaptureFixture[str]):
    assert main(["device"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert printed.err == "" and printed.out.count("\n") == 1
    assert found["kind"] in ("apple", "cuda", "cpu")
    assert {k: v for k, v in found.items() if k != "free_bytes"} == {
        k: v for k, v in probe.facts().items() if k != "free_bytes"
    }


def test_another_process_of_ours_understands_it():
    found = host.device_facts(Host())
    assert found is not None
    assert found["kind"] == probe.facts()["kind"]


def test_it_takes_nothing(capsys: pytest.CaptureFixture[str]):
    assert main(["device", "extra"]) == 2
    assert main(["device", "--json"]) == 2


def test_no_list_shows_it(capsys: pytest.CaptureFixture[str]):
    assert set(HIDDEN) == {"device"} and not set(HIDDEN) & set(VERBS)
    assert main(["--help"]) == 0 and main([]) == 0
    assert not re.search(r"\bdevice\b", capsys.readouterr().out)
    assert group.list_commands(click.Context(group)) == list(VERBS)  # what completion offers
    assert "mlxone device" not in DOCS.read_text()
    # Nor is it what a typing error meant.
    assert main(["devices"]) == 2
    assert "did you mean" not in capsys.readouterr().err
