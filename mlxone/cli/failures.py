"""Any exception -> the one line a person reads and the exit code a script reads."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Sequence
from dataclasses import dataclass

from mlxone.cli.terminal import one_line
from mlxone.core.errors import MlxoneError, OutOfMemory, StorageError, UsageError

INTERRUPTED = 130
READER_GONE = 141

# Failures of the machine, not of the program: these become a StorageError with a way out.
_STORAGE_HINTS = {
    errno.ENOSPC: "free some space and try again",
    errno.EDQUOT: "free some space and try again",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose a place that can be written, for our own files with MLXONE_HOME",
    errno.EIO: "the device reports an error",
    errno.EFBIG: "the file would be larger than this place allows",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    line: str = ""  # empty: nothing is printed


def outcome(error: BaseException) -> Outcome:
    import click

    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return Outcome(INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return Outcome(READER_GONE)
    if isinstance(error, (click.exceptions.Exit, SystemExit)):
        code = error.exit_code if isinstance(error, click.exceptions.Exit) else error.code
        return Outcome(code if isinstance(code, int) else 0 if code is None else 1)
    known = as_mlxone_error(error)
    return Outcome(known.exit_code, one_line(str(known)))


def as_mlxone_error(error: BaseException) -> MlxoneError:
    """The error itself if it is of the family, else the member that says the same."""
    import click

    if isinstance(error, MlxoneError):
        return error
    if isinstance(error, click.ClickException):
        return usage_error(error)
    if isinstance(error, MemoryError):
        return OutOfMemory("not enough memory", hint="use a smaller model or a smaller --ctx-size")
    if isinstance(error, OSError) and error.errno in _STORAGE_HINTS:
        where = f"{error.filename}: " if error.filename else "cannot write the output: "
        return StorageError(f"{where}{error.strerror}", hint=_STORAGE_HINTS[error.errno])
    return MlxoneError(
        f"internal error: {type(error).__name__}: {error}", hint="a bug of ours; run again with --verbose"
    )


def usage_error(error: object) -> UsageError:
    """click's complaint in our words: which flag, and what to do."""
    import click

    assert isinstance(error, click.ClickException)
    context = getattr(error, "ctx", None)
    help_hint = f"`{context.command_path} --help` explains" if context else "`mlxone --help` explains"
    if isinstance(error, click.NoSuchOption):
        return _no_such_flag(error, help_hint)
    message = error.format_message().rstrip(".")
    if isinstance(error, click.BadOptionUsage):
        needs = "needs a value" if "requires" in message else "takes no value"
        return UsageError(f"{error.option_name} {needs}", hint=help_hint)
    return UsageError(message[:1].lower() + message[1:], hint=help_hint)


def _alike(word: str, flags: Sequence[str]) -> str | None:
    """click's own comparison counts the dashes, which all flags share."""
    names = {flag.lstrip("-"): flag for flag in flags}
    near = difflib.get_close_matches(word.lstrip("-"), names, n=1)
    return names[near[0]] if near else None


def _no_such_flag(error: object, help_hint: str) -> UsageError:
    import click

    assert isinstance(error, click.NoSuchOption)
    if near := _alike(error.option_name, error.possibilities or ()):
        hint = f"did you mean {near}?"
    elif error.option_name.startswith("--"):
        hint = help_hint.replace("explains", "lists them")
    else:
        hint = "put -- before a prompt that begins with a dash"
    return UsageError(f"no such flag: {error.option_name}", hint=hint)
