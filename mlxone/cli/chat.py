"""The chat: reads a message, streams the answer, and survives whatever goes wrong with one of them."""

from __future__ import annotations

import sys
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

from mlxone.cli import chat_commands, failures, inputs, sinks
from mlxone.cli.answers import Answer, consume, learn_from, stats_text
from mlxone.cli.asking import Asking
from mlxone.cli.chat_commands import Leave, Result, Send, Talk
from mlxone.cli.conversation import Conversation
from mlxone.cli.desk import TerminalDesk
from mlxone.cli.interrupts import StopOnInterrupt
from mlxone.cli.message_reader import QUOTES, MessageReader
from mlxone.cli.terminal import StatusLine, one_line

if TYPE_CHECKING:
    from mlxone.service.memory import Memory
    from mlxone.service.model import Model

PROMPT, MORE = "> ", "… "


def chat(model: Model, how: Asking, *, quiet: bool, stats: bool, verbose: bool) -> None:
    from mlxone.hub import places

    desk = TerminalDesk(places.home() / "history")
    if not quiet:
        desk.say(f"{model.name}: /help lists commands, Ctrl-D ends the chat.")
    Chat(model, how, desk, quiet=quiet, stats=stats, verbose=verbose).run()


class Chat:
    def __init__(
        self, model: Model, how: Asking, desk: TerminalDesk, *, quiet: bool, stats: bool, verbose: bool
    ) -> None:
        self._model, self._how, self._desk = model, how, desk
        self._quiet, self._stats, self._verbose = quiet, stats, verbose
        self._talk = Talk(desk, model.name, Conversation(how.system), adapter=how.adapter)
        if how.adapters:
            self._talk.mounts = model.adapters.mounts
        self._interrupts = 0  # Ctrl-C at the prompt, in a row
        self._memory: Memory | None = None  # what the layers hold of the conversation so far

    def run(self) -> None:
        while True:
            try:
                if isinstance(self._round(), Leave):
                    return
                self._interrupts = 0
            except EOFError:
                self._desk.say("")
                return
            except KeyboardInterrupt:
                self._interrupted()
            except BrokenPipeError:
                raise
            except Exception as error:  # noqa: BLE001 - one failed turn must not end the conversation
                self._failed(error)

    def _round(self) -> Result:
        message, literal = self._read()
        if not message.strip():
            return None
        self._desk.remember(message)
        inputs.encodable(message, shown_as="the message")
        result = Send(message) if literal else chat_commands.interpret(message, self._talk)
        if isinstance(result, Send):
            self._answer(result.text)
        return result

    def _read(self) -> tuple[str, bool]:
        """The message, and whether it was quoted and so is text whatever it begins with."""
        reader = MessageReader()
        line = self._line(reader)
        literal = line.lstrip().startswith(QUOTES)
        message = reader.feed(line)
        while message is None:
            try:
                message = reader.feed(self._line(reader))
            except EOFError:
                message = reader.finish()
        return message, literal

    def _line(self, reader: MessageReader) -> str:
        return self._desk.read(MORE if reader.waiting else PROMPT)

    def _answer(self, text: str) -> None:
        conversation = self._talk.conversation
        conversation.ask(text)
        answer = Answer()
        try:
            self._stream(conversation, answer)
        except KeyboardInterrupt:  # pressed twice
            conversation.answered(answer.text)
            raise
        except BaseException:
            conversation.take_back()
            raise
        conversation.answered(answer.text)
        if answer.stats is None:
            self._desk.say("[stopped]")
        else:
            self._talk.answers.append(answer.stats)
            if self._stats:
                print(stats_text(answer.stats), file=sys.stderr, flush=True)
            if not self._how.adapters:
                learn_from(self._model, answer.stats)

    def _stream(self, conversation: Conversation, answer: Answer) -> None:
        from mlxone.service import answer as service
        from mlxone.service.memory import Memory

        self._memory = self._memory or Memory()
        request = self._how.request(self._how.sampling(self._model), messages=conversation.messages())
        request = replace(request, adapter=self._talk.adapter)
        with StopOnInterrupt() as stop:
            events = service.answer(self._model, request, self._memory)
            status = StatusLine(quiet=self._quiet)
            consume(events, sinks.for_stdout(), status, stopped=lambda: stop.pressed, into=answer)

    def _interrupted(self) -> None:
        self._interrupts += 1
        hint = "(/exit or Ctrl-D ends the chat)" if self._interrupts > 1 else ""
        self._desk.say(hint and f"\n{hint}")

    def _failed(self, error: Exception) -> None:
        if self._verbose:
            traceback.print_exception(error)
        known = failures.as_mlxone_error(error)
        print(f"mlxone: {one_line(str(known))}", file=sys.stderr, flush=True)
