"""Flags: those of the settings table by generation, and how each kind of value is read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from mlxone.cli.sizes import read_size
from mlxone.core.errors import UsageError
from mlxone.core.settings import SETTINGS, Setting, check_value

_KIND_NAMES: dict[Any, tuple[str, str]] = {int: ("N", "a whole number"), float: ("X", "a number")}


class Flag(click.Option):
    """An option that knows under which heading the help shows it."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help groups its flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"options_metavar": "[FLAGS]", **kwargs})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for name, flags in sections(self, ctx).items():
            with formatter.section(name):
                formatter.write_dl([record for flag in flags if (record := flag.get_help_record(ctx))])


def sections(command: click.Command, ctx: click.Context) -> dict[str, list[click.Option]]:
    """The flags under their headings, those of every command last."""
    found: dict[str, list[click.Option]] = {}
    options = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    for option in sorted(options, key=lambda option: not isinstance(option, Flag)):
        found.setdefault(getattr(option, "section", "Other"), []).append(option)
    return found


def flag(section: str, names: str, help: str, metavar: str | None = None, **kwargs: Any) -> Flag:
    return Flag(names.split(), section=section, help=help, metavar=metavar, **kwargs)


def setting_flags(
    section_of: Mapping[str, str], otherwise: str, settings: Iterable[Setting] = SETTINGS
) -> Iterable[Flag]:
    """One flag per row of the settings table."""
    for setting in settings:
        default = f" [{setting.run_default}]" if setting.run_default else ""
        how: dict[str, Any] = {"type": _reader(setting), "multiple": setting.many}
        if setting.kind is bool and not setting.metavar:
            how = {"is_flag": True, "default": None}
        yield Flag(
            [setting.flag, *setting.aliases, setting.name],
            section=section_of.get(setting.name, otherwise),
            metavar=value_name(setting) or None,
            help=setting.help + default,
            **how,
        )


def value_name(setting: Setting) -> str:
    """What stands for the value in the help; empty where the flag takes none."""
    return setting.metavar or ("" if setting.kind is bool else _KIND_NAMES[setting.kind][0])


def read_setting(setting: Setting, text: str, shown_as: str) -> Any:
    """The value of a row of the table, from the text that stands at `shown_as`."""
    if setting.choices:
        text = text.lower()
    if setting.kind is bool:
        return read_truth(shown_as)(text)
    if setting.metavar == "GB":
        value = read_size(text, shown_as) / 1e9
    else:
        try:
            value = setting.kind(text)
        except ValueError:
            what = _KIND_NAMES[setting.kind][1]
            raise UsageError(f"{shown_as} takes {what}, not {text!r}") from None
    return check_value(setting, value, shown_as=shown_as)


def _reader(setting: Setting) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return read_setting(setting, text, setting.flag)

    return read


def read_truth(name: str) -> Callable[[str], bool]:
    def read(text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{name} is true or false, not {text!r}")
        return text.lower() == "true"

    return read


def read_logit_bias(texts: Iterable[str]) -> dict[int, float]:
    """Each text is `ID=BIAS`, or a JSON object of them; a later one wins over an earlier."""
    biases: dict[int, float] = {}
    for text in texts:
        for token, bias in _bias_pairs(text):
            biases[token] = bias
    return biases


def _bias_pairs(text: str) -> list[tuple[int, float]]:
    try:
        if text.lstrip().startswith("{"):
            pairs = list(json.loads(text).items())
        else:
            pairs = [text.split("=", 1)]
        numbers = [(int(token), float(bias)) for token, bias in pairs]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"--logit-bias takes ID=BIAS or a JSON object, not {text!r}") from None
    for token, bias in numbers:
        # Infinite and NaN biases would poison the softmax of the whole row.
        if token < 0 or not math.isfinite(bias):
            raise UsageError(f"--logit-bias needs a token id from 0 up and a finite bias, not {text!r}")
    return numbers
