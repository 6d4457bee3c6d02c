"""`mlxone run`: one answer to a prompt, or a chat where there is none and someone to talk to."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import inputs, streams, terminal
from mlxone.cli.flags import SectionedCommand, flag, read_truth, setting_flags
from mlxone.cli.group import Session, verbose_option
from mlxone.cli.positionals import split_positionals
from mlxone.cli.terminal import StatusLine
from mlxone.core.errors import UsageError

if TYPE_CHECKING:
    from mlxone.cli.asking import Asking
    from mlxone.service.model import Model

PROMPT, MODEL, SAMPLING, OUTPUT = "Prompt", "Model", "Answer", "Output"

FLAGS: list[click.Parameter] = [
    click.Argument(["words"], nargs=-1, metavar="[MODEL] [PROMPT]"),
    flag(PROMPT, "--prompt", "The prompt, whatever else stands on the line.", "TEXT"),
    flag(PROMPT, "--file files", "Text put before the prompt; may be repeated.", "PATH", multiple=True),
    flag(PROMPT, "--system", "What the model is told before the conversation.", "TEXT"),
    flag(PROMPT, "--raw", "Send the prompt as it is, without the chat template.", is_flag=True),
    flag(PROMPT, "--chat-template", "A Jinja template to use instead of the model's own.", "FILE"),
    flag(
        PROMPT,
        "--thinking",
        "Ask the template to let the model think first, or not to. [the template's way]",
        "true|false",
        type=read_truth("--thinking"),
    ),
    flag(
        MODEL,
        "--model",
        "A path, ORG/REPO, short name, or a query that matches one model. "
        "[MLXONE_MODEL, the config file's model, the starter]",
        "MODEL",
    ),
    flag(
        MODEL,
        "--adapter --adapter-path adapters",
        "An adapter for the model, called by its folder's name where no NAME is given; may be repeated: "
        "they work together, in this order.",
        "[NAME=]DIR",
        multiple=True,
    ),
    flag(MODEL, "--pull", "Download the model if it is missing.", is_flag=True),
    *setting_flags({"ctx_size": MODEL, "prefill_step": MODEL}, SAMPLING),
    flag(SAMPLING, "--stop", "End the answer before this text; may be repeated.", "TEXT", multiple=True),
    flag(
        SAMPLING,
        "--logit-bias",
        "Add BIAS to a token's logit; a JSON object of several works too; may be repeated.",
        "ID=BIAS",
        multiple=True,
    ),
    flag(OUTPUT, "--json", "Print one JSON object: model, text, tokens, finish_reason, stats.", is_flag=True),
    flag(OUTPUT, "--stats", "Print speed and memory to stderr.", is_flag=True),
    flag(OUTPUT, "--quiet", "No progress and no notices.", is_flag=True),
    verbose_option(),
]


@click.command("run", cls=SectionedCommand, params=FLAGS)
@click.pass_obj
def command(session: Session, /, words: tuple[str, ...], **flags: Any) -> None:
    """Answer a prompt, or chat at a terminal.

    Two words are MODEL and PROMPT. A single one is the MODEL if it is a path, an ORG/REPO, a short
    name or matches a model on disk and has no spaces, else the PROMPT; --model and --prompt always
    decide. Text that is piped in goes behind the prompt, or is the prompt; --file goes before it.
    With no prompt at a terminal a chat begins; /help there says more.
    """
    from mlxone.cli.asking import asking
    from mlxone.hub.in_use import in_use

    for name in ("prompt", "system", "model"):
        inputs.encodable(flags[name], shown_as=f"--{name}")
    inputs.encodable(" ".join((*words, *flags["stop"])), shown_as="the command line")
    model, prompt = split_positionals(words, flags["model"], flags["prompt"], _looks_like_model)
    how = asking(flags)
    text = _text(flags["files"], prompt, quiet=flags["quiet"])
    if text is None:
        _require_chat(flags)
    loaded = _open(model, how, flags)
    if not flags["quiet"]:
        _say_departures(loaded)
    with in_use(loaded.path):
        if text is None:
            from mlxone.cli.chat import chat

            chat(loaded, how, quiet=flags["quiet"], stats=flags["stats"], verbose=session.verbose)
        else:
            _answer(loaded, how, text, flags)


def _looks_like_model(word: str) -> bool:
    from mlxone.hub import find

    return find.looks_like_model(word)


def _text(files: tuple[str, ...], prompt: str | None, *, quiet: bool) -> str | None:
    texts = [inputs.read_text(path, shown_as="--file") for path in files]
    notice = (lambda _: None) if quiet else _notice
    piped = "" if terminal.is_terminal(sys.stdin) else inputs.read_stdin(notice)
    return inputs.compose(texts, prompt, piped)


def _notice(text: str) -> None:
    print(f"mlxone: {text}", file=sys.stderr, flush=True)


def _say_departures(model: Model) -> None:
    """What comes out of this model may not be what its publisher's code gives."""
    for departure in model.departures:
        line = terminal.one_line(f"mlxone: as in mlx-lm, {model.name} {departure}")
        streams.complain(terminal.dimmed(line, sys.stderr))


def _require_chat(flags: dict[str, Any]) -> None:
    if not (terminal.is_terminal(sys.stdin) and terminal.is_terminal(sys.stdout)):
        raise UsageError("no prompt", hint="give one as an argument or on stdin; a chat needs a terminal")
    for name in ("raw", "json"):
        if flags[name]:
            raise UsageError(f"--{name} needs a prompt", hint="it does not go with a chat")


def _open(model: str | None, how: Asking, flags: dict[str, Any]) -> Model:
    from mlxone.cli.opening import open_model
    from mlxone.hub import find
    from mlxone.service.room import mount_all

    name = model or find.default_model()
    loaded = open_model(name, chat_template=how.chat_template, pull=flags["pull"], quiet=flags["quiet"])
    if how.adapter:
        mount_all(loaded, how.adapters)
        loaded.adapters.mounts.chosen(how.adapter)  # whether they can work together is known now
    return loaded


def _answer(model: Model, how: Asking, text: str, flags: dict[str, Any]) -> None:
    from mlxone.cli import answers, sinks
    from mlxone.service import answer as service

    sink = sinks.Nowhere() if flags["json"] else sinks.for_stdout(markdown=not how.raw)
    events = service.answer(model, how.one_shot(model, text))
    answer = answers.consume(events, sink, StatusLine(quiet=flags["quiet"]))
    if flags["json"]:
        # Escaped to ASCII where the stream could not hold the characters themselves.
        unicode_out = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        print(json.dumps(answers.as_json(model.name, answer), ensure_ascii=not unicode_out))
    if flags["stats"] and answer.stats:
        print(answers.stats_text(answer.stats), file=sys.stderr)
    if not how.adapters:
        answers.learn_from(model, answer.stats)
