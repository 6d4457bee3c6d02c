"""The values of `serve`'s settings: a flag, else the environment, else the config file.

All three are read by one table and one reader, so each complaint names the place it is about. What
nobody gave is not there. The environment's names are MLXONE_ and the flag's; models and their folders
have homes of their own (`hub/find.py`, `hub/sources.py`).
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Given:
    value: Any
    rank: int  # 0 is a flag, 1 the environment, 2 the config file
    shown_as: str


def values(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """By name. `flags` are parsed already; None, or none at all, was not given."""
    _check_names(config, file)
    given = {s.name: found for s in SERVE_SETTINGS if (found := _given(s, flags, environ, config, file))}
    for one, other in _EITHER_OR:
        if one in given and other in given:
            given.pop(_lesser(one, other, given))
    return {name: found.value for name, found in given.items()}


def variable(setting: Setting) -> str:
    return "MLXONE_" + setting.name.upper()


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
    if text := environ.get(variable(setting), "").strip():
        shown_as = variable(setting)
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
        else:
            raise UsageError(f"{shown_as} cannot be {one!r}")


def _check_names(config: Mapping[str, Any], file: Path) -> None:
    known = {setting.name for setting in SERVE_SETTINGS}
    for name in config:
        flag = "--" + name.replace("_", "-")
        if flag in LATER:
            raise not_built_yet(flag, f"{file}: {TABLE}.{name}")
        if name not in known:
            raise UsageError(
                f"{file}: no setting of the server is called {name!r}", hint="docs/server.md lists them"
            )


def _lesser(one: str, other: str, given: Mapping[str, Given]) -> str:
    a, b = given[one], given[other]
    if a.rank == b.rank:
        raise UsageError(f"{a.shown_as} and {b.shown_as} do not go together", hint="give one of them")
    return one if a.rank > b.rank else other
