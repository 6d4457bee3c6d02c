"""`mlxone serve`: models over HTTP, until somebody stops it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli.flags import SectionedCommand, flag, setting_flags
from mlxone.cli.group import verbose_option
from mlxone.cli.known import model_dir_flag
from mlxone.cli.later_flags import LATER, not_built_yet
from mlxone.cli.models import WAYS
from mlxone.core.errors import MlxoneError, ModelNotFound, UsageError
from mlxone.core.settings import SERVE_SETTINGS

if TYPE_CHECKING:
    from mlxone.cli.serve_plan import Plan
    from mlxone.hub.find import Found

MODELS, ADAPTERS, ADDRESS, WHO, MEMORY, ANSWERS, OUTPUT = (
    "Models",
    "Adapters",
    "Address",
    "Who may ask",
    "Memory",
    "Answers",
    "Output",
)
ORDER = (ADAPTERS, ADDRESS, WHO, ANSWERS, MEMORY, OUTPUT)
_SECTIONS = {
    **dict.fromkeys(("host", "port", "uds"), ADDRESS),
    **dict.fromkeys(("adapter", "adapter_dir"), ADAPTERS),
    **dict.fromkeys(("api_key", "allowed_origins", "allowed_hosts", "allow_manage"), WHO),
    **dict.fromkeys(("memory_budget", "prompt_cache", "prompt_cache_bytes", "prompt_cache_size"), MEMORY),
    **dict.fromkeys(("idle_unload", "ctx_size", "prefill_step"), MEMORY),
    **dict.fromkeys(("log_level", "log_json"), OUTPUT),
}
_QUIET_LEVEL = "warn"


class ServeCommand(SectionedCommand):
    """Says of a flag that is to come that it is to come."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in LATER:
                raise not_built_yet(error.option_name) from None
            raise


FLAGS: list[click.Parameter] = [
    click.Argument(["words"], metavar="[MODEL]", nargs=-1),  # more than one is told how to name several
    flag(
        MODELS,
        "--model model_flag",
        f"The same as MODEL; may be repeated. {WAYS} [all that are on this machine]",
        "MODEL",
        multiple=True,
    ),
    model_dir_flag(),
    flag(MODELS, "--pull", "Download a model that is missing.", is_flag=True),
    *sorted(setting_flags(_SECTIONS, ANSWERS, SERVE_SETTINGS), key=lambda flag: ORDER.index(flag.section)),
    flag(OUTPUT, "--quiet", "No status bar, no progress, and of the log only what goes wrong.", is_flag=True),
    verbose_option(),
]


@click.command("serve", cls=ServeCommand, params=FLAGS)
def command(
    words: tuple[str, ...], model_flag: tuple[str, ...], model_dir: tuple[str, ...], **flags: Any
) -> None:
    """Serve models over HTTP, as OpenAI's clients expect it.

    With one MODEL every request is for it, whatever model it names. Without any, a request may name each
    model on this machine, and one that names none gets MLXONE_MODEL, the config file's model or the
    starter. A line on stdout says when it is ready. SIGTERM or Ctrl-C stops it, a second one at once.

    --adapter is for the model that requests get which name none; docs/server.md says more.

    All flags but --quiet and those of Models and Other can also be set by a variable (MLXONE_PORT for
    --port) or in the config file's table [serve] (port = 8090). The flag decides, then the variable,
    then the file.
    """
    from mlxone.cli.opening import find_model

    if len(words) > 1:
        several = " ".join(f"--model {word}" for word in words)
        raise UsageError(f"{len(words)} words where MODEL is expected", hint=f"several models: {several}")
    plan = _plan(flags)
    _probe(plan)
    find = functools.partial(find_model, folders=model_dir, pull=flags["pull"], quiet=flags["quiet"])
    models = _resolved([*words, *model_flag], find)
    default, notice = (None, "") if models else _prepared_default(find, model_dir)
    from mlxone.cli import serve_session  # the server with all it needs: everything above is quicker

    served = serve_session.Served(models, model_dir, default, notice)
    code = serve_session.run(plan, served, quiet=flags["quiet"])
    if code:
        raise click.exceptions.Exit(code)


def _plan(flags: Mapping[str, Any]) -> Plan:
    from mlxone.cli import serve_plan, serve_values
    from mlxone.hub import config, places

    table = config.table_setting(serve_values.TABLE)
    found = serve_values.values(flags, os.environ, table, places.config_file())
    given = {name: one.value for name, one in found.items()}
    if flags["quiet"]:
        given.setdefault("log_level", _QUIET_LEVEL)
    return serve_plan.plan(given, {name: one.shown_as for name, one in found.items()})


def _probe(plan: Plan) -> None:
    from mlxone.cli import port_probe

    port_probe.refuse_if_taken(plan.host, plan.port, plan.uds)


def _resolved(named: Sequence[str], find: Callable[[str], Found]) -> list[str]:
    """The models as they were named, each once and each known to be here."""
    places: dict[Path, str] = {}
    for name in named:
        places.setdefault(find(name).path.resolve(), name)
    return list(places.values())


def _prepared_default(find: Callable[[str], Found], folders: Sequence[str]) -> tuple[str | None, str]:
    """Who answers where no model is named, called as it is listed; without one, why there is none.

    Downloaded now and not in the middle of a request. One that the operator chose has to be there; where
    only the starter is missing, all others are served without it.
    """
    from mlxone.hub.find import default_model
    from mlxone.hub.starter import STARTER
    from mlxone.service.catalogue import Catalogue

    name, catalogue = default_model(), Catalogue(folders=folders)
    try:
        find(name)
    except MlxoneError as error:
        if name != STARTER:
            raise
        if all(offer.card.problem for offer in catalogue.look()):
            raise ModelNotFound(
                "there is no model on this machine that can be served",
                hint="`mlxone get gemma4` downloads one, `mlxone ls` says what is here",
            ) from error
        return None, f"requests have to name a model: {error}"
    return catalogue.find(None).id, ""
