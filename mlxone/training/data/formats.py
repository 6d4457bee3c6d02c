"""The four shapes of training data: how a row's shape is recognised, what makes it bad, and its turns.

A checked row has our own key names only: `messages` | `prompt` + `completion` | `text` |
`chosen` + `rejected` (+ `prompt`), and `tools` where a conversation has some. Knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from mlxone.core.amounts import first_of
from mlxone.core.errors import UsageError
from mlxone.training.data.rows import BadRow

Format = Literal["messages", "completion", "text", "preference"]
Turns = list[dict[str, Any]]

# A row is what it has the keys for, the first that fits; a preference may have a prompt as well.
KEYS: dict[Format, tuple[str, ...]] = {
    "preference": ("chosen", "rejected"),
    "completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
}
FEATURES = {  # mlx_lm's names for settings that name a row's keys
    "prompt_feature": "prompt",
    "completion_feature": "completion",
    "text_feature": "text",
    "chat_feature": "messages",
}
KNOWN = ("messages", "prompt", "completion", "text", "chosen", "rejected", "tools")
PARTNERS = (
    ("rejected", "chosen"),
    ("chosen", "rejected"),
    ("prompt", "completion"),
    ("completion", "prompt"),
)
OTHER_NAMES = "`--prompt-feature`, `--text-feature` and their like say what the rows call theirs"
REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True)
class Names:
    """Our key -> the key in the files."""

    of: Mapping[str, str]

    @classmethod
    def given(cls, features: Mapping[str, str] | None) -> Names:
        names = {key: key for key in KNOWN}
        for feature, name in (features or {}).items():
            if feature not in FEATURES:
                known = ", ".join(FEATURES)
                raise UsageError(
                    f"{feature} is no feature of a row", hint=f"known are {known}", param=feature
                )
            if not isinstance(name, str) or not name:
                raise UsageError(f"{feature} must name a key of the rows", param=feature)
            names[FEATURES[feature]] = name
        return cls(names)

    def renamed(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Only what is known, under our names. A key without a value counts as none: tables have those."""
        return {key: value[name] for key, name in self.of.items() if value.get(name) is not None}

    @property
    def asked_for(self) -> str:
        own = {key: f"`{name}`" for key, name in self.of.items()}
        return (
            f"{own['messages']}, {own['prompt']} and {own['completion']}, {own['text']}, "
            f"or {own['prompt']}, {own['chosen']} and {own['rejected']}"
        )

    def unused(self, value: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
        """What a file's row has beside what was taken from it."""
        taken = {self.of[key] for key in row}
        return [str(name) for name, there in value.items() if name not in taken and there is not None]

    def unknown(self, value: Mapping[str, Any]) -> list[str]:
        return [name for name in value if name not in self.of.values()]


def detect(value: Mapping[str, Any]) -> Format | None:
    return next((format for format in KEYS if fits(value, format)), None)


def fits(value: Mapping[str, Any], format: Format) -> bool:
    return all(key in value for key in KEYS[format])


def unrecognised(value: Mapping[str, Any], names: Names) -> BadRow:
    """A row that is none of the four; says which key is missing, or probably misspelt."""
    if not value:
        return BadRow("empty row", "the row is empty")
    known = names.renamed(value)
    lacks = next((lack for has, lack in PARTNERS if has in known and lack not in known), None)
    wanted = [names.of[lacks]] if lacks else [names.of[key] for key in KNOWN if key != "tools"]
    message = f"there is no `{names.of[lacks]}`" if lacks else f"no key that is read ({names.asked_for})"
    if near := _near(value, wanted, names):
        return BadRow("wrong keys", message + near)
    only = ", only " + first_of([f"`{_short(key)}`" for key in value])
    return BadRow("wrong keys", message + only, "" if lacks in KEYS["preference"] else OTHER_NAMES)


def _near(value: Mapping[str, Any], wanted: list[str], names: Names) -> str:
    for key in names.unknown(value):
        close = get_close_matches(str(key).lower(), wanted, n=1, cutoff=0.7)
        if close:
            return f": its `{_short(key)}`, did you mean `{close[0]}`?"
    empty = [name for name in wanted if name in value]
    return f": its `{empty[0]}` is null" if empty else ""


def _short(key: object) -> str:
    text = str(key)
    return text if len(text) <= 40 else text[:39] + "…"


def checked(value: Mapping[str, Any], format: Format) -> dict[str, Any]:
    """The row with what its format needs and nothing else; raises BadRow."""
    row = {key: value[key] for key in KEYS[format]}
    if format == "text":
        _check_text("text", row["text"])
        return row
    if format == "messages":
        _check_turns("messages", row["messages"])
    elif format == "completion":
        row |= {"prompt": value["prompt"]}
        _check_side("prompt", row["prompt"], may_be_empty=True)
        _check_side("completion", row["completion"])
    else:
        row |= {"prompt": value["prompt"]} if "prompt" in value else {}
        _check_preference(row)
    if "tools" in value:
        row["tools"] = _checked_tools(value["tools"])
    return row


def turns(row: Mapping[str, Any], format: Format) -> Turns:
    """The conversation of a checked row that is no plain text and no preference."""
    if format == "messages":
        return _joined_parts(row["messages"])
    return _side(row["prompt"], "user") + _side(row["completion"], "assistant")


def both_turns(row: Mapping[str, Any]) -> tuple[Turns, Turns]:
    """A checked preference's two conversations: as it should go, and as it should not."""
    if "prompt" not in row or _is_whole(row["chosen"]):
        return _joined_parts(row["chosen"]), _joined_parts(row["rejected"])
    prompt = _side(row["prompt"], "user")
    return prompt + _side(row["chosen"], "assistant"), prompt + _side(row["rejected"], "assistant")


def _check_preference(row: Mapping[str, Any]) -> None:
    for key in ("chosen", "rejected"):
        _check_side(key, row[key])
        if isinstance(row[key], list) and row[key][-1]["role"] != "assistant":
            raise BadRow("no answer", f"`{key}` does not end with an assistant message")
    if _is_whole(row["chosen"]) != _is_whole(row["rejected"]):
        raise BadRow("unlike answers", "one of `chosen` and `rejected` is a whole conversation, one is not")
    if row["chosen"] == row["rejected"]:
        raise BadRow("same answers", "`chosen` and `rejected` are the same")
    if "prompt" not in row:
        if not _is_whole(row["chosen"]):
            raise BadRow("wrong keys", "`chosen` and `rejected` are only answers, and there is no `prompt`")
        return
    _check_side("prompt", row["prompt"], may_be_empty=True)
    if _is_whole(row["chosen"]):
        _check_begins_with_prompt(row)


def _check_begins_with_prompt(row: Mapping[str, Any]) -> None:
    """Published sets repeat the prompt beside whole conversations; one that says otherwise is a mistake."""
    asked = [(turn["role"], turn.get("content")) for turn in _side(row["prompt"], "user")]
    for key in ("chosen", "rejected"):
        said = [(turn["role"], turn.get("content")) for turn in _joined_parts(row[key])]
        after_system = said[1:] if said[0][0] == "system" else said
        if asked not in (said[: len(asked)], after_system[: len(asked)]):
            raise BadRow("another prompt", f"the conversation in `{key}` does not begin with its `prompt`")


def _is_whole(side: object) -> bool:
    """An answer alone is the assistant's (or its tools') from the first turn on."""
    return isinstance(side, list) and side[0]["role"] not in ("assistant", "tool")


def _check_side(name: str, side: object, *, may_be_empty: bool = False) -> None:
    if isinstance(side, list):
        _check_turns(name, side)
    else:
        _check_text(name, side, may_be_empty=may_be_empty)


def _check_text(name: str, text: object, *, may_be_empty: bool = False) -> None:
    if not isinstance(text, str):
        raise BadRow("not text", f"`{name}` must be text, not {_kind(text)}")
    if not text.strip() and not may_be_empty:
        raise BadRow("empty text", f"`{name}` is empty")


def _check_turns(name: str, messages: object) -> None:
    if not isinstance(messages, list):
        raise BadRow("not a conversation", f"`{name}` must be a list of messages, not {_kind(messages)}")
    if not messages:
        raise BadRow("empty conversation", f"`{name}` is empty: a conversation needs a message")
    for number, message in enumerate(messages, 1):
        where = f"`{name}`, message {number}"
        if not isinstance(message, dict):
            raise BadRow("not a conversation", f"{where} must be an object, not {_kind(message)}")
        _check_message(where, message)


def _check_message(where: str, message: Mapping[str, Any]) -> None:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        near = get_close_matches("role", [str(key) for key in message], n=1)
        seen = "" if "role" in message else f", only {first_of([f'`{_short(key)}`' for key in message])}"
        guess = f" (is `{near[0]}` meant?)" if near and near[0] != "role" else seen
        what = f", but {_kind(role)}" if "role" in message else ""
        raise BadRow("no role", f"{where} has no `role` that is a word{what}{guess}")
    content, calls = message.get("content"), message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise BadRow("bad tool calls", f"{where}: `tool_calls` must be a list of objects")
    if content is None:
        if not calls and not any(isinstance(message.get(key), str) for key in REASONING):
            raise BadRow("no content", f"{where} ({_short(role)}) has no `content`")
    elif isinstance(content, list):
        for part in content:
            _check_part(where, part)
    elif not isinstance(content, str):
        raise BadRow("not text", f"{where}: `content` must be text, not {_kind(content)}")


def _check_part(where: str, part: object) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, dict) else None
        what = f"a part of type {_short(kind)!r}" if isinstance(kind, str) else _kind(part)
        raise BadRow("not text", f"{where}: `content` may have parts of text only, not {what}")


def _checked_tools(tools: object) -> list[dict[str, Any]]:
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("bad tools", f"`tools` must be a list of objects, not {_kind(tools)}")
    return tools


def _side(side: str | Turns, role: str) -> Turns:
    return [{"role": role, "content": side}] if isinstance(side, str) else _joined_parts(side)


def _joined_parts(messages: Turns) -> Turns:
    """Parts of text as one: most templates can only write text, and would print a list as Python does."""
    return [
        {**message, "content": "".join(part["text"] for part in message["content"])}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _kind(value: object) -> str:
    kinds = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value)) or ("a number" if isinstance(value, int | float) else type(value).__name__)
