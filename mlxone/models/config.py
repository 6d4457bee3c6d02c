"""`config.json`, read with care: every getter names the key and the file when it complains."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxone.core.errors import DamagedModel

MAX_CONFIG_BYTES = 64 * 2**20
_MISSING = object()
# Numbers that JSON cannot say are written as {"__float__": "Infinity"} by transformers.
_SPECIAL_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or one line about what is wrong with it."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise DamagedModel(f"{path} is larger than {MAX_CONFIG_BYTES >> 20} MiB")
        value = json.loads(path.read_bytes(), object_hook=_untag)
    except FileNotFoundError:
        raise DamagedModel(f"{path} is missing", hint="download the model again") from None
    except (ValueError, RecursionError) as error:
        raise DamagedModel(f"{path} is not valid JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise DamagedModel(f"{path} does not hold a JSON object")
    return value


def _untag(value: dict[str, Any]) -> Any:
    if len(value) == 1 and isinstance(tag := value.get("__float__"), str):
        return _SPECIAL_FLOATS.get(tag, value)
    return value


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
        self.source = source

    @classmethod
    def read(cls, folder: Path) -> Config:
        return cls(read_json(folder / "config.json"), source=str(folder / "config.json"))

    def with_defaults(self, defaults: Mapping[str, Any]) -> Config:
        return Config(self._values, defaults=defaults, source=self.source)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, key: str, default: Any = _MISSING) -> int:
        """A whole number of at least 1."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise self.wrong(key, "a positive whole number")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
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
