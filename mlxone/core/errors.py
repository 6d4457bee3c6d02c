"""The error family: every failure a user can cause.

Each error knows the HTTP status and the exit code it means and carries the way out as `hint`.
One place prints it for the terminal (`cli/main.py`), one per protocol for the wire.
"""

from __future__ import annotations

from collections.abc import Mapping

# The way out of most damage; it reads what is there, and fetches only what is wrong.
DOWNLOAD_AGAIN = "download the model again with `mlxone get --verify`"


class MlxoneError(Exception):
    """Base of the family. Raised itself only for what is our own fault."""

    code = "internal"
    exit_code = 70
    status = 500

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        details: Mapping[str, int] | None = None,
    ) -> None:
        """`param` is the path of the field at fault, `details` the numbers behind the message."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.details = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(MlxoneError):
    """A flag, option or argument that cannot be honoured as given."""

    code, exit_code, status = "usage", 2, 400


class ModelNotFound(MlxoneError):
    code, exit_code, status = "model_not_found", 3, 404


class AmbiguousModel(MlxoneError):
    code, exit_code, status = "ambiguous_model", 4, 400


class UnsupportedModel(MlxoneError):
    """An architecture, or a setting of a known one, that would compute other numbers here."""

    code, exit_code, status = "unsupported_model", 5, 400


class DamagedModel(MlxoneError):
    """A model folder that is incomplete, corrupt or contradicts itself."""

    code, exit_code, status = "damaged_model", 6, 500


class ContextOverflow(MlxoneError):
    code, exit_code, status = "context_over_budget", 7, 400


class HubError(MlxoneError):
    """The Hub, or the road to it, said no."""

    code, exit_code, status = "hub", 8, 502


class StorageError(MlxoneError):
    """Disk full, no permission, read-only, gone."""

    code, exit_code, status = "storage", 9, 507


class OutOfMemory(MlxoneError):
    code, exit_code, status = "memory", 10, 507


class ModelOverBudget(OutOfMemory):
    """A model that a server may not load: with what it must keep, it would not fit."""

    code, status = "model_over_budget", 400


class Overloaded(MlxoneError):
    """More is asked at once than may wait. `retry_after` is in seconds."""

    code, exit_code, status = "overloaded", 13, 429
    retry_after = 1.0


class ShuttingDown(MlxoneError):
    """No new work: the server is on its way out."""

    code, exit_code, status = "shutting_down", 13, 503


class TimedOut(MlxoneError):
    """No new token for as long as the operator allows."""

    code, exit_code, status = "timeout", 13, 504


class NotPermitted(MlxoneError):
    """What the operator did not allow clients to do."""

    code, exit_code, status = "not_permitted", 13, 403


class AdapterMismatch(MlxoneError):
    """An adapter that was made for another model, or contradicts itself; nothing of it was used."""

    code, exit_code, status = "adapter_mismatch", 14, 400


class AdapterNotFound(ModelNotFound):
    code = "adapter_not_found"


class DataError(MlxoneError):
    """Training data that cannot be learned from; names the file and the line."""

    code, exit_code, status = "data", 15, 400


class TrainingFailed(MlxoneError):
    """Training came to an end that it cannot go on from; the last good adapter is kept."""

    code, exit_code, status = "training_failed", 16, 500


class TemplateError(MlxoneError):
    """A chat template that does not parse, or refuses the conversation."""

    code, exit_code, status = "template", 11, 400


class BackendMissing(MlxoneError):
    """MLX itself cannot be imported on this machine."""

    code, exit_code, status = "backend", 12, 500


# What a process of ours may end with; docs/exit-codes.md is checked against this table.
EXIT_CODES: dict[int, str] = {
    0: "done, or the answer is yes",
    1: "the answer to the question is no",
    UsageError.exit_code: "usage: a flag or argument cannot be honoured",
    ModelNotFound.exit_code: "model or adapter not found",
    AmbiguousModel.exit_code: "several models match the query",
    UnsupportedModel.exit_code: "architecture or setting not supported",
    DamagedModel.exit_code: "model folder incomplete, corrupt or contradictory",
    ContextOverflow.exit_code: "prompt longer than the context",
    HubError.exit_code: "the Hub or the network failed",
    StorageError.exit_code: "disk full or not accessible",
    OutOfMemory.exit_code: "not enough memory",
    TemplateError.exit_code: "chat template does not parse or raises",
    BackendMissing.exit_code: "MLX cannot run here",
    Overloaded.exit_code: "a server would not answer now, or not this",
    AdapterMismatch.exit_code: "adapter of another model, or damaged",
    DataError.exit_code: "training data that cannot be learned from",
    TrainingFailed.exit_code: "training broke down; the last good adapter is kept",
    MlxoneError.exit_code: "internal error (a bug of ours)",
    130: "interrupted with Ctrl-C",
    141: "the reader of our output went away",
    143: "ended by SIGTERM; a server ends with 0 at the first and with this at the second",
}
