"""Every way to fail has one line and one documented exit code."""

from __future__ import annotations

import errno

import click
import pytest

from mlxone.cli.failures import outcome
from mlxone.core import errors
from mlxone.core.errors import EXIT_CODES, MlxoneError

FAMILY = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, MlxoneError)]


@pytest.mark.parametrize("kind", FAMILY)
def test_the_family(kind):
    result = outcome(kind("it broke\nhere", hint="do that"))
    assert (result.code, result.line) == (kind.exit_code, "it broke here (do that)")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (SystemExit(0), 0, ""),
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (click.exceptions.Exit(0), 0, ""),
        (OSError(errno.ENOSPC, "No space left on device"), 9, "cannot write the output: No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/m"), 9, "/m: Disk quota exceeded (free some"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 9, "/x/y: Permission denied (check"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 9, "/x: Read-only file system (choose"),
        (MemoryError(), 10, "not enough memory"),
        (
            ZeroDivisionError("x"),
            70,
            "internal error: ZeroDivisionError: x (a bug of ours; run again with --v",
        ),
        (OSError(errno.ENOENT, "No such file", "/x"), 70, "internal error: FileNotFoundError"),
        (click.UsageError("Got unexpected\nextra."), 2, "got unexpected extra (`mlxone --help` explains)"),
    ],
)
def test_everything_else(error, code, line):
    result = outcome(error)
    assert result.code == code
    assert result.line.startswith(line)
    assert bool(result.line) == bool(line)


def test_every_code_is_documented():
    assert {kind.exit_code for kind in FAMILY} | {0, 2, 130, 141} <= set(EXIT_CODES)


def test_a_name_from_outside_cannot_steer_the_terminal():
    assert "\x1b" not in outcome(errors.ModelNotFound("no model \x1b[2J")).line
