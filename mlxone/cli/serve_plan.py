"""What `serve` is asked for, as one checked value: everything that can be wrong is found before a start.

Each complaint names the place where the value stands: a flag, a variable or a line of the config file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxone.cli import inputs
from mlxone.cli.adapters import named_folders
from mlxone.core.errors import UsageError
from mlxone.core.settings import SERVE_SETTINGS, SERVER_SETTINGS
from mlxone.server import guard
from mlxone.service.adapters import absolute
from mlxone.service.checks import checked_template_values
from mlxone.service.options import Options

_DEFAULTS: Mapping[str, Any] = {setting.name: setting.default for setting in SERVER_SETTINGS}
_FLAGS: Mapping[str, str] = {setting.name: setting.flag for setting in SERVE_SETTINGS}
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True, slots=True)
class Plan:
    options: Options
    host: str
    port: int
    uds: str | None
    api_keys: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    grace: float
    log_level: str
    log_json: bool
    shown_as: Mapping[str, str] = field(default_factory=dict)  # where each setting stands

    def in_their_words(self, error: UsageError) -> UsageError:
        """The rooms below call an option by its name, an operator knows it by where it was set."""
        name, _, rest = error.message.partition(" ")
        if name not in self.shown_as:
            return error
        return UsageError(f"{self.shown_as[name]} {rest}", hint=error.hint)


def plan(given: Mapping[str, Any], shown_as: Mapping[str, str] | None = None) -> Plan:
    """From the values of the settings that were given; all others have their defaults."""
    chosen, places = {**_DEFAULTS, **given}, {**_FLAGS, **(shown_as or {})}
    if not chosen["host"].strip():
        raise UsageError(f"{places['host']} is empty", hint="leave it out to listen on this machine only")
    if chosen["uds"] is not None:
        _check_socket(chosen["uds"], places["uds"])
    return Plan(
        options=_options(given, chosen, places),
        host=chosen["host"].strip(),
        port=chosen["port"],
        uds=chosen["uds"],
        api_keys=_keys(chosen["api_key"], places["api_key"]),
        allowed_origins=tuple(_origins(chosen["allowed_origins"] or (), places["allowed_origins"])),
        allowed_hosts=tuple(_hosts(chosen["allowed_hosts"] or (), places["allowed_hosts"])),
        grace=chosen["grace"],
        log_level=chosen["log_level"],
        log_json=bool(chosen["log_json"]),
        shown_as=places,
    )


def _options(given: Mapping[str, Any], chosen: Mapping[str, Any], places: Mapping[str, str]) -> Options:
    cache = given.get("prompt_cache_bytes")
    built_in = Options()
    return Options(
        memory_budget=chosen["memory_budget"],
        ctx_size=given.get("ctx_size"),
        prefill_step=given.get("prefill_step", built_in.prefill_step),
        prompt_cache_bytes=round(chosen["prompt_cache"] * 1e9) if cache is None else cache,
        prompt_cache_entries=chosen["prompt_cache_size"],
        sampling={name: given[name] for name in _SAMPLING if name in given},
        max_tokens=given.get("max_tokens"),
        thinking=chosen["thinking"],
        chat_template=_template(chosen["chat_template"], places["chat_template"]),
        template_kwargs=_template_args(chosen["chat_template_args"], places["chat_template_args"]),
        timeout=chosen["timeout"] or None,
        queue=chosen["queue"],
        idle_unload=chosen["idle_unload"] or None,
        allow_manage=bool(chosen["allow_manage"]),
        adapters=named_folders(chosen["adapter"] or (), places["adapter"]),
        adapter_dir=_folder(chosen["adapter_dir"], places["adapter_dir"]),
    )


def _template(path: str | None, shown_as: str) -> Path | None:
    """Read and compiled once here: a server would only notice with its first request."""
    if path is None:
        return None
    source = inputs.read_text(path, shown_as=shown_as)
    from mlxone.text.environment import Compiled  # Jinja is slow to import, and mostly there is no template

    Compiled(source, path)
    return Path(path).expanduser()


def _folder(path: str | None, shown_as: str) -> Path | None:
    if path is None:
        return None
    if not os.path.isdir(absolute(path)):  # which also knows what is too long for a name
        raise UsageError(f"{shown_as} {path} is no folder")
    return Path(path).expanduser()


def _template_args(text: str | None, shown_as: str) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown_as} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{shown_as} takes a JSON object, not {text[:60]!r}")
    try:
        return checked_template_values(found)
    except UsageError as error:
        raise UsageError(error.message.replace("template_kwargs", shown_as)) from None


def _keys(given: Sequence[str] | None, shown_as: str) -> tuple[str, ...]:
    """No complaint repeats a key. An empty list opens no door: only who says nothing asks for none."""
    if given is None:
        return ()
    keys = [key for word in given for key in _keys_of(word, shown_as)]
    if not keys:
        raise UsageError(f"{shown_as} holds no key", hint="leave it out to ask for none")
    for key in keys:
        try:
            guard.checked_key(key)
        except UsageError as error:
            raise UsageError(f"{shown_as}: {error.message}") from None
    return tuple(keys)


def _keys_of(word: str, shown_as: str) -> list[str]:
    """In a file a key on each line; empty lines, and those that begin with #, are not keys."""
    if not word.startswith("@"):
        if os.path.isfile(word):
            raise UsageError(f"{shown_as} names a file: {word}", hint=f"@{word} means the keys in it")
        return [word]
    lines = (line.strip() for line in inputs.read_text(word[1:], shown_as=shown_as).splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"{shown_as} {word[1:]} holds no key", hint="a key on each line")
    return keys


def _origins(given: Iterable[str], shown_as: str) -> Iterable[str]:
    for origin in _parts(given, shown_as):
        try:
            guard.Guard(origins=[origin])
        except UsageError as error:
            raise UsageError(f"{shown_as}: {error.message}", hint=error.hint) from None
        yield origin


def _hosts(given: Iterable[str], shown_as: str) -> Iterable[str]:
    for host in _parts(given, shown_as):
        try:
            yield guard.checked_host(host)
        except UsageError as error:
            raise UsageError(f"{shown_as}: {error.message}", hint=error.hint) from None


def _parts(given: Iterable[str], shown_as: str) -> Iterable[str]:
    for text in given:
        for part in text.split(","):
            if not part.strip():
                raise UsageError(f"{shown_as} has an empty part: {text!r}")
            yield part.strip()


def _check_socket(path: str, shown_as: str) -> None:
    file = Path(path)
    if not path.strip() or not file.name:
        raise UsageError(f"{shown_as} is not a file's name: {path!r}")
    if not file.parent.is_dir():
        raise UsageError(f"{shown_as} {path}: there is no folder {file.parent}")
    if (file.exists() or file.is_symlink()) and not file.is_socket():
        raise UsageError(
            f"{shown_as} {path} is there already and no socket", hint="name a file that is not there"
        )
