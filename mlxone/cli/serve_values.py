"""The values of `serve`'s settings: a flag, else the environment, else the config file.

All three are read by one table and one reader, so each complaint names the place it is about. What
nobody gave is not there. The environment's names are MLXONE_ and the flag's; models and their folders
have homes of their own (`hub/find.py`, `hub/sources.py`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.cli.flags import read_setting
from mlxone.cli.later_flags import LATER, not_built_yet
from mlxone.core.errors import UsageError
from mlxone.core.settings import SERVE_SETTINGS, Setting

TABLE = "serve"  # of the config file

# Two ways to say one thing: the earlier place decides between them, and one place may say only one.
_EITHER_OR = (("uds", "port"), ("uds", "host"), ("prompt_cache", "prompt_cache_bytes"))
# An empty variable counts as not given, but for these: a door that is open by accident.
_NEVER_EMPTY = ("api_key",)


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and the place that a complaint about it names."""

    value: Any
    rank: int  # 0 is a flag, 1 the environment, 2 the config file
    shown_as: str


def values(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Mapping[str, Any], file: Path
) -> dict[str, Given]:
    """By name. `flags` are parsed already; None, or none at all, was not given."""
    _check_variables(environ)
    _check_names(config, file)
    given = {s.name: found for s in SERVE_SETTINGS if (found := _given(s, flags, environ, config, file))}
    for one, other in _EITHER_OR:
        if one in given and other in given:
            given.pop(_lesser(one, other, given))
    return given


def variable(setting: Setting) -> str:
    return _variable(setting.flag)


def _variable(flag: str) -> str:
    return "MLXONE_" + flag.removeprefix("--").replace("-", "_").upper()


def _given(
    setting: Setting,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config: Mapping[str, Any],
    file: Path,
) -> Given | None:
    name = setting.name
    if flags.get(name) not in (None, ()):
        return Given(flags[name], 0, setting.flag)
    shown_as = variable(setting)
    text = environ.get(shown_as, "").strip()
    if text or (shown_as in environ and name in _NEVER_EMPTY):
        value = read_setting(setting, text, shown_as)
        return Given((value,) if setting.many else value, 1, shown_as)
    if name in config:
        shown_as = f"{file}: {TABLE}.{name}"
        texts = [read_setting(setting, text, shown_as) for text in _texts(setting, config[name], shown_as)]
        return Given(tuple(texts) if setting.many else texts[0], 2, shown_as)
    return None


def _texts(setting: Setting, value: Any, shown_as: str) -> Iterator[str]:
    """A value of TOML as it would stand on the command line."""
    values = value if setting.many and isinstance(value, list) else [value]
    for one in values:
        if isinstance(one, bool):
            yield "true" if one else "false"
        elif isinstance(one, (str, int, float)):
            yield str(one)
        elif isinstance(one, dict) and setting.metavar == "JSON":
            yield _json(one, shown_as)
        else:
            raise UsageError(f"{shown_as} cannot be {one!r}")


def _json(table: Mapping[str, Any], shown_as: str) -> str:
    try:
        return json.dumps(table)
    except TypeError:
        raise UsageError(f"{shown_as} holds what JSON cannot say: a date or a time") from None


def _check_variables(environ: Mapping[str, str]) -> None:
    for flag in LATER:
        if environ.get(_variable(flag), "").strip():
            raise not_built_yet(flag, _variable(flag))


def _check_names(config: Mapping[str, Any], file: Path) -> None:
    known = [setting.name for setting in SERVE_SETTINGS]
    for name in config:
        flag = "--" + name.replace("_", "-")
        if flag in LATER:
            raise not_built_yet(flag, f"{file}: {TABLE}.{name}")
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.7)
            raise UsageError(
                f"{file}: no setting of the server is called {name!r}",
                hint=f"did you mean {near[0]}?" if near else "docs/server.md lists them",
            )


def _lesser(one: str, other: str, given: Mapping[str, Given]) -> str:
    a, b = given[one], given[other]
    if a.rank == b.rank:
        raise UsageError(f"{a.shown_as} and {b.shown_as} do not go together", hint="give one of them")
    return one if a.rank > b.rank else other
