"""A model's chat template: which one, from where, and the prompt it makes of a conversation.

Looked for in `chat_template.jinja`, then in `tokenizer_config.json`, then in `chat_template.json`;
`additional_chat_templates/` adds named ones. A template is compiled when it is first used, so a
broken one is no obstacle to someone who does not use it. Jinja is not imported before that either.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxone.core.errors import DamagedModel, TemplateError, UsageError
from mlxone.text.files import read_object, read_text

if TYPE_CHECKING:
    from mlxone.text.environment import Compiled
    from mlxone.text.tokenizer import Tokenizer

TEMPLATE_LIMIT = 16 * 1024 * 1024
DEFAULT = "default"
REASONING = ("reasoning_content", "thinking", "reasoning")  # what a message's reasoning is called, best first
# Put behind the text to continue; the space at its end shows whether the template trims. Plain
# letters: some templates print a list of parts as Python does, and any other sign would be escaped.
OPEN_END = "OPEN_END_OF_THE_LAST_MESSAGE "

Sources = Mapping[str, tuple[str, str]]  # a template's name: its text, and what errors call it


class ChatTemplate:
    def __init__(
        self,
        source: str | Sources,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        name: str = "the chat template",
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._sources = {DEFAULT: (source, name)} if isinstance(source, str) else dict(source)
        named = dict(special_tokens or {}) | {"bos_token": bos_token, "eos_token": eos_token}
        # A token the model does not have stays undefined: templates ask `is defined`.
        self._special_tokens = {key: text for key, text in named.items() if text is not None}
        self._compiled: dict[str, Compiled] = {}

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        sources = _find(Path(folder))
        return cls._with_tokens(sources, tokenizer, name=str(folder)) if sources else None

    @classmethod
    def from_file(cls, path: str | Path, tokenizer: Tokenizer) -> ChatTemplate:
        if not os.path.exists(path) or os.path.isdir(path):  # a pipe is as good as a file
            raise UsageError(f"no chat template at {path}", hint="name a file that holds a Jinja template")
        return cls._with_tokens(_read(Path(path)), tokenizer, name=str(path))

    @classmethod
    def _with_tokens(cls, source: str | Sources, tokenizer: Tokenizer, *, name: str) -> ChatTemplate:
        return cls(
            source,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            name=name,
            special_tokens=tokenizer.special_tokens,
        )

    @property
    def source(self) -> str:
        """The text of the template that a plain conversation goes through."""
        return self._sources[self._choose(None, None)][0]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **values: Any,
    ) -> str:
        """The prompt. `continue_final_message` leaves the last message open: no prompt for a new one."""
        for what, items in (("message", messages), ("tool", tools), ("document", documents)):
            _check_objects(what, items)
        if not messages:
            raise UsageError("a conversation needs at least one message")
        chat = [_turn(message) for message in messages]
        if continue_final_message:
            chat[-1] = _opened(chat[-1])
        text = self._template(tools, documents).render(
            {
                **self._special_tokens,
                **values,
                "messages": chat,
                "tools": tools,
                "documents": documents,
                "add_generation_prompt": add_generation_prompt and not continue_final_message,
            }
        )
        return self._cut(text) if continue_final_message else text

    def _template(self, tools: object, documents: object) -> Compiled:
        from mlxone.text.environment import Compiled

        chosen = self._choose(tools, documents)
        if chosen not in self._compiled:
            self._compiled[chosen] = Compiled(*self._sources[chosen])
        return self._compiled[chosen]

    def _choose(self, tools: object, documents: object) -> str:
        if tools is not None and "tool_use" in self._sources:
            return "tool_use"
        if documents is not None and "rag" in self._sources:
            return "rag"
        if DEFAULT in self._sources:
            return DEFAULT
        if len(self._sources) == 1:
            return next(iter(self._sources))
        names = ", ".join(sorted(self._sources))
        raise TemplateError(f"{self.name} has no default chat template, only {names}")

    def _cut(self, text: str) -> str:
        mark = OPEN_END.rstrip()
        if mark not in text:
            raise TemplateError(f"{self.name}: the template leaves out the end of the message to continue")
        before, _, behind = text.rpartition(mark)
        # A template that trims would have trimmed the text itself, had the mark not stood behind it.
        return before if behind.startswith(" ") else before.rstrip()


def _check_objects(what: str, items: object) -> None:
    if items is None:
        return
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise UsageError(f"{what}s must be a list, not {type(items).__name__}")
    for at, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise UsageError(f"{what} {at + 1} must be an object with fields, not {type(item).__name__}")


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: no empty fields, reasoning under the names they read."""
    turn = {key: value for key, value in message.items() if value is not None}
    reasoning = next((turn[key] for key in REASONING if key in turn), None)
    if reasoning is not None:
        turn = {"thinking": reasoning, **turn, "reasoning_content": reasoning}
    return turn


def _opened(turn: dict[str, Any]) -> dict[str, Any]:
    content = turn.get("content")
    if isinstance(content, str):
        return {**turn, "content": content + OPEN_END}
    if isinstance(content, Sequence):
        for at in reversed(range(len(content))):
            part = content[at]
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                marked = {**part, "text": part["text"] + OPEN_END}
                return {**turn, "content": [*content[:at], marked, *content[at + 1 :]]}
    raise UsageError("the message to continue has no text")


def _find(folder: Path) -> Sources:
    extra = folder / "additional_chat_templates"
    found = {path.stem: (_read(path), str(path)) for path in sorted(extra.glob("*.jinja")) if path.is_file()}
    first = folder / "chat_template.jinja"
    if first.is_file():
        return found | {DEFAULT: (_read(first), str(first))}
    for path in (folder / "tokenizer_config.json", folder / "chat_template.json"):
        templates = _named(read_object(path).get("chat_template"), path)
        if templates:
            return found | {name: (text, f"{path} {_called(name)}") for name, text in templates.items()}
    return found


def _called(name: str) -> str:
    return "(chat_template)" if name == DEFAULT else f"(chat_template {name!r})"


def _named(value: object, path: Path) -> dict[str, str]:
    """A config's `chat_template`: one text, or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    named = dict(value) if isinstance(value, dict) else {}
    for entry in value if isinstance(value, list) else []:
        named |= {entry.get("name"): entry.get("template")} if isinstance(entry, dict) else {None: None}
    if not named or not all(isinstance(part, str) for pair in named.items() for part in pair):
        raise TemplateError(f"{path}: chat_template is neither a template nor a list of named ones")
    return named


def _read(path: Path) -> str:
    try:
        return read_text(path, TEMPLATE_LIMIT)
    except DamagedModel as error:
        raise TemplateError(error.message) from error
