"""A conversation as a value: its turns, what is attached to the next one, its form in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from mlxone.cli import inputs
from mlxone.core.errors import UsageError
from mlxone.core.words import Message

FORMAT = "mlxone-chat"
ROLES = ("user", "assistant")


@dataclass(slots=True)
class Conversation:
    system: str | None = None
    turns: list[Message] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)  # file texts that go before the next message

    def messages(self) -> tuple[Message, ...]:
        opening = [] if self.system is None else [Message("system", self.system)]
        return (*opening, *self.turns)

    def ask(self, text: str) -> None:
        self.turns.append(Message("user", inputs.compose(self.attached, text, "") or text))

    def answered(self, text: str) -> None:
        """What was said, even if cut short, counts; a question nobody answered goes."""
        if text:
            self.turns.append(Message("assistant", text))
            self.attached = []
        else:
            self.take_back()

    def take_back(self) -> str | None:
        """Removes the last question and what came after it; its text, or None if there is none."""
        while self.turns:
            turn = self.turns.pop()
            if turn.role == "user":
                return str(turn.content)
        return None

    def last_question(self) -> str | None:
        questions = [str(turn.content) for turn in self.turns if turn.role == "user"]
        return questions[-1] if questions else None

    def reset(self) -> None:
        self.turns, self.attached = [], []

    def to_json(self, model: str) -> str:
        turns = [{"role": turn.role, "content": turn.content} for turn in self.turns]
        whole = {"format": FORMAT, "model": model, "system": self.system, "messages": turns}
        return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


def from_json(text: str, name: str) -> tuple[Conversation, str | None]:
    """The conversation of a saved file, and the model it was held with."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON: {error}", hint="/save writes what /load reads") from None
    if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
        raise _not_saved(name, 'there is no list "messages"')
    system, model = data.get("system"), data.get("model")
    if not isinstance(system, str | None):
        raise _not_saved(name, '"system" is not a text')
    turns = [_turn(turn, number, name) for number, turn in enumerate(data["messages"])]
    if len(turns) % 2:
        raise _not_saved(name, "its last message has no answer")
    for part in (system, *(str(turn.content) for turn in turns)):
        inputs.encodable(part, shown_as=f"the text in {name}")
    return Conversation(system, turns), model if isinstance(model, str) else None


def _turn(turn: Any, number: int, name: str) -> Message:
    expected = ROLES[number % 2]  # templates demand that the two alternate
    if not isinstance(turn, dict) or turn.get("role") != expected:
        raise _not_saved(name, f'message {number + 1} is not of the role "{expected}"')
    if not isinstance(turn.get("content"), str):
        raise _not_saved(name, f'message {number + 1} has no text as "content"')
    return Message(expected, turn["content"])


def _not_saved(name: str, why: str) -> UsageError:
    return UsageError(f"{name} is not a saved conversation: {why}", hint="/save writes what /load reads")
