from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mlxone.cli.chat_commands import Leave, Send, Talk, interpret, write_whole
from mlxone.cli.conversation import Conversation
from mlxone.core.errors import MlxoneError, UsageError
from mlxone.core.words import Message, Stats
from tests.fakes import ScriptedAdapters


class Desk:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.answer = False
        self.edited: str | None = None
        self.offered: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def agrees(self, question: str) -> bool:
        self.said.append(question)
        return self.answer

    def edit(self, text: str) -> str:
        self.offered.append(text)
        return text if self.edited is None else self.edited


@pytest.fixture
def talk() -> Talk:
    turns = [Message("user", "q"), Message("assistant", "a")]
    return Talk(Desk(), "m", Conversation("s", turns))


@pytest.mark.parametrize(
    ("line", "sent"),
    [("hi", "hi"), ("//hi", "/hi"), ("a /help", "a /help"), (" /help", " /help"), ("//", "/")],
)
def test_text_is_sent(talk, line, sent):
    assert interpret(line, talk) == Send(sent)


@pytest.mark.parametrize("line", ["/", "/usr/bin", "/nonsense", "/helpp"])
def test_an_unknown_command_has_a_hint(talk, line):
    with pytest.raises(UsageError) as caught:
        interpret(line, talk)
    assert caught.value.hint


def test_exit(talk):
    assert interpret("/exit", talk) == Leave()


def test_adapters(talk):
    interpret("/adapter", talk)
    assert talk.desk.said.pop() == "no adapter was given"
    adapters = ScriptedAdapters()
    for id in ("a", "b"):
        adapters.mount(id, Path(id))
    talk.mounts, talk.adapter = adapters.mounts, "a+b"
    for line, chosen in (
        ("/adapter", "a+b"),
        ("/adapter b", "b"),
        ("/adapter none", "none"),
        ("/adapter a+b", "a+b"),
    ):
        interpret(line, talk)
        assert talk.adapter == chosen
        assert talk.desk.said.pop() == f"adapter: {chosen} (there are a, b and none)"
    for line in ("/adapter c", "/adapter a+a", "/adapter a b"):
        with pytest.raises(MlxoneError):
            interpret(line, talk)
        assert talk.adapter == "a+b"


def test_system(talk):
    interpret("/system", talk)
    assert talk.desk.said == ["s"]
    interpret("/system  Be brief ", talk)
    assert talk.conversation.system == "Be brief"
    interpret("/system -", talk)
    assert talk.conversation.system is None
    interpret("/system", talk)
    assert talk.desk.said[-1] == "no system message"


@pytest.mark.parametrize("command", ["/file", "/save", "/load"])
def test_a_command_that_needs_a_name(talk, command):
    with pytest.raises(UsageError, match=f"{command} needs a file name"):
        interpret(command, talk)


def test_edit_offers_the_last_question_and_replaces_it(talk):
    talk.desk.edited = "better"
    assert interpret("/edit", talk) == Send("better")
    assert talk.desk.offered == ["q"]
    assert talk.conversation.turns == []


def test_edit_new_offers_nothing_and_replaces_nothing(talk):
    talk.desk.edited = "fresh"
    assert interpret("/edit new", talk) == Send("fresh")
    assert talk.desk.offered == [""]
    assert len(talk.conversation.turns) == 2


@pytest.mark.parametrize("edited", [None, "", " \n"])
def test_an_edit_that_changes_nothing_does_nothing(talk, edited):
    talk.desk.edited = edited
    assert interpret("/edit", talk) is None
    assert len(talk.conversation.turns) == 2


def test_save_asks_before_it_overwrites(talk, tmp_path):
    path = tmp_path / "t"
    path.write_text("precious")
    interpret(f"/save {path}", talk)
    assert path.read_text() == "precious"
    talk.desk.answer = True
    interpret(f"/save {path}", talk)
    assert '"q"' in path.read_text()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "t"
    path.write_text("precious")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "precious"
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="irectory"):
        write_whole(folder, "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "t"]
    assert stat.S_ISDIR(folder.stat().st_mode)


def test_a_load_that_fails_changes_nothing(talk, tmp_path):
    (tmp_path / "t").write_text("{}")
    before = talk.conversation
    with pytest.raises(UsageError):
        interpret(f"/load {tmp_path}/t", talk)
    assert talk.conversation is before


def test_load_names_another_model(talk, tmp_path):
    (tmp_path / "t").write_text(Conversation().to_json("other"))
    interpret(f"/load {tmp_path}/t", talk)
    assert talk.desk.said[-1] == "they were held with other, this is m"
    assert talk.conversation == Conversation()


def test_stats_add_up(talk):
    interpret("/stats", talk)
    talk.answers = [Stats(prompt_tokens=10, generated_tokens=1), Stats(20, 5, generated_tokens=2)]
    interpret("/stats", talk)
    assert talk.desk.said[0] == "no answer yet"
    assert talk.desk.said[-1] == "this chat: 2 answers, 25 tokens read, 3 written"
