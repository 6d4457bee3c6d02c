"""`mlxone show`: everything known about one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known
from mlxone.cli.flags import SectionedCommand
from mlxone.cli.group import verbose_option
from mlxone.cli.models import model_params, named_model
from mlxone.cli.sizes import bits_in_words, context_in_words, count_in_words, in_words
from mlxone.cli.terminal import neutralise
from mlxone.core.errors import MlxoneError

if TYPE_CHECKING:
    from mlxone.core.facts import LayerFacts, ModelFacts
    from mlxone.hub.details import Details
    from mlxone.hub.entry import Entry

Line = tuple[str, str]
SHOWN_FILES = 24
CONTEXTS = (8192, 32768, 131_072)


@click.command(
    "show",
    cls=SectionedCommand,
    params=[
        *model_params(required=False),
        known.model_dir_flag(),
        known.json_flag("Print one JSON object; sizes are in bytes."),
        verbose_option(),
    ],
)
def command(model: str | None, model_flag: str | None, model_dir: tuple[str, ...], json: bool) -> None:
    """Show everything known about a model on this machine.

    "As in mlx-lm" stands before what is computed otherwise than in the code it was published with.
    """
    from mlxone.hub.details import details

    model = named_model(model, model_flag)
    with known.registry(model_dir) as registry:
        everything = registry.refresh()
        entry = registry.match(model, among=everything)
        found = details(entry, everything)
        memory, departing = _memory(entry), _departures(entry)
        if json:
            known.print_json({**_as_json(entry, found, memory), "departures": departing})
            return
        for label, value in lines(entry, found, memory, departing):
            click.echo(f"{label:<16}{neutralise(' '.join(value.splitlines()))}".rstrip())


def lines(
    entry: Entry, found: Details, memory: list[dict[str, Any]], departing: Sequence[str] = ()
) -> Iterator[Line]:
    yield from _identity(entry, found)
    if entry.facts:
        yield from _shape(entry.facts, found)
    yield "can", ", ".join(sorted(entry.capabilities)) or "text only"
    yield "runs here", known.support_in_words(entry)
    for departure in departing:
        yield "as in mlx-lm", departure
    if found.has_chat_template is not None:
        yield "chat template", known.yes_or_no(found.has_chat_template)
    for name, value in found.generation.items():
        yield "by default", f"{name} {value}"
    for need in memory:
        fits = "fits" if need["fits"] else "does not fit"
        context = context_in_words(need["context_tokens"])
        yield f"at {context}", f"{in_words(need['total_bytes'])}, {fits}"
    if entry.drafter:
        yield "drafter", "it only speeds another model up"
    yield from _files(found)


def _memory(entry: Entry) -> list[dict[str, Any]]:
    """What the model needs at a few contexts, as `fit --json` says it."""
    from mlxone.service import fitting

    if entry.facts is None:
        return []
    longest = entry.facts.context_length or CONTEXTS[-1]
    contexts = [context for context in CONTEXTS if context <= longest] or [longest]
    return [fitting.fit(entry.facts, context).to_json() for context in contexts]


def _departures(entry: Entry) -> list[str]:
    """Where a model that runs here computes something else than the code it was published with."""
    from mlxone.formats.config import Config
    from mlxone.models.families.departures import departures

    if entry.problem or entry.support or entry.format == "gguf":
        return []
    try:
        return list(departures(Config.read(entry.path)))
    except MlxoneError:  # gone or changed since it was looked at
        return []


def _identity(entry: Entry, found: Details) -> Iterator[Line]:
    yield "model", entry.name
    yield "path", str(entry.path)
    yield "source", f"{entry.source}, {entry.format}"
    for revision in found.revisions:
        names = ", ".join(revision.refs) or "no branch or tag"
        yield "revision", f"{revision.commit} ({names}){' *' if revision.path == entry.path else ''}"
    for copy in found.copies:
        yield "another copy", f"{copy.path} ({copy.source})"
    yield "on disk", in_words(entry.size_bytes)
    if entry.license:
        yield "license", entry.license
    if entry.problem:
        yield "problem", known.problem_in_words(entry)


def _shape(facts: ModelFacts, found: Details) -> Iterator[Line]:
    architecture = f"{found.architecture} ({facts.model_type})" if found.architecture else facts.model_type
    yield "architecture", architecture
    yield "parameters", f"{count_in_words(facts.parameters)} ({facts.parameters:,})"
    if facts.experts:
        yield "experts", f"{facts.experts}, of which a token uses {facts.experts_per_token}"
    yield "layers", f"{facts.layer_count}: " + ", ".join(_layers(layer) for layer in facts.layers)
    yield "heads", f"{facts.heads} of {facts.head_dim}"
    yield "hidden size", str(facts.hidden_size)
    yield "vocabulary", str(facts.vocab_size)
    if facts.context_length:
        yield "context", f"{context_in_words(facts.context_length)} ({facts.context_length} tokens)"
    if facts.window:
        yield "window", f"{facts.window} tokens"
    if facts.bits and not facts.packed_parameters:
        yield "weights", f"{bits_in_words(facts.bits)} bits"
    elif facts.bits:
        group = f", groups of {facts.group_size}" if facts.group_size else ""
        yield "quantized", f"{bits_in_words(facts.bits)} bits{group}{f', {facts.mode}' if facts.mode else ''}"
    yield "language part", in_words(facts.language_bytes)
    if facts.expert_bytes:
        yield "  experts", in_words(facts.expert_bytes)
    if facts.sidecar_bytes:
        yield "sidecars", in_words(facts.sidecar_bytes)


def _layers(layer: LayerFacts) -> str:
    heads = f" with {layer.kv_heads} key heads of {layer.key_dim}" if layer.kv_heads else ""
    bits = f" at {layer.kv_bits} bits" if layer.kv_bits else ""
    return f"{layer.count} {layer.kind}{heads}{bits}"


def _files(found: Details) -> Iterator[Line]:
    for name, size in list(found.files.items())[:SHOWN_FILES]:
        yield "file", f"{in_words(size):>9}  {name}"
    if len(found.files) > SHOWN_FILES:
        yield "", f"and {len(found.files) - SHOWN_FILES} more (--json lists all)"


def _as_json(entry: Entry, found: Details, memory: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        **known.entry_json(entry),
        "files": [{"name": name, "size_bytes": size} for name, size in found.files.items()],
        "revisions": [
            {
                "revision": revision.commit,
                "path": str(revision.path),
                "refs": list(revision.refs),
                "canonical": revision.canonical,
            }
            for revision in found.revisions
        ],
        "copies": [{"path": str(copy.path), "source": copy.source} for copy in found.copies],
        "architecture": found.architecture,
        "chat_template": found.has_chat_template,
        "generation_config": found.generation,
        "kv_config": "kv-config" in entry.capabilities,
        "memory": memory,
    }
