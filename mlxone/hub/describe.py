"""One model on disk -> its `Entry`. Whatever is wrong with it becomes the entry's `problem`.

Configs, headers and the card are read; the bytes of tensors never are.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxone.core.errors import MlxoneError, StorageError
from mlxone.core.facts import ModelFacts
from mlxone.formats.config import Config, read_json
from mlxone.formats.gguf import Header, check_header
from mlxone.formats.safetensors import FLOATS
from mlxone.formats.shards import INDEX
from mlxone.hub.entry import GGUF_SUPPORT, INCOMPLETE, Entry
from mlxone.hub.facts import read_facts
from mlxone.hub.gguf_facts import gguf_facts
from mlxone.hub.traits import Traits, is_drafter, read_traits, said_by_templates

LONGEST_PROBLEM = 300

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclass(frozen=True, slots=True)
class Subject:
    """What an entry says of a model before any of its files is opened."""

    repo: str
    source: str
    path: Path
    size_bytes: int
    revision: str | None = None
    part: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    entry: Entry
    lasting: bool = True  # False: the system refused something, and may not refuse it next time


def describe_folder(subject: Subject, files: Iterable[str]) -> Reading:
    """A folder that is meant to be a model; `files` are the names that are really in it."""

    def read() -> tuple[ModelFacts | None, Traits, str | None]:
        missing = _missing(subject.path, set(files))
        if missing:
            return None, Traits(), INCOMPLETE + missing
        config = Config.read(subject.path)
        traits = read_traits(subject.path, subject.repo, config)
        try:
            return read_facts(subject.path, config), traits, None
        except StorageError:
            raise
        except MlxoneError as error:
            return None, traits, error.message
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            return None, traits, f"its config cannot be understood: {error!r}"

    return _reading(subject, "safetensors", read)


def describe_gguf(subject: Subject, parts: list[Path], *, sees: bool) -> Reading:
    """A GGUF file, or the parts of one in their order; `sees` where a vision companion lies beside it."""

    def read() -> tuple[ModelFacts | None, Traits, str | None]:
        stated = _PART.search(parts[0].stem)
        if stated and len(parts) != int(stated[2]):
            return None, Traits(), f"{INCOMPLETE}{len(parts)} of {int(stated[2])} parts are there"
        header = check_header(parts[0])
        facts = gguf_facts(parts[0])
        for part in parts[1:]:
            facts = _with_part(facts, check_header(part))
        return facts, _gguf_traits(subject.repo, header, sees), None

    reading = _reading(subject, "gguf", read)
    support = None if reading.entry.problem else GGUF_SUPPORT
    return replace(reading, entry=replace(reading.entry, support=support))


def part_number(name: str) -> tuple[str, int]:
    """A GGUF file's name without its end, and which part of the whole it is: 1 for a single file."""
    stem = name.removesuffix(".gguf")
    found = _PART.search(stem)
    return (stem[: found.start()], int(found[1])) if found else (stem, 1)


def _reading(
    subject: Subject, format: str, read: Callable[[], tuple[ModelFacts | None, Traits, str | None]]
) -> Reading:
    facts, traits, problem, lasting = None, Traits(), None, True
    try:
        facts, traits, problem = read()
    except StorageError as error:
        problem, lasting = error.message, False
    except MlxoneError as error:
        problem = error.message
    except OSError as error:
        problem, lasting = f"{subject.path} cannot be read: {error.strerror or error}", False
    entry = Entry(
        repo=subject.repo,
        path=subject.path,
        source=subject.source,
        format=format,
        size_bytes=subject.size_bytes,
        revision=subject.revision,
        drafter=traits.drafter,
        capabilities=traits.capabilities,
        license=traits.license,
        problem=_one_line(problem),
        facts=facts,
        scanned_at=time.time(),
        part=subject.part,
    )
    return Reading(entry, lasting)


def _one_line(problem: str | None) -> str | None:
    if problem is None:
        return None
    line = " ".join(problem.split())
    return line.encode(errors="replace").decode()[:LONGEST_PROBLEM]


def _missing(folder: Path, files: set[str]) -> str | None:
    """Which file of a whole model is not there, by name alone."""
    if "config.json" not in files:
        return "config.json is missing"
    if INDEX not in files:
        return None if any(f.endswith(".safetensors") for f in files) else "no safetensors weights are there"
    named = read_json(folder / INDEX).get("weight_map")
    if not isinstance(named, dict):
        return None  # damaged, as reading the facts will say
    absent = sorted({name for name in named.values() if isinstance(name, str)} - files)
    more = f" and {len(absent) - 1} more files are" if len(absent) > 1 else " is"
    return f"{absent[0][:80]}{more} missing" if absent else None


def _gguf_traits(repo: str, header: Header, sees: bool) -> Traits:
    values: Mapping[str, Any] = header.values
    templates = [
        v for k, v in values.items() if k.startswith("tokenizer.chat_template") and isinstance(v, str)
    ]
    architecture = str(values.get("general.architecture", ""))
    found = {
        "vision": sees,
        "embedding": "bert" in architecture or f"{architecture}.pooling_type" in values,
        **said_by_templates(templates),
    }
    license = values.get("general.license")
    return Traits(
        frozenset(name for name, there in found.items() if there),
        license if isinstance(license, str) and license else None,
        is_drafter(repo, {"model_type": architecture}),
    )


def _with_part(facts: ModelFacts, part: Header) -> ModelFacts:
    """The first part's facts with another part's tensors counted in; it alone has the settings."""
    count = {t.name: math.prod(t.shape) for t in part.tensors}
    parameters = sum(count.values())
    packed = sum(count[t.name] for t in part.tensors if t.kind not in FLOATS)
    return replace(
        facts,
        parameters=facts.parameters + parameters,
        language_bytes=facts.language_bytes + sum(t.size for t in part.tensors),
        wide_bytes=facts.wide_bytes + parameters * 4,
        packed_parameters=facts.packed_parameters + packed,
        unpackable_parameters=facts.unpackable_parameters
        + sum(count[t.name] for t in part.tensors if len(t.shape) < 2),
        expert_bytes=facts.expert_bytes + sum(t.size for t in part.tensors if "_exps." in t.name),
    )
