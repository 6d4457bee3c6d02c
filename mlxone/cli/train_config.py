"""`--config`: a run's options from a file, ours in TOML or one of `mlx_lm.lora` in YAML.

Whatever the file holds is honoured or refused by its name. Flags win over it; what comes out are the rows
of the settings table, read and checked as the flags are, with `model`, `data` and the features beside them.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlxone.cli.flags import read_setting
from mlxone.cli.mlx_lm_keys import FEATURES, flattened
from mlxone.core.errors import StorageError, UsageError
from mlxone.core.settings import Setting
from mlxone.core.train_settings import TRAIN_BY_NAME, TRAIN_SETTINGS

BESIDE = ("model", "data", *FEATURES)  # names of a configuration that no setting has
# What contradicts within one place: of a flag and the file the flag decides.
EITHER_OR = (("iters", "epochs"), ("mask_prompt", "sft_scope"), ("resume", "overwrite"))
LONGEST = 10**6  # bytes
# What a run of mlx_lm.lora would have had where its file says nothing.
DIFFERENT = {"lr": "learning_rate", "scale": "scale", "layers": "num_layers"}

_ALIASES = {
    alias.removeprefix("--").replace("-", "_"): setting.name
    for setting in TRAIN_SETTINGS
    for alias in setting.aliases
}


def read_config(path: Path) -> dict[str, Any]:
    """By name. A value that the file leaves empty is not there."""
    found: dict[str, Any] = {}
    for key, value in flattened(_load(path), str(path)).items():
        name = _ALIASES.get(key, key)
        if name in found:
            raise UsageError(f"{path} says {name} twice", hint="once is enough")
        found[name] = _value(name, value, f"{path}: {key}")
    return found


def merged(flags: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Only what somebody gave; a flag decides over the file, and over what contradicts it there."""
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    beaten = {b if a in given else a for a, b in EITHER_OR if (a in given) != (b in given)}
    return {name: value for name, value in config.items() if name not in beaten} | given


def unsaid(path: Path, config: Mapping[str, Any]) -> str:
    """What a file made for mlx_lm.lora leaves to defaults that are others here."""
    names = [theirs for ours, theirs in DIFFERENT.items() if ours not in config]
    if not is_yaml(path) or not names:
        return ""
    return f"{path} does not say {', '.join(names)}: mlxone's defaults hold, not those of mlx_lm.lora"


def is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _load(path: Path) -> dict[str, Any]:
    if path.suffix.lower() != ".toml" and not is_yaml(path):
        raise UsageError(f"--config {path} is neither .toml nor .yaml")
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise StorageError(f"--config {path}: {error.strerror or error}") from error
    if len(data) > LONGEST:
        raise UsageError(f"--config {path} is larger than a configuration can be")
    try:
        text = data.decode()
        found = _yaml(text, path) if is_yaml(path) else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config {path}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--config {path} holds no names with values")
    return found


def _yaml(text: str, path: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses a name that stands twice in place of taking the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := [name for name in names if names.count(name) > 1 and name != "<<"]:
                raise UsageError(f"--config {path} says {twice[0]} twice", hint="once is enough")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    # YAML 1.1 takes 1e-5 for a text: its numbers need a dot and a sign.
    number = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}:" if where else ""
        raise UsageError(f"--config {path}:{line} {getattr(error, 'problem', None) or error}") from error


def _value(name: str, value: Any, shown_as: str) -> Any:
    if name in BESIDE:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{shown_as} is a text, not {value!r}")
        return value
    setting = TRAIN_BY_NAME.get(name)
    if setting is None:
        raise _unknown(name, shown_as)
    values = [read_setting(setting, text, shown_as) for text in _texts(setting, value, shown_as)]
    return tuple(values) if setting.many else values[0]


def _texts(setting: Setting, value: Any, shown_as: str) -> Iterator[str]:
    """A value as it would stand on the command line."""
    for one in value if setting.many and isinstance(value, list) else [value]:
        if isinstance(one, bool):
            yield "true" if one else "false"
        elif isinstance(one, (str, int, float)):
            yield str(one)
        else:
            raise UsageError(f"{shown_as} cannot be {one!r}")


def _unknown(name: str, shown_as: str) -> UsageError:
    known = [*TRAIN_BY_NAME, *_ALIASES, *BESIDE]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else "`mlxone train --help` lists what there is"
    return UsageError(f"{shown_as} is nothing that `train` knows", hint=hint)
