"""`mlxone --version`, and with --json what a report of a bug needs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from mlxone import __version__
from mlxone.cli.main import main
from mlxone.core.about import about

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("args", [["--version"], ["--version", "ls"], ["--verbose", "--version"]])
def test_the_version_is_one_line(args: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(args) == 0
    assert capsys.readouterr() == (f"mlxone {__version__}\n", "")


@pytest.mark.parametrize("args", [["--version", "--json"], ["--json", "--version"]])
def test_as_json_it_is_all_of_it(args: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(args) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        "version", "commit", "dirty", "kind", "mlx", "python", "platform", "backend", "executable",
    ]  # fmt: skip
    assert found == asdict(about())


@pytest.mark.parametrize("args", [["--json"], ["--json", "ls"], ["--json", "gc", "--json"]])
def test_json_before_a_verb_is_refused(args: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(args) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "mlxone: --json stands behind the verb (before one it goes only with --version)\n"


def test_as_json_it_loads_neither_mlx_nor_the_hub():
    code = "import sys\nfrom mlxone.cli.main import main\nmain(['--version', '--json'])\nprint(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {name.partition(".")[0] for name in child.stdout.splitlines()[-1].split()}
    assert "click" in loaded and not loaded & {"mlx", "huggingface_hub", "rich"}
