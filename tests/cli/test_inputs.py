from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from mlxone.cli import inputs
from mlxone.cli.inputs import compose, read_stdin, read_text
from mlxone.core.errors import UsageError


@pytest.mark.parametrize(
    ("files", "prompt", "piped", "expected"),
    [
        ([], None, "", None),
        ([], None, "\n \n", None),
        ([], "hi", "", "hi"),
        ([], None, "hi\n", "hi"),
        ([], None, "hi\r\n", "hi"),
        ([], None, "hi\n\n", "hi\n"),
        ([], "Summarise:", "notes\n", "Summarise:\n\nnotes"),
        (["a"], "hi", "", "a\n\nhi"),
        (["a\n"], "hi", "", "a\n\nhi"),
        (["a\n\n\n"], "hi", "", "a\n\n\nhi"),
        (["a\n", "b"], "hi", "c", "a\n\nb\n\nhi\n\nc"),
        (["  a"], None, "", "  a"),
        ([""], "hi", "", "hi"),
    ],
)
def test_compose(files, prompt, piped, expected):
    assert compose(files, prompt, piped) == expected


def stdin(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), encoding="ascii")


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", ""), ("é\n".encode(), "é\n"), (b"\xef\xbb\xbfhi", "hi"), (b"a\r\nb", "a\r\nb")],
)
def test_stdin(monkeypatch, data, expected):
    monkeypatch.setattr(sys, "stdin", stdin(data))
    assert read_stdin(pytest.fail) == expected


def test_a_closed_stdin_holds_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert read_stdin(pytest.fail) == ""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"caf\xe9 au lait", "stdin is not UTF-8 (byte 0xe9 at offset 3)"),
        (b"ab\0", "stdin is not a text (byte 0 at offset 2)"),
        (b"x" * 101, "stdin holds more than"),
    ],
)
def test_what_stdin_may_not_hold(monkeypatch, data, says):
    monkeypatch.setattr(inputs, "MAX_BYTES", 100)
    monkeypatch.setattr(sys, "stdin", stdin(data))
    with pytest.raises(UsageError) as caught:
        read_stdin(pytest.fail)
    assert caught.value.message.startswith(says)


def test_a_silent_pipe_is_mentioned_and_waited_for(monkeypatch):
    ours, theirs = os.pipe()
    monkeypatch.setattr(inputs, "PATIENCE", 0.0)
    said = []

    def notice(text: str) -> None:
        said.append(text)
        os.write(theirs, b"late")
        os.close(theirs)

    with open(ours) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert read_stdin(notice) == "late"
    assert len(said) == 1
    assert "stdin" in said[0]


def test_a_file_is_taken_as_it_is(tmp_path: Path):
    (tmp_path / "n.txt").write_bytes(b"\n one\r\ntwo \n\n")
    assert read_text(str(tmp_path / "n.txt"), shown_as="--file") == "\n one\r\ntwo \n\n"


def test_what_cannot_be_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_BYTES", 100)
    (tmp_path / "bin").write_bytes(b"\x00\x01")
    (tmp_path / "big").write_bytes(b"x" * 101)
    wrong = {
        "none": "no such file",
        "": "is a folder",
        "bin": "is not a text",
        "big": "holds more than",
        "a\0": "",
    }
    for name, says in wrong.items():
        with pytest.raises(UsageError, match="--file") as caught:
            read_text(os.path.join(tmp_path, name), shown_as="--file")
        assert says in caught.value.message
