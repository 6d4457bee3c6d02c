"""What could stand at the cursor: the words of a command line -> candidates.

Answers the scripts of `completion_scripts.py`: they start the program with _MLXONE_COMPLETE set to the
shell's name and the words up to the cursor as arguments. The first line of the answer says how to
complete (`plain`, `files`, `folders`); each further one is a candidate, a tab, and what it means.

click's own machinery is not used: it parses the line to learn where the cursor is, so half a line
runs into every check of a verb, and its scripts lose names with a colon (`gemma4:12b`) in bash. Here the
words are only compared with the verbs and flags that would parse them, so no verb needs a list of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import click

from mlxone.cli import streams
from mlxone.cli.group import VERBS, group
from mlxone.cli.terminal import one_line

PLAIN, FILES, FOLDERS = "plain", "files", "folders"
FETCHING = ("get", "fit")  # verbs whose MODEL may be one that is not here yet

# What a value is called in the help says what completes it; of `a|b` it is these words themselves.
_PLACES = {"FILE": FILES, "PATH": FILES, "DIR": FOLDERS, "[NAME=]DIR": FOLDERS}
_MODELS = ("MODEL", "QUERY")


@dataclass(frozen=True, slots=True)
class Answer:
    candidates: dict[str, str] = field(default_factory=dict)  # text -> what it means
    kind: str = PLAIN  # for anything but PLAIN the shell finds the candidates


def answer(words: Sequence[str]) -> int:
    """Prints the answer. Whatever goes wrong, nobody's prompt gets to see it."""
    try:
        found = complete(words)
        rows = [
            f"{text}\t{one_line(about)}" for text, about in found.candidates.items() if text.isprintable()
        ]
        streams.prepare()
        sys.stdout.write("\n".join([found.kind, *rows, ""]))
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - the outermost boundary
        streams.settle()
        return 1
    return 0


def complete(words: Sequence[str]) -> Answer:
    """`words` follow the program's name; the last one is at the cursor and may be empty."""
    *before, current = words or [""]
    at = next((at for at, word in enumerate(before) if not word.startswith("-")), None)
    if at is None:
        flags = _flags(_options(group), current)
        return flags if current.startswith("-") else _among(_verbs(), current)
    if before[at] not in VERBS:
        return Answer()
    command = group.get_command(click.Context(group), before[at])
    assert command is not None
    return _Line(command).complete(before[at + 1 :], current)


class _Line:
    """The words behind a verb."""

    def __init__(self, command: click.Command) -> None:
        self._command = command
        self._options = _options(command)

    def complete(self, before: Sequence[str], current: str) -> Answer:
        used: set[str | None] = set()
        awaiting: click.Option | None = None
        only_words, count = False, 0
        for word in before:
            name, equals, _ = word.partition("=")
            if awaiting:
                awaiting = None
            elif only_words or not word.startswith("-") or word == "-":
                count += 1
            elif word == "--":
                only_words = True
            elif option := self._options.get(name):
                used.add(option.name)
                awaiting = option if _takes_value(option) and not equals else None
        if awaiting:
            return self._value(awaiting, current)
        if current.startswith("-") and not only_words:
            return self._flag(current, used)
        return self._word(count, current, model_is_named="model_flag" in used or "model" in used)

    def _flag(self, current: str, used: set[str | None]) -> Answer:
        name, equals, value = current.partition("=")
        if not equals:
            open_ones = {n: o for n, o in self._options.items() if o.multiple or o.name not in used}
            return _flags(open_ones, current)
        option = self._options.get(name)
        if option is None or not _takes_value(option):
            return Answer()
        found = self._value(option, value)
        return Answer({f"{name}={text}": about for text, about in found.candidates.items()}, found.kind)

    def _value(self, option: click.Option, current: str) -> Answer:
        return self._of(_value_name(option), _choices(option), current)

    def _word(self, count: int, current: str, *, model_is_named: bool) -> Answer:
        names = [name for name in self._words() if not (model_is_named and name == "MODEL")]
        if names and names[-1].endswith("..."):
            count = min(count, len(names) - 1)
        return self._of(names[count].removesuffix("..."), (), current) if count < len(names) else Answer()

    def _words(self) -> list[str]:
        arguments = [param for param in self._command.params if isinstance(param, click.Argument)]
        shown = " ".join(argument.metavar or "" for argument in arguments)
        return shown.replace("[", "").replace("]", "").split()

    def _of(self, name: str, choices: Iterable[str], current: str) -> Answer:
        if name in _PLACES:
            return Answer(kind=_PLACES[name])
        if name in _MODELS:
            return self._model(current)
        return _among(dict.fromkeys(choices or (name.split("|") if "|" in name else ()), ""), current)

    def _model(self, current: str) -> Answer:
        """By name; where none begins like that it may be a path."""
        from mlxone.hub import names, remembered

        known = dict.fromkeys(remembered.names(), "")
        if self._command.name in FETCHING:
            known |= {short: repo for short, repo in names.SHORT_NAMES.items() if short not in known}
        found = _among(known, current)
        return found if found.candidates else Answer(kind=FILES)


def _verbs() -> dict[str, str]:
    return {name: verb.summary for name, verb in VERBS.items()}


def _options(command: click.Command) -> dict[str, click.Option]:
    context = click.Context(command, help_option_names=group.context_settings["help_option_names"])
    options = [p for p in command.get_params(context) if isinstance(p, click.Option) and not p.hidden]
    return {name: option for option in options for name in (*option.opts, *option.secondary_opts)}


def _flags(options: dict[str, click.Option], current: str) -> Answer:
    short = current.startswith("-") and not current.startswith("--") and len(current) > 1
    return _among({n: o.help or "" for n, o in options.items() if short or n.startswith("--")}, current)


def _takes_value(option: click.Option) -> bool:
    return not (option.is_flag or option.count)


def _value_name(option: click.Option) -> str:
    return option.metavar or ""


def _choices(option: click.Option) -> Sequence[str]:
    from mlxone.core.settings import SERVE_SETTINGS, SETTINGS
    from mlxone.core.train_settings import TRAIN_SETTINGS

    if isinstance(option.type, click.Choice):
        return [str(choice) for choice in option.type.choices]
    return next(
        (s.choices for s in (*SETTINGS, *SERVE_SETTINGS, *TRAIN_SETTINGS) if s.flag in option.opts), ()
    )


def _among(known: dict[str, str], current: str) -> Answer:
    return Answer({text: about for text, about in known.items() if text.startswith(current)})
