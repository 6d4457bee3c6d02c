"""`mlxone fit`: whether a model fits this machine, before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams, table
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.models import model_params, named_model
from mlxone.cli.sizes import (
    bits_in_words,
    context_in_words,
    count_in_words,
    duration_in_words,
    in_words,
    read_size,
    read_tokens,
)
from mlxone.cli.table import Cell, Column
from mlxone.core.errors import StorageError, UsageError
from mlxone.core.settings import PREFILL_STEP

if TYPE_CHECKING:
    from mlxone.fitting.report import FitReport
    from mlxone.fitting.skus import Sku

QUESTION, OUTPUT = "Question", "Output"
BITS = ("2", "3", "4", "5", "6", "8")
# What a flag is when nobody gave it.
UNASKED: dict[str, Any] = {
    "ctx": None, "memory_budget": None, "kv_quant": "off", "batch": 1, "prefill_step": None,
    "vision": False, "bits": None, "best": False, "skus": False, "plot": None,
}  # fmt: skip
SKU_COLUMNS = (
    Column("CHIP", comfortable=16),
    Column("MEMORY", right=True),
    Column("BANDWIDTH", right=True, optional=2),
    Column("FITS"),
    Column("NEEDS", optional=1),
    Column("CONTEXT", right=True),
    Column("TOK/S", right=True),
    Column("PROMPT TOK/S", right=True, optional=3),
)


def _gigabytes(text: str) -> float:
    size = read_size(text, "--memory-budget")
    if not size:
        raise UsageError(f"--memory-budget takes a size above 0, not {text!r}")
    return size / 1e9


def _tokens(text: str) -> int:
    return read_tokens(text, "--ctx")


def _bits(text: str) -> int:
    if text not in BITS:
        raise UsageError(f"--bits is one of {', '.join(BITS)}, not {text!r}")
    return int(text)


@click.command(
    "fit",
    cls=SectionedCommand,
    params=[
        *model_params(required=False),
        flag(QUESTION, "--ctx", "Prompt and answer together: 8192, 32k. [8k]", "N", type=_tokens),
        flag(
            QUESTION,
            "--memory-budget",
            "In place of what a model may use here; GB, or 500MB.",
            "GB",
            type=_gigabytes,
        ),
        flag(
            QUESTION,
            "--kv-quant",
            "Bits of keys and values: off, 4, 8, or config for the model's kv_config.json. [off]",
            "BITS",
            type=click.Choice(["off", "4", "8", "config"]),
            default="off",
        ),
        flag(QUESTION, "--batch", "Conversations at once. [1]", "N", type=click.IntRange(1), default=1),
        flag(
            QUESTION,
            "--prefill-step",
            f"Prompt tokens read at once. [{PREFILL_STEP}]",
            "N",
            type=click.IntRange(1),
        ),
        flag(QUESTION, "--vision", "Count the parts for images and sound too.", is_flag=True),
        flag(QUESTION, "--bits", f"As if quantized to so many bits: {', '.join(BITS)}.", "N", type=_bits),
        flag(QUESTION, "--best", "The most bits it could be quantized to and fit.", is_flag=True),
        flag(QUESTION, "--skus", "The same question for every Mac from M1 on.", is_flag=True),
        flag(OUTPUT, "--plot", "Draw what --skus says as an SVG picture.", "FILE"),
        flag(
            OUTPUT,
            "--calibrate",
            "Run the model for a while; what is measured corrects later predictions.",
            is_flag=True,
        ),
        known.json_flag("Print one JSON object; sizes are in bytes."),
        verbose_option(),
    ],
)
def command(model: str | None, model_flag: str | None, **flags: Any) -> None:
    """Say whether a model fits this machine, and how fast it is there.

    MODEL may also be an ORG/REPO that is not on this machine: then only its headers are fetched. Exit
    code 0: it fits; 1: it does not; anything else is an error.
    """
    query = named_model(model, model_flag)
    _check(flags)
    if flags["calibrate"]:
        _calibrate(query, as_json=flags["json"])
    elif flags["skus"] or flags["plot"] is not None:
        _skus(query, flags)
    else:
        _fit(query, flags)


def _check(flags: dict[str, Any]) -> None:
    if flags["best"] and flags["bits"] is not None:
        raise UsageError("--best looks for the bits that --bits already names", hint="give one of them")
    if flags["plot"] == "":
        raise UsageError("--plot is empty", hint="name the file to write")
    if flags["calibrate"]:
        _refuse(flags, set(UNASKED), "--calibrate", "it runs the model as it is")
    elif flags["skus"] or flags["plot"]:
        asked = "--skus" if flags["skus"] else "--plot"
        _refuse(flags, {"memory_budget", "best"}, asked, "it asks about other machines")


def _refuse(flags: dict[str, Any], names: Collection[str], beside: str, why: str) -> None:
    for name in sorted(names):
        if flags[name] != UNASKED[name]:
            raise UsageError(f"--{name.replace('_', '-')} does not go with {beside}", hint=why)


def _fit(query: str, flags: dict[str, Any]) -> None:
    from mlxone.service import fitting

    found = fitting.fit(
        query,
        flags["ctx"],
        memory_budget=flags["memory_budget"],
        kv_quant=flags["kv_quant"],
        batch=flags["batch"],
        bits=flags["bits"],
        best=flags["best"],
        prefill_step=flags["prefill_step"],
        vision=flags["vision"],
    )
    if flags["json"]:
        known.print_json(found.to_json())
    else:
        click.echo("\n".join(lines(found, best=flags["best"])))
    if not found.fits:
        raise click.exceptions.Exit(1)


def lines(found: FitReport, *, best: bool = False) -> Iterator[str]:
    context = context_in_words(found.context_tokens)
    rows = f" in {found.rows} conversations" if found.rows > 1 else ""
    verdict = "fits" if found.fits else f"does not fit: {found.reason}"
    if found.fits and not found.fits_now:
        verdict = "fits, but not beside what is running now"
    yield f"{found.model} on {found.machine}, {context} tokens{rows}: {verdict}"
    if best:
        yield _best(found)
    yield ""
    bits = f", {bits_in_words(found.bits)} bits" if found.bits else ""
    form = ""
    if found.weight_form != "stored":
        packed = found.weight_form == "packed" and (found.bits or 0) < 16
        form = ", scales as float32" if packed else ", as float32"
    yield _line("weights", found.weights_bytes, f"{count_in_words(found.parameters)}{bits}{form}")
    kept = "" if found.kv_quant == "off" else f", quantized ({found.kv_quant})"
    yield _line("layer states", found.kv_bytes, f"{found.context_tokens:,} tokens{rows}{kept}")
    yield _line("transients", found.transient_bytes, "while the prompt is read")
    free = f"{in_words(found.free_bytes)} are free now"
    yield _line("total", found.total_bytes, f"of {in_words(found.usable_bytes)} a model may use; {free}")
    yield f"{'context':<14}{_longest(found)}"
    yield f"{'speed':<14}{_speed(found)}"
    for note in found.notes:
        yield f"{'note':<14}{note}"


def _best(found: FitReport) -> str:
    if found.best_bits is None:
        return "not even with 2 bits"
    return f"with at most {found.best_bits} bits, for which the figures are"


def _line(name: str, size: int, remark: str) -> str:
    return f"{name:<14}{in_words(size):>9}  {remark}"


def _longest(found: FitReport) -> str:
    if not found.max_safe_context:
        return "none fits, however short"
    made_for = f", made for {found.context_length:,}" if found.context_length else ""
    now = f" ({found.max_context_now:,} now)" if found.max_context_now != found.max_safe_context else ""
    return f"up to {found.max_safe_context:,} tokens{now}{made_for}"


def _speed(found: FitReport) -> str:
    if found.predicted_decode_tps is None:
        return "not known for this chip; `mlxone fit --calibrate` measures it"
    if found.predicted_prefill_tps is None:
        decode = f"about {found.predicted_decode_tps:.3g} tokens/s"
        return f"{decode}; `mlxone fit --calibrate` measures that of prompts"
    first = duration_in_words(found.predicted_first_token_seconds or 0)
    return (
        f"about {found.predicted_decode_tps:.3g} tokens/s; a prompt of that length at "
        f"{found.predicted_prefill_tps:.3g} tokens/s, its answer begins after {first}"
    )


def _skus(query: str, flags: dict[str, Any]) -> None:
    from mlxone.service import fitting

    named = fitting.named_facts(query)
    names = ("kv_quant", "batch", "bits", "prefill_step", "vision")
    found = fitting.sku_matrix(named.facts, flags["ctx"], **{name: flags[name] for name in names})
    if flags["plot"] is not None:
        _draw(found, Path(flags["plot"]), named.name)
    if flags["json"]:
        known.print_json([asdict(sku) for sku in found])
    elif flags["skus"]:
        table.show(SKU_COLUMNS, [_row(sku) for sku in found])


def _row(sku: Sku) -> list[Cell]:
    return [
        sku.chip,
        f"{sku.memory_gb} GB",
        f"{sku.bandwidth / 1e9:.0f} GB/s",
        known.yes_or_no(sku.fits),
        f"{sku.total_bytes / 1e9:.1f} of {sku.usable_bytes / 1e9:.1f} GB",
        context_in_words(sku.max_safe_context) if sku.max_safe_context else "",
        f"{sku.predicted_decode_tps:.3g}" if sku.predicted_decode_tps else "",
        f"{sku.predicted_prefill_tps:.3g}" if sku.predicted_prefill_tps else "",
    ]


def _draw(skus: list[Sku], path: Path, name: str) -> None:
    from mlxone.fitting import plot

    cells = [
        plot.Cell(s.chip, s.memory_gb, s.fits, s.max_safe_context or None, s.predicted_decode_tps)
        for s in skus
    ]
    try:
        path.write_text(plot.svg(cells, title=f"What fits where: {name}"), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"--plot {path}: {error.strerror or error}") from error
    streams.complain(f"drawn: {path}")


def _calibrate(query: str, *, as_json: bool) -> None:
    from mlxone.cli.opening import open_model
    from mlxone.cli.terminal import StatusLine
    from mlxone.service import learning

    loaded = open_model(query, quiet=as_json)
    status = StatusLine(quiet=as_json)
    try:
        learned = learning.calibrate(loaded, lambda done, total: status.show(f"round {done} of {total}"))
    finally:
        status.clear()
    if as_json:
        known.print_json(asdict(learned))
        return
    click.echo(
        f"{loaded.name}: {learned.decode_tps:.3g} tokens/s, prompts at {learned.prefill_tps:.3g} tokens/s, "
        f"transients {in_words(learned.transient_bytes)} at {learned.context_tokens:,} tokens"
    )
    streams.complain("remembered: predictions on this machine go by it from now on")
