"""What a line of a chat that begins with a slash does."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mlxone.cli import inputs
from mlxone.cli.answers import stats_text
from mlxone.cli.conversation import Conversation, from_json
from mlxone.core.errors import UsageError
from mlxone.core.words import Stats
from mlxone.service.mounts import BASE, Mounts


class Desk(Protocol):
    """The person's side of a chat."""

    def say(self, text: str) -> None: ...

    def agrees(self, question: str) -> bool: ...

    def edit(self, text: str) -> str: ...


@dataclass(slots=True)
class Talk:
    """What commands work on."""

    desk: Desk
    model: str
    conversation: Conversation
    answers: list[Stats] = field(default_factory=list)
    mounts: Mounts = field(default_factory=Mounts)  # the adapters there are…
    adapter: str | None = None  # …and those that answer


KEYS = """\
A `\\` at the end of a line goes on; `\"\"\"` opens and closes a text of several lines.
`//` at the start sends a text that begins with /.
Ctrl-C stops an answer, Ctrl-D ends the chat."""


@dataclass(frozen=True, slots=True)
class Send:
    text: str


@dataclass(frozen=True, slots=True)
class Leave:
    pass


Result = Send | Leave | None


@dataclass(frozen=True, slots=True)
class Command:
    does: Callable[[Talk, str], Result]
    usage: str
    help: str


def interpret(line: str, talk: Talk) -> Result:
    """A typed message: text to send, or a command, which is carried out."""
    if line.startswith("//"):
        return Send(line[1:])
    if not line.startswith("/"):
        return Send(line)
    name, _, argument = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise _unknown(name)
    return command.does(talk, argument.strip())


def _unknown(name: str) -> UsageError:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean /{near[0]}?" if near else "/help lists them; // sends a text that begins with /"
    return UsageError(f"no such command: /{name}", hint=hint)


def _help(talk: Talk, argument: str) -> Result:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        talk.desk.say(f"{command.usage:{width}}  {command.help}")
    talk.desk.say("\n" + KEYS)
    return None


def _system(talk: Talk, argument: str) -> Result:
    if argument:
        talk.conversation.system = None if argument == "-" else argument
        talk.desk.say("system message removed" if argument == "-" else "system message set")
    else:
        talk.desk.say(talk.conversation.system or "no system message")
    return None


def _file(talk: Talk, argument: str) -> Result:
    path = _path(argument, "/file")
    text = inputs.read_text(str(path), shown_as="/file")
    talk.conversation.attached.append(text)
    talk.desk.say(f"{path}: {len(text):,} characters go before your next message")
    return None


def _edit(talk: Talk, argument: str) -> Result:
    if argument not in ("", "new"):
        raise UsageError(f"/edit takes nothing or `new`, not {argument!r}")
    last = talk.conversation.last_question() if argument == "" else None
    text = talk.desk.edit(last or "")
    if not text.strip() or text == last:
        talk.desk.say("nothing changed, nothing sent")
        return None
    if last is not None:
        talk.conversation.take_back()
    return Send(text)


def _adapter(talk: Talk, argument: str) -> Result:
    if argument:
        talk.mounts.chosen(argument)
        talk.adapter = argument
    there = ", ".join(mount.id for mount in talk.mounts.all)
    now = talk.adapter or BASE
    talk.desk.say(f"adapter: {now} (there are {there} and {BASE})" if there else "no adapter was given")
    return None


def _reset(talk: Talk, argument: str) -> Result:
    talk.conversation.reset()
    talk.desk.say("the conversation is forgotten; the system message stays")
    return None


def _save(talk: Talk, argument: str) -> Result:
    path = _path(argument, "/save")
    if path.exists() and not talk.desk.agrees(f"{path} exists. Overwrite it? [y/N] "):
        talk.desk.say("not saved")
        return None
    write_whole(path, talk.conversation.to_json(talk.model))
    talk.desk.say(f"saved {len(talk.conversation.turns)} messages to {path}")
    return None


def _load(talk: Talk, argument: str) -> Result:
    path = _path(argument, "/load")
    conversation, model = from_json(inputs.read_text(str(path), shown_as="/load"), str(path))
    talk.conversation = conversation
    talk.desk.say(f"loaded {len(conversation.turns)} messages from {path}")
    if model not in (None, talk.model):
        talk.desk.say(f"they were held with {model}, this is {talk.model}")
    return None


def _stats(talk: Talk, argument: str) -> Result:
    if not talk.answers:
        talk.desk.say("no answer yet")
        return None
    talk.desk.say(stats_text(talk.answers[-1]))
    read = sum(stats.prompt_tokens - stats.cached_tokens for stats in talk.answers)
    written = sum(stats.generated_tokens for stats in talk.answers)
    talk.desk.say(f"this chat: {len(talk.answers)} answers, {read:,} tokens read, {written:,} written")
    return None


def _exit(talk: Talk, argument: str) -> Result:
    return Leave()


COMMANDS: dict[str, Command] = {
    "help": Command(_help, "/help", "This list."),
    "system": Command(_system, "/system [TEXT]", "Show the system message, or set it; - removes it."),
    "file": Command(_file, "/file PATH", "Put a file's text before the next message."),
    "edit": Command(_edit, "/edit [new]", "Edit the last message, or a new one, in $EDITOR and send it."),
    "adapter": Command(_adapter, "/adapter [A+B]", "Show the adapters, or choose; none is the model's own."),
    "reset": Command(_reset, "/reset", "Forget the conversation."),
    "save": Command(_save, "/save FILE", "Save the conversation as JSON."),
    "load": Command(_load, "/load FILE", "Go on with a saved conversation."),
    "stats": Command(_stats, "/stats", "Speed and memory of the last answer."),
    "exit": Command(_exit, "/exit", "End the chat; Ctrl-D does too."),
}


def _path(argument: str, command: str) -> Path:
    for quote in "'\"":
        if len(argument) > 1 and argument[0] == argument[-1] == quote:
            argument = argument[1:-1]
    if not argument:
        raise UsageError(f"{command} needs a file name")
    try:
        return Path(argument).expanduser()
    except RuntimeError:  # a ~user that does not exist
        return Path(argument)


def write_whole(path: Path, text: str) -> None:
    """All of it or nothing: a full disk must not cost the file that was there."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
