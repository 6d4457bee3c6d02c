"""A chat, driven through a pseudo-terminal as a person would."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import signal
import stat
import struct
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


class Person:
    """Types at a chat and reads what it shows."""

    def __init__(self, folder: Path, args: tuple[str, ...], script: dict, env: dict[str, str]) -> None:
        self._script = folder / "script.json"
        self._script.write_text(json.dumps(script))
        self._env = {"TERM": "xterm", "SCRIPT": str(self._script), **env}
        self._seen = ""
        self._args = args
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            self._become_mlxone()
        ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def _become_mlxone(self) -> None:
        try:
            os.chdir(ROOT)
            os.environ.update(self._env)
            os.execv(sys.executable, [sys.executable, "-m", "tests.cli.stage", *self._args])
        finally:
            os._exit(99)

    def types(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def reads(self, wanted: str) -> str:
        """Waits for the words and returns what came up to them; what follows stays to be read."""
        while wanted not in self._seen:
            if not self._more():
                pytest.fail(f"{wanted!r} never came, only {self._seen!r}")
        before, _, self._seen = self._seen.partition(wanted)
        return before

    def interrupts(self) -> None:
        """Ctrl-C, once the chat is waiting: one that comes while Python is on its way into readline
        is noticed with the next key only."""
        state = Path(f"/proc/{self._pid}/stat")
        while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.005)
        self.types(CTRL_C)

    def says(self, line: str) -> None:
        """A line at the prompt."""
        self.reads("> ")
        self.types(line + "\r")

    def leaves(self) -> int:
        self.reads("> ")
        self.types(CTRL_D)
        return self.ended()

    def ended(self) -> int:
        while self._more():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def asked(self) -> list[list[dict]]:
        """What the model was asked, known once the chat has ended."""
        return json.loads(Path(f"{self._script}.asked").read_text())

    def _more(self) -> bool:
        if not select.select([self._terminal], [], [], 20)[0]:
            pytest.fail(f"nothing more came after {self._seen!r}")
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # how Linux reports that the other side is gone
            return False
        self._seen = ESCAPE.sub("", self._seen + self._utf8.decode(data)).replace("\r", "")
        return bool(data)

    def gone(self) -> None:
        try:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self._terminal)


@pytest.fixture
def chat(tmp_path: Path) -> Iterator:
    people: list[Person] = []

    def sit_down(*args: str, answers: list[str] | None = None, prompt_tokens: int = 7, **env: str) -> Person:
        script = {"answers": answers or ["Paris."], "prompt_tokens": prompt_tokens}
        people.append(Person(tmp_path, ("run", *args), script, env))
        return people[-1]

    yield sit_down
    for person in people:
        person.gone()


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_adapters_are_chosen_between_two_messages(chat, tmp_path):
    for name in ("upper", "json"):
        (tmp_path / name).mkdir()
    person = chat("--adapter", f"{tmp_path}/upper", "--adapter", f"j={tmp_path}/json")
    person.says("one")
    for line, shown in (
        ("/adapter j", "adapter: j (there are upper, j and none)"),
        ("/adapter none", "none ("),
    ):
        person.says(line)
        person.reads(shown)
        person.says("more")
    person.says("/adapter x")
    person.reads("no adapter 'x' is mounted")
    assert person.leaves() == 0
    assert json.loads(Path(f"{tmp_path}/script.json.adapters").read_text()) == ["upper+j", "j", "none"]


def test_a_conversation(chat):
    person = chat("--system", "Be brief", answers=["Paris.", "Rome."])
    person.says("France?")
    person.reads("Paris.")
    person.says("Italy?")
    person.reads("Rome.")
    assert person.leaves() == 0
    system = {"role": "system", "content": "Be brief"}
    assert person.asked() == [
        [system, user("France?")],
        [system, user("France?"), assistant("Paris."), user("Italy?")],
    ]


def test_several_lines(chat):
    person = chat()
    person.says("one\\")
    person.reads("… ")
    person.types("two\r")
    person.reads("Paris.")
    person.says('"""')
    for line in ("/first", "second", '"""'):
        person.reads("… ")
        person.types(line + "\r")
    person.reads("Paris.")
    assert person.leaves() == 0
    assert [turn[-1]["content"] for turn in person.asked()] == ["one\ntwo", "/first\nsecond"]


def test_a_paste_of_several_lines_is_one_message(chat):
    person = chat()
    person.says("\x1b[200~first\rsecond\x1b[201~")
    person.reads("Paris.")
    assert person.leaves() == 0
    assert person.asked() == [[user("first\nsecond")]]


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(chat):
    person = chat(answers=["Half an ans…", "Yes."])
    person.says("long?")
    person.reads("Half an ans")
    person.types(CTRL_C)
    person.reads("[stopped]")
    person.says("more?")
    person.reads("Yes.")
    assert person.leaves() == 0
    assert person.asked()[1] == [user("long?"), assistant("Half an ans"), user("more?")]


def test_ctrl_c_before_the_first_word_takes_the_question_back(chat):
    person = chat(answers=["…", "Yes."], prompt_tokens=1000)
    person.says("long?")
    person.reads("reading the prompt: 1,000 of 1,000 tokens")
    person.types(CTRL_C)
    person.reads("[stopped]")
    person.says("more?")
    person.reads("Yes.")
    assert person.leaves() == 0
    assert person.asked()[1] == [user("more?")]


def test_ctrl_c_at_the_prompt_clears_the_line_and_twice_says_how_to_leave(chat):
    person = chat()
    person.reads("> ")
    person.types("half a line")
    person.reads("half a line")
    person.interrupts()
    assert "/exit" not in person.reads("> ")
    person.interrupts()
    person.reads("(/exit or Ctrl-D ends the chat)")
    person.says("hi")
    person.reads("Paris.")
    person.reads("> ")
    person.interrupts()
    assert "/exit" not in person.reads("> ")
    person.types("/exit\r")
    assert person.ended() == 0
    assert person.asked() == [[user("hi")]]


def test_a_failed_turn_is_one_line_and_is_forgotten(chat):
    person = chat(answers=["!the prompt is too long", "Yes."])
    person.says("a book")
    person.reads("mlxone: the prompt is too long (shorten it)\n")
    person.says("a word")
    person.reads("Yes.")
    assert person.leaves() == 0
    assert person.asked()[1] == [user("a word")]


def test_save_and_load(chat, tmp_path):
    saved = tmp_path / "my talk.json"
    person = chat("--system", "Be brief")
    person.says("France?")
    person.reads("Paris.")
    person.says(f"/save {saved}")
    person.reads("saved 2 messages")
    person.says(f"/save {saved}")
    person.reads("Overwrite it? [y/N]")
    person.types("n\r")
    person.reads("not saved")
    person.says(f"/save {saved}")
    person.reads("Overwrite it? [y/N]")
    person.types(CTRL_D)
    person.reads("not saved")
    person.says("/reset")
    person.says("new?")
    person.reads("Paris.")
    person.says(f'/load "{saved}"')
    person.reads("loaded 2 messages")
    person.says("and?")
    person.reads("Paris.")
    assert person.leaves() == 0
    assert json.loads(saved.read_text()) == {
        "format": "mlxone-chat",
        "model": "scripted",
        "system": "Be brief",
        "messages": [user("France?"), assistant("Paris.")],
    }
    assert [[m["content"] for m in turn] for turn in person.asked()[1:]] == [
        ["Be brief", "new?"],
        ["Be brief", "France?", "Paris.", "and?"],
    ]


def test_files_the_editor_and_slashes(chat, tmp_path):
    (tmp_path / "n.txt").write_text("notes\n")
    editor = tmp_path / "my editor"
    editor.write_text('#!/bin/sh\nsed -i.bak s/France/Italy/ "$1"\n')
    editor.chmod(0o755)
    person = chat(EDITOR=f"'{editor}'", VISUAL="")
    person.says(f"/file {tmp_path}/n.txt")
    person.reads("6 characters go before your next message")
    person.says("France?")
    person.reads("Paris.")
    person.says("/edit")
    person.reads("Paris.")
    person.says("//etc/passwd?")
    person.reads("Paris.")
    person.says("/etc/passwd?")
    person.reads("no such command: /etc/passwd? (/help lists them")
    person.says("/sytem x")
    person.reads("did you mean /system?")
    person.says("/stats")
    person.reads("this chat: 3 answers")
    person.says("/help")
    person.reads("/load FILE")
    assert person.leaves() == 0
    assert person.asked() == [
        [user("notes\n\nFrance?")],
        [user("notes\n\nItaly?")],
        [user("notes\n\nItaly?"), assistant("Paris."), user("/etc/passwd?")],
    ]


def test_history_is_kept_across_sessions_and_private(chat, home):
    first = chat()
    first.says("zero")
    first.reads("Paris.")
    first.says("one\\")
    first.reads("… ")
    first.types("two\r")
    first.reads("Paris.")
    first.says(UP + UP)  # over a message of two lines in one step
    first.reads("Paris.")
    first.says(UP + UP)
    first.reads("Paris.")
    assert first.leaves() == 0
    assert [turn[-1]["content"] for turn in first.asked()][2:] == ["zero", "one\ntwo"]
    kept = home / "mlxone" / "history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    second = chat()
    second.reads("> ")
    second.types(UP + "\r")
    second.reads("Paris.")
    assert second.leaves() == 0
    assert second.asked() == [[user("one\ntwo")]]


def test_a_home_that_cannot_be_written_is_mentioned_once(chat, tmp_path):
    (tmp_path / "file").write_text("")
    person = chat(MLXONE_HOME=str(tmp_path / "file"))
    person.reads("history is not kept")
    person.says("hi")
    assert "history" not in person.reads("Paris.")
    assert person.leaves() == 0


def test_escape_sequences_of_the_model_are_shown_not_obeyed(chat):
    for env in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        person = chat("say", "--model", "m", answers=["a\x1b]0;title\x07b\x9b2J"], **env)
        person.reads("a␛]0;title␇b\ufffd2J")
        assert person.ended() == 0


def test_no_colour_means_plain_text(chat):
    person = chat("say", "--model", "m", answers=["**bold** `x`"], NO_COLOR="1")
    person.reads("**bold** `x`\n")
    assert person.ended() == 0


def test_an_empty_answer_on_a_terminal(chat):
    person = chat("say", "--model", "m", answers=["\n"])
    assert person.ended() == 0


def test_a_raw_answer_is_shown_as_it_is(chat):
    person = chat("--raw", "say", "--model", "m", answers=["**bold**"])
    person.reads("**bold**\n")
    assert person.ended() == 0


def test_markdown_is_rendered_on_a_terminal(chat):
    person = chat("say", "--model", "m", answers=["**bold** `x`\n\n```py\na=1\n```"])
    person.reads("bold x\n")
    assert person.ended() == 0
