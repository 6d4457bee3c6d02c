"""The pages that are written by the program, and the table of verbs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mlxone.cli.group import VERBS, group

TOOL = Path(__file__).parents[2] / "tools" / "gen_docs.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("gen_docs", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_up_to_date(tool, capsys):
    assert tool.main(["--check"]) == 0, capsys.readouterr().err


def test_check_notices_and_writing_repairs(tool, tmp_path, capsys):
    assert tool.main(["--check"], tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    assert tool.main([], tmp_path) == 0
    assert tool.main(["--check"], tmp_path) == 0
    (tmp_path / "cli.md").write_text("old")
    assert tool.main(["--check"], tmp_path) == 1
    assert tool.main(["--nonsense"], tmp_path) == 2


@pytest.mark.parametrize("name", VERBS)
def test_the_summary_in_the_table_is_the_verbs_own(name):
    command = group.get_command(None, name)
    assert command.name == name
    assert command.help.splitlines()[0] == VERBS[name].summary
