"""`mlxone eval`: how well a model, or one of its adapters, does on data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams
from mlxone.cli.adapted import (
    adapted,
    adapter_flags,
    finite,
    measuring_flags,
    named_data,
    wanted,
)
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.models import model_params, named_model
from mlxone.cli.table import shortened
from mlxone.cli.terminal import StatusLine, one_line
from mlxone.cli.train_session import shortfall
from mlxone.core.errors import UsageError

if TYPE_CHECKING:
    from mlxone.service.model import Model
    from mlxone.training.data.source import Data
    from mlxone.training.evaluate import Evaluation
    from mlxone.training.exact import Compared

SHOWN = 3  # answers that are wrong
LONGEST = 60  # cells of what is shown of each


@click.command(
    "eval",
    cls=SectionedCommand,
    params=[
        *model_params(required=False),
        *adapter_flags(),
        *measuring_flags(2048),
        flag(
            "Measuring",
            "--sft-scope",
            "What counts of a conversation: all of it, or the last answer. [full]",
            "full|response",
            type=click.Choice(["full", "response"]),
        ),
        flag("Measuring", "--mask-prompt", "Short for --sft-scope response.", is_flag=True),
        flag(
            "Measuring",
            "--generate",
            "Answer each prompt, too, and count how often that is just what the data says.",
            is_flag=True,
        ),
        flag("Output", "--quiet", "No progress and no notices.", is_flag=True),
        known.json_flag("Print one JSON object: loss, perplexity, tokens, samples, exact_match, …"),
        verbose_option(),
    ],
)
def command(model: str | None, model_flag: str | None, **flags: Any) -> None:
    """Measure a model, or an adapter, on data.

    Loss and perplexity over scored tokens; of preferences also how often the better answer is the
    likelier one. --generate adds the share of prompts that are answered word for word as the data says.
    """
    from mlxone.cli.opening import open_model
    from mlxone.training.recipe import Recipe

    query, name = named_model(model, model_flag), named_data(flags)
    scope = Recipe.of({name: flags[name] or None for name in ("sft_scope", "mask_prompt")}).sft_scope
    data, split = wanted(flags)
    if data.format == "preference" and (flags["mask_prompt"] or flags["sft_scope"]):
        shown = "--mask-prompt" if flags["mask_prompt"] else "--sft-scope"
        raise UsageError(f"{shown} is not for preferences: only their answers count", hint="leave it out")
    loaded = open_model(query, pull=flags["pull"], quiet=flags["quiet"])
    status = StatusLine(quiet=flags["quiet"])
    try:
        found = _measured(loaded, data, scope, flags, status)
        compared = _answers(loaded, data, flags, status) if flags["generate"] else []
    finally:
        status.clear()
    if flags["json"]:
        about = {"model": loaded.name, "adapter": flags["adapter"], "data": name, "split": split}
        known.print_json({**about, "format": data.format, **as_json(found, compared)})
        return
    if not flags["quiet"]:
        for line in (*shortfall(found.truncated, found.skipped), *wrong(compared)):
            streams.complain(line)
    click.echo("\n".join(lines(found, data.format, split, compared)))


def _measured(
    model: Model, data: Data, scope: str, flags: Mapping[str, Any], status: StatusLine
) -> Evaluation:
    from mlxone.training.evaluate import evaluate

    return evaluate(
        model,
        data,
        adapter=flags["adapter"],
        batch=flags["batch"],
        max_length=flags["max_seq_length"],
        scope=scope,
        skip_bad=flags["skip_bad"],
        tell=lambda done, of: status.show(f"measuring: {done:,} of {of:,} samples"),
    )


def _answers(model: Model, data: Data, flags: Mapping[str, Any], status: StatusLine) -> list[Compared]:
    from mlxone.training.exact import answers

    changed = adapted(model, flags["adapter"])
    return list(
        answers(
            changed,
            data.train,
            data.format,
            tell=lambda done, of: status.show(f"answering: {done:,} of {of:,}"),
        )
    )


def as_json(found: Evaluation, compared: Sequence[Compared]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "samples": found.samples,
        "tokens": found.tokens,
        "loss": finite(found.loss),
        "perplexity": finite(found.perplexity),
        **{name: finite(value) for name, value in found.extras.items()},
        "truncated": found.truncated,
        "skipped": dict(found.skipped),
    }
    if compared:
        matches = sum(one.is_match for one in compared)
        values |= {"exact_match": matches / len(compared), "matches": matches, "answers": len(compared)}
    return values


def lines(found: Evaluation, format: str, split: str | None, compared: Sequence[Compared]) -> Iterator[str]:
    yield f"{'loss':<14}{found.loss:.4f}"
    if found.perplexity is not None:
        yield f"{'perplexity':<14}{found.perplexity:.4g}"
    for name, value in found.extras.items():
        yield f"{name:<14}{value:.4g}"
    if compared:
        matches = sum(one.is_match for one in compared)
        yield f"{'exact match':<14}{100 * matches / len(compared):.1f} % ({matches:,} of {len(compared):,})"
    part = f", {split}" if split else ""
    samples = "1 sample" if found.samples == 1 else f"{found.samples:,} samples"
    yield f"{'measured':<14}{found.tokens:,} tokens in {samples} ({format}{part})"


def wrong(compared: Sequence[Compared]) -> Iterator[str]:
    """The first answers that are not as the data says."""
    others = [one for one in compared if not one.is_match]
    for one in others[:SHOWN]:
        yield f"{one_line(one.place)}: {_short(one.said)} in place of {_short(one.expected)}"
    if len(others) > SHOWN:
        yield f"and {len(others) - SHOWN:,} more"


def _short(text: str) -> str:
    return repr(shortened(one_line(text), LONGEST))
