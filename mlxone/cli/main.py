"""The entry point: runs a verb and turns whatever goes wrong into one line and an exit code.

The only place that does. Everything else is imported inside `main`, so that Ctrl-C during the
imports and an installation with a piece missing end in a line as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxone.cli.group import Session


def main(argv: Sequence[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else list(argv)
    session: Session | None = None
    try:
        if "_MLXONE_COMPLETE" in os.environ:  # a shell asks what could stand at the cursor
            from mlxone.cli import completing

            return completing.answer(args)
        from mlxone.cli import group, streams

        streams.prepare()
        session = group.Session()
        code = group.run(args, session)
        # Here and not at the interpreter's exit, where a full disk could not be reported.
        sys.stdout.flush()
        return code
    except BaseException as error:  # noqa: BLE001 - the outermost boundary
        # With no session not even the flags were read, and this is the time a traceback is wanted.
        return _failed(error, session.verbose if session else "--verbose" in args)


def _failed(error: BaseException, verbose: bool) -> int:
    from mlxone.cli import failures, streams

    streams.settle()
    outcome = failures.outcome(error)
    if verbose and outcome.line:
        import traceback

        streams.complain("".join(traceback.format_exception(error)).rstrip("\n"))
    if outcome.line:
        streams.complain(f"mlxone: {outcome.line}")
    return outcome.code
