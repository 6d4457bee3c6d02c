"""`config.json`, read with care: every getter names the key and the file when it complains."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel, StorageError

MAX_CONFIG_BYTES = 64 * 2**20
# Far above what is published, far below where Python gives up on showing a value.
MAX_DEPTH = 50
FLOAT32_MAX = 3.4e38  # MLX computes in nothing wider
# Right for what came from the Hub; a model from elsewhere has to come from there again.
_MISSING = object()
# Numbers that JSON cannot say are written as {"__float__": "Infinity"} by transformers.
_SPECIAL_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or one line about what is wrong with it."""
    value = _read_value(path)
    if not isinstance(value, dict):
        raise DamagedModel(f"{path} does not hold a JSON object")
    return value


def read_json_list(path: Path) -> list[Any]:
    value = _read_value(path)
    if not isinstance(value, list):
        raise DamagedModel(f"{path} does not hold a JSON list")
    return value


def _read_value(path: Path) -> Any:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise DamagedModel(f"{path} is not a file")
        if status.st_size > MAX_CONFIG_BYTES:
            raise DamagedModel(f"{path} is larger than {MAX_CONFIG_BYTES >> 20} MiB")
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedModel(f"{path} is missing", hint=DOWNLOAD_AGAIN) from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from None
    return parse_json(content, str(path))


def parse_json(content: bytes, source: str) -> Any:
    try:
        value = json.loads(content, object_hook=_untag)
    except (ValueError, RecursionError) as error:
        raise DamagedModel(f"{source} is not valid JSON: {str(error)[:120]}") from None
    if nested_deeper(value, MAX_DEPTH):
        raise DamagedModel(f"{source} is nested more than {MAX_DEPTH} levels deep")
    return value


def _untag(value: dict[str, Any]) -> Any:
    if len(value) == 1 and isinstance(tag := value.get("__float__"), str):
        return _SPECIAL_FLOATS.get(tag, value)
    return value


def nested_deeper(value: Any, levels: int) -> bool:
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        inner = (c.values() if isinstance(c, dict) else c for c in layer)
        layer = [v for values in inner for v in values if isinstance(v, dict | list)]
    return bool(layer)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Finite, also once it is a float32."""
    return type(value) in (int, float) and abs(value) <= FLOAT32_MAX


class Config(Mapping[str, Any]):
    """The values of a config with a family's published defaults beneath them."""

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
        source: str = "config.json",
    ) -> None:
        self._values = {**(defaults or {}), **{k: v for k, v in values.items() if v is not None}}
        self._nulls = {k for k, v in values.items() if v is None}
        self.source = source

    @classmethod
    def read(cls, folder: Path) -> Config:
        return cls(read_json(folder / "config.json"), source=str(folder / "config.json"))

    def with_defaults(self, defaults: Mapping[str, Any]) -> Config:
        config = Config(self._values, defaults=defaults, source=self.source)
        config._nulls = self._nulls
        return config

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def is_null(self, key: str) -> bool:
        """Whether it says null: mostly the same as nothing, sometimes as "without"."""
        return key in self._nulls

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, key: str, default: Any = _MISSING, *, most: int = 2**31 - 1) -> int:
        """A whole number of at least 1."""
        value = self._get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self.wrong(key, f"a whole number from 1 to {most}")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        value = self._get(key, default)
        if not is_number(value):
            raise self.wrong(key, "a finite number")
        return float(value)

    def positive(self, key: str, default: Any = _MISSING) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise self.wrong(key, "a number above 0")
        return value

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def section(self, key: str) -> Mapping[str, Any]:
        """A nested object; empty when it is not there."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return value

    def wrong(self, key: str, expected: str) -> DamagedModel:
        shown = json.dumps(self._values.get(key), default=str)[:80]
        return DamagedModel(f"{self.source}: {key} must be {expected}, not {shown}")

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(key, default)
        if value is _MISSING:
            raise DamagedModel(f"{self.source}: {key} is missing")
        return value
