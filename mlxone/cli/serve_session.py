"""A server from its start to its stop, as a terminal or a script sees it.

The one line on stdout says that it is ready; the log and the status bar go to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from mlxone.cli import status_bar, terminal
from mlxone.cli.live import Line
from mlxone.cli.log_screen import LogScreen, writer
from mlxone.cli.process_load import ProcessLoad
from mlxone.cli.ready import Ready, ready
from mlxone.cli.serve_plan import Plan
from mlxone.cli.server_log import Logging
from mlxone.cli.stop_signals import StopSignals, die
from mlxone.core.errors import UsageError
from mlxone.server.serving import Serving, create_server
from mlxone.service.context import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """Which models: those named, or else all that are here, and the one for requests that name none.

    `notice` is for the log: what the operator should know of this choice.
    """

    models: Sequence[str]
    folders: Sequence[str] = ()
    default: str | None = None
    notice: str = ""


def run(plan: Plan, served: Served, *, quiet: bool = False) -> int:
    """Serves until a signal comes; returns the exit code."""
    live = _may_draw() and not quiet and not plan.log_json
    screen = LogScreen(writer(sys.stderr), live=live)
    with screen, Logging(screen.line, level=plan.log_level, as_json=plan.log_json):
        if served.notice:
            log.warning("%s", served.notice)
        try:
            return asyncio.run(_serve(plan, served, screen))
        except UsageError as error:
            raise plan.in_their_words(error) from error


async def _serve(plan: Plan, served: Served, screen: LogScreen) -> int:
    def insist(number: int) -> None:
        screen.end(patience=0.1)
        die(number)

    context = Context(served.models, folders=served.folders, options=plan.options, owner="serve")
    serving = create_server(
        context,
        host=plan.host,
        port=plan.port,
        uds=plan.uds,
        api_keys=plan.api_keys,
        allowed_origins=plan.allowed_origins,
        allowed_hosts=plan.allowed_hosts,
        grace=plan.grace,
    )
    with StopSignals(insist) as signals:
        screen.bar([_line(f"loading {', '.join(served.models)}" if served.models else "starting")])
        async with contextlib.AsyncExitStack() as until_the_end:
            try:
                if await signals.unless_told(serving.start()):
                    screen.clear()
                    said = ready(
                        serving.url, context, plan.options, served.default, named=bool(served.models)
                    )
                    _say(said, as_json=plan.log_json)
                    await until_the_end.enter_async_context(_bar(screen, serving))
                    await signals.told.wait()
                    _say_stopping(context, plan.grace)
            finally:
                await serving.stop()
    return signals.exit_code


def _say(what: Ready, *, as_json: bool) -> None:
    line = json.dumps(what.as_json()) if as_json else terminal.one_line(str(what))
    print(line, flush=True)


def _say_stopping(context: Context, grace: float) -> None:
    figures = context.figures()
    if work := figures.running + figures.waiting:
        answers = "1 answer" if work == 1 else f"{work:,} answers"
        log.info("stopping: %s may go on for %g s; once more stops at once", answers, grace)
    else:
        log.info("stopping")


@contextlib.asynccontextmanager
async def _bar(screen: LogScreen, serving: Serving) -> AsyncIterator[None]:
    task = asyncio.create_task(_keep(screen, serving)) if screen.live else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


async def _keep(screen: LogScreen, serving: Serving) -> None:
    try:
        colours, load, url = status_bar.Colours(), ProcessLoad(), serving.url
        while True:
            # One column stays free: terminals disagree about where the cursor is after a full line.
            width = terminal.size()[0] - 1
            figures = serving.context.figures()
            text = status_bar.bar_text(url, figures, serving.counters, load.read(), width)
            screen.bar(colours(text))
            await asyncio.sleep(status_bar.PERIOD)
    except Exception:  # a server goes on without its bar
        screen.bar([])
        log.exception("the status bar failed")


def _may_draw() -> bool:
    return terminal.is_terminal(sys.stderr) and not terminal.plain_wanted(os.environ)


def _line(text: str) -> Line:
    text = terminal.one_line(text)[: terminal.size()[0] - 1]
    return Line(text, len(text))
