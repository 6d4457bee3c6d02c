from __future__ import annotations

import json

import pytest

from mlxone.cli.conversation import Conversation, from_json
from mlxone.core.errors import UsageError
from mlxone.core.words import Message

Q, A = Message("user", "q"), Message("assistant", "a")


def test_turns():
    talk = Conversation(system="s")
    talk.ask("q")
    talk.answered("a")
    assert talk.messages() == (Message("system", "s"), Q, A)
    assert talk.last_question() == "q"
    assert talk.take_back() == "q"
    assert talk.messages() == (Message("system", "s"),)
    assert talk.take_back() is None
    assert talk.last_question() is None


def test_a_question_without_an_answer_goes():
    talk = Conversation(turns=[Q, A])
    talk.ask("again")
    talk.answered("")
    assert talk.turns == [Q, A]


def test_an_attachment_waits_for_a_message_that_is_answered():
    talk = Conversation(attached=["file\n"])
    for answer in ("", "a"):
        talk.ask("q")
        assert talk.turns == [Message("user", "file\n\nq")]
        talk.answered(answer)
    talk.ask("q")
    assert talk.turns[-1] == Q


def test_reset_keeps_the_system_message():
    talk = Conversation("s", [Q, A], ["x"])
    talk.reset()
    assert talk == Conversation("s")


@pytest.mark.parametrize("talk", [Conversation(), Conversation("s", [Q, A]), Conversation("", [Q, A, Q, A])])
def test_a_saved_conversation_is_the_same_when_loaded(talk):
    assert from_json(talk.to_json("m"), "f") == (talk, "m")


def message(role: object, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], 'there is no list "messages"'),
        ({"messages": {}}, 'there is no list "messages"'),
        ({"messages": [], "system": 5}, '"system" is not a text'),
        ({"messages": [message("assistant", "a")]}, 'message 1 is not of the role "user"'),
        (
            {"messages": [message("user", "a"), message("user", "b")]},
            'message 2 is not of the role "assistant"',
        ),
        ({"messages": [message("user", ["a"])]}, 'message 1 has no text as "content"'),
        ({"messages": ["a"]}, "message 1 is not of the role"),
        ({"messages": [message("user", "a")]}, "its last message has no answer"),
        ({"messages": [], "system": "\ud800"}, "not valid UTF-8"),
    ],
)
def test_what_is_no_saved_conversation(data, says):
    with pytest.raises(UsageError) as caught:
        from_json(json.dumps(data), "talk.json")
    assert says in caught.value.message
    assert "talk.json" in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "not"])
def test_what_is_no_json(text):
    with pytest.raises(UsageError, match=r"^talk.json is not JSON"):
        from_json(text, "talk.json")
