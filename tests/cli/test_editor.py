from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mlxone.cli.editor import edit, editor_command
from mlxone.core.errors import UsageError


def script(folder: Path, body: str) -> dict[str, str]:
    path = folder / "an editor"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return {"EDITOR": f"'{path}' --wait"}


def test_the_text_goes_there_and_back(tmp_path):
    environ = script(
        tmp_path, 'test "$1" = --wait && cat "$2" >> "$2.new" && echo two >> "$2.new" && mv "$2.new" "$2"'
    )
    assert edit("öne\n", environ) == "öne\ntwo"


def test_visual_comes_first():
    assert editor_command({"VISUAL": "a -b", "EDITOR": "c"}) == ["a", "-b"]
    assert editor_command({"VISUAL": "", "EDITOR": "c"}) == ["c"]
    assert editor_command({}) == ["vi"]


@pytest.mark.parametrize("named", ["'open", "  "])
def test_a_command_that_cannot_be_read(named):
    with pytest.raises(UsageError, match="VISUAL or EDITOR"):
        editor_command({"EDITOR": named})


def test_an_editor_that_fails(tmp_path):
    with pytest.raises(UsageError, match="ended with code 3"):
        edit("x", script(tmp_path, "exit 3"))
    with pytest.raises(UsageError, match="cannot start the editor '/nowhere/ed'"):
        edit("x", {"EDITOR": "/nowhere/ed"})


def test_a_text_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="the edited message"):
        edit("x", script(tmp_path, 'printf "\\377" > "$2"'))


def test_ctrl_c_belongs_to_the_editor_while_it_runs(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    edit("x", script(tmp_path, "kill -INT $PPID"))
    assert signal.getsignal(signal.SIGINT) is before
