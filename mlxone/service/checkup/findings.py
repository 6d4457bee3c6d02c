"""What a check found: one line about one thing, and what to do where it is not as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlxone.core.errors import MlxoneError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    status: Status
    message: str
    fix: str = ""  # what to do; never empty unless all is well
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "status": self.status, "message": self.message}
        if self.fix:
            found["fix"] = self.fix
        return {**found, "details": dict(self.details)}


def ok(name: str, message: str, details: Mapping[str, Any] | None = None) -> Finding:
    return Finding(name, "ok", message, "", details or {})


def warn(name: str, message: str, fix: str, details: Mapping[str, Any] | None = None) -> Finding:
    """Something is less than it could be, and mlxone works."""
    return Finding(name, "warn", message, fix, details or {})


def fail(name: str, message: str, fix: str, details: Mapping[str, Any] | None = None) -> Finding:
    """Something that mlxone is for does not work."""
    return Finding(name, "fail", message, fix, details or {})


def of_error(name: str, error: MlxoneError, fix: str, status: Status = "fail") -> Finding:
    return Finding(name, status, error.message, error.hint or fix)
