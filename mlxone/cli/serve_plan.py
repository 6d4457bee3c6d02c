"""What `serve` is asked for, as one checked value: everything that can be wrong is found before a start."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.cli import inputs
from mlxone.core.errors import UsageError
from mlxone.core.settings import SERVER_SETTINGS
from mlxone.server import guard
from mlxone.service.checks import checked_template_values
from mlxone.service.options import Options

_DEFAULTS: Mapping[str, Any] = {setting.name: setting.default for setting in SERVER_SETTINGS}
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


def plan(given: Mapping[str, Any]) -> Plan:
    """From the values of the settings that were given; all others have their defaults."""
    chosen = {**_DEFAULTS, **given}
    if not chosen["host"].strip():
        raise UsageError("--host is empty", hint="leave it out to listen on this machine only")
    if chosen["uds"] is not None:
        _check_socket(chosen["uds"])
    return Plan(
        options=_options(given, chosen),
        host=chosen["host"].strip(),
        port=chosen["port"],
        uds=chosen["uds"],
        api_keys=tuple(_keys(chosen["api_key"] or ())),
        allowed_origins=tuple(_origins(chosen["allowed_origins"] or ())),
        allowed_hosts=tuple(_hosts(chosen["allowed_hosts"] or ())),
        grace=chosen["grace"],
        log_level=chosen["log_level"],
        log_json=bool(chosen["log_json"]),
    )


def _options(given: Mapping[str, Any], chosen: Mapping[str, Any]) -> Options:
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
        chat_template=_template(chosen["chat_template"]),
        template_kwargs=_template_args(chosen["chat_template_args"]),
        timeout=chosen["timeout"] or None,
        queue=chosen["queue"],
        idle_unload=chosen["idle_unload"] or None,
        allow_manage=bool(chosen["allow_manage"]),
    )


def _template(path: str | None) -> Path | None:
    """Read once here: a server would only notice when it loads a model."""
    if path is None:
        return None
    inputs.read_text(path, shown_as="--chat-template")
    return Path(path).expanduser()


def _template_args(text: str | None) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--chat-template-args is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"--chat-template-args takes a JSON object, not {text[:60]!r}")
    try:
        return checked_template_values(found)
    except UsageError as error:
        raise UsageError(f"--chat-template-args: {error.message}") from None


def _keys(given: Iterable[str]) -> Iterable[str]:
    """No complaint repeats a key."""
    for word in given:
        if not word.startswith("@") and os.path.isfile(word):
            raise UsageError(f"--api-key names a file: {word}", hint=f"@{word} means the keys in it")
        keys = _keys_of_file(word[1:]) if word.startswith("@") else [word]
        for key in keys:
            try:
                guard.checked_key(key)
            except UsageError as error:
                raise UsageError(f"--api-key: {error.message}") from None
            yield key


def _keys_of_file(path: str) -> list[str]:
    """A key on each line; empty lines, and those that begin with #, are not keys."""
    lines = (line.strip() for line in inputs.read_text(path, shown_as="--api-key").splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"--api-key {path} holds no key", hint="a key on each line")
    return keys


def _origins(given: Iterable[str]) -> Iterable[str]:
    for origin in _parts(given, "--allowed-origins"):
        try:
            guard.Guard(origins=[origin])
        except UsageError as error:
            raise UsageError(f"--allowed-origins: {error.message}", hint=error.hint) from None
        yield origin


def _hosts(given: Iterable[str]) -> Iterable[str]:
    for host in _parts(given, "--allowed-hosts"):
        try:
            yield guard.checked_host(host)
        except UsageError as error:
            raise UsageError(f"--allowed-hosts: {error.message}", hint=error.hint) from None


def _parts(given: Iterable[str], flag: str) -> Iterable[str]:
    for text in given:
        for part in text.split(","):
            if not part.strip():
                raise UsageError(f"{flag} has an empty part: {text!r}")
            yield part.strip()


def _check_socket(path: str) -> None:
    file = Path(path)
    if not path.strip() or not file.name:
        raise UsageError(f"--uds is not a file's name: {path!r}")
    if not file.parent.is_dir():
        raise UsageError(f"--uds {path}: there is no folder {file.parent}")
    if (file.exists() or file.is_symlink()) and not file.is_socket():
        raise UsageError(f"--uds {path} is there already and no socket", hint="name a file that is not there")
