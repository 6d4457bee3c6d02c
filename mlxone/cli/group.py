"""The group of verbs: a literal table, and each verb's module imported when it is used."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass

import click

from mlxone import __version__
from mlxone.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Verb:
    module: str  # holds the click command as `command`
    summary: str  # stands here so that the list of verbs imports none of them


VERBS: dict[str, Verb] = {
    "run": Verb("mlxone.cli.run", "Answer a prompt, or chat at a terminal."),
    "serve": Verb("mlxone.cli.serve", "Serve models over HTTP, as OpenAI's clients expect it."),
    "get": Verb("mlxone.cli.get", "Download a model from the Hub, or refresh it."),
    "search": Verb("mlxone.cli.search", "Search the Hub for models, those made for MLX first."),
    "ls": Verb("mlxone.cli.ls", "List the models on this machine."),
    "show": Verb("mlxone.cli.show", "Show everything known about a model on this machine."),
    "models": Verb("mlxone.cli.families", "List the families of models that run."),
    "fit": Verb("mlxone.cli.fit", "Say whether a model fits this machine, and how fast it is there."),
    "train": Verb("mlxone.cli.train", "Fine-tune a model: from data to an adapter."),
    "train-watch": Verb("mlxone.cli.train_watch", "Follow a training run from elsewhere."),
    "fuse": Verb("mlxone.cli.fuse", "Make an adapter part of its model."),
    "eval": Verb("mlxone.cli.eval", "Measure a model, or an adapter, on data."),
    "perplexity": Verb("mlxone.cli.perplexity", "Say how surprised a model is by a text."),
    "scan": Verb("mlxone.cli.scan", "Look for models on this machine again."),
    "gc": Verb("mlxone.cli.gc", "Show what could be deleted, or delete it."),
    "rm": Verb("mlxone.cli.rm", "Delete a model from this machine."),
    "doctor": Verb("mlxone.cli.doctor", "Say what works here and what does not, and what to do about it."),
    "completion": Verb("mlxone.cli.completion", "Print the completion script for a shell."),
    "uninstall": Verb("mlxone.cli.uninstall", "Remove what mlxone unpacked here, and say what stays."),
}

# For our own processes; they are not listed.
HIDDEN: dict[str, Verb] = {"device": Verb("mlxone.cli.device", "Print what MLX says of the device, as JSON.")}

JSON_ASKED = "json before the verb"  # where click keeps what one flag has to tell another

WELCOME = """\
mlxone runs language models on Apple's MLX.

  mlxone run "Name the capital of France."     one answer
  cat notes.txt | mlxone run "Summarise:"      about a text
  mlxone run                                   a chat
  mlxone serve                                 the same for programs, over HTTP
  mlxone get gemma4                            a larger model
  mlxone ls                                    what is here
  mlxone fit gemma4:12b                        whether another one fits
  mlxone train --data notes.jsonl              an adapter that learned from examples

`mlxone --help` lists every verb, `mlxone VERB --help` its flags.
"""


@dataclass(slots=True)
class Session:
    """What one process start was asked for, whatever the verb."""

    verbose: bool = False


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(cmd_name) or HIDDEN.get(cmd_name)
        if verb is None:
            return None
        found = importlib.import_module(verb.module).command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and args[0] not in HIDDEN:
            raise unknown_verb(args[0])
        return args[0], self.get_command(ctx, args[0]), args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


def unknown_verb(word: str) -> UsageError:
    near = difflib.get_close_matches(word, VERBS, n=1)
    if near:
        hint = f"did you mean `mlxone {near[0]}`?"
    elif " " in word:
        hint = 'to ask a model: mlxone run "..."'
    else:
        hint = "`mlxone --help` lists the verbs"
    return UsageError(f"no such verb: {word}", hint=hint)


def set_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Session).verbose = True


def verbose_option() -> click.Option:
    return click.Option(
        ["--verbose"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=set_verbose,
        help="Show the traceback when something fails.",
    )


def note_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[JSON_ASKED] = value


def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Runs after all eager flags, so that --json may stand on either side of it."""
    as_json = ctx.meta.get(JSON_ASKED, False)
    if ctx.resilient_parsing:
        return
    if as_json and not value:
        raise UsageError("--json stands behind the verb", hint="before one it goes only with --version")
    if value:
        click.echo(_about_json() if as_json else f"mlxone {__version__}")
        ctx.exit()


def _about_json() -> str:
    import json
    from dataclasses import asdict

    from mlxone.core.about import about

    return json.dumps(asdict(about()), indent=2, ensure_ascii=False)


def version_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            callback=show_version,
            help="Show the version and exit.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=note_json,
            help="With --version: the build, MLX, Python and the platform as well, as one JSON object.",
        ),
    ]


@click.group(
    "mlxone",
    cls=LazyGroup,
    invoke_without_command=True,
    params=[verbose_option(), *version_options()],
    context_settings={"help_option_names": ["-h", "--help"]},
    options_metavar="[FLAGS]",
    subcommand_metavar="VERB ...",
    help="Runs, serves and trains language models on Apple's MLX.",
    epilog="Exit codes: 0 done, 1 the answer is no, 2 usage, 130 Ctrl-C; docs/exit-codes.md lists them all.",
)
@click.pass_context
def group(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(WELCOME, nl=False)


def run(args: list[str], session: Session) -> int:
    """Not click's own `main`: that one turns Ctrl-C and a broken pipe into exit code 1."""
    try:
        with group.make_context("mlxone", args, obj=session) as context:
            group.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return 0
