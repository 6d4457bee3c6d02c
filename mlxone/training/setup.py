"""All that is settled before a run's first step: model, recipe, material, what is trained, who is who."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import AdapterMismatch, AdapterNotFound, UsageError
from mlxone.core.facts import ModelFacts
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.models.adapters import Adapter
from mlxone.models.changed import linears_of
from mlxone.service.loading import load
from mlxone.service.model import Model
from mlxone.training.checkpoints import Checkpoint
from mlxone.training.data.source import Data, Source
from mlxone.training.events import Watcher
from mlxone.training.losses import Dpo, Objective, Orpo, Sft
from mlxone.training.material import Material, Steps, gather
from mlxone.training.optimizer import Params
from mlxone.training.recipe import Recipe
from mlxone.training.sampling import Sampler
from mlxone.training.trainable import Trainable

WEIGHTS = ("*.safetensors", "*.gguf", "config.json")
# What is read of a file to know it: its first bytes, and blocks spread evenly over all of it. Models that
# were tuned from one another may begin and end alike.
BEGINNING, BLOCKS, BLOCK = 1 << 20, 256, 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    model: Model
    recipe: Recipe
    material: Material
    trainable: Trainable
    objective: Objective
    steps: int
    fingerprints: Mapping[str, str]
    facts: ModelFacts
    sampler: Sampler | None  # refused here, if it is, and not after hours

    def start(self) -> Params:
        """The parameters before the first step."""
        with lock, on_stream():
            params = self.trainable.start(self.recipe.seed)
            if self.recipe.start_from is not None:
                params = _started_from(Path(self.recipe.start_from), self, params)
            mx.eval(params)
        return params


def prepare(
    model: Model | str | Path | None,
    source: Source | Data,
    recipe: Recipe,
    tell: Watcher,
    *,
    features: Mapping[str, str] | None = None,
    skip_bad: bool = False,
) -> Setup:
    model = model if isinstance(model, Model) else load(model)
    trainable = trainable_of(model, recipe)
    if recipe.type == "full":
        _check_plain(model, trainable)
    material = gather(model, source, recipe, features=features, skip_bad=skip_bad, tell=tell)
    tell(material.prepared)
    fingerprints = {"model": model_fingerprint(model), "data": material.train.fingerprint}
    if recipe.start_from is not None:
        fingerprints["start_from"] = _start_fingerprint(Path(recipe.start_from))
    return Setup(
        model=model,
        recipe=recipe,
        material=material,
        trainable=trainable,
        objective=objective_of(recipe),
        steps=recipe.steps(Steps(material.train.samples, recipe).per_epoch),
        fingerprints=fingerprints,
        facts=read_facts(model.path, Config.read(model.path)),
        sampler=Sampler(model, material.data, recipe.sample_prompt) if recipe.sample_every else None,
    )


def recipe_of(options: Mapping[str, Any], checkpoint: Checkpoint | None) -> Recipe:
    """From the options; of a run that goes on, or an adapter to start from, what was left out."""
    if checkpoint is not None:
        return Recipe.of(checkpoint.recipe).going_on(options)
    start_from = options.get("start_from")
    if not isinstance(start_from, str):
        return Recipe.of(options)
    adapter = Adapter.read(start_from)
    own: dict[str, Any] = {"type": adapter.kind}
    if adapter.kind != "full":
        own |= {"rank": adapter.rank, "scale": adapter.scale}
    given = {name: value for name, value in options.items() if value is not None}
    if "type" in given and given["type"] != adapter.kind:
        raise AdapterMismatch(f"{start_from} is a {adapter.kind} adapter, not {given['type']}")
    if given.get("rs_lora") and "scale" not in given:
        raise UsageError("with start_from, rs_lora needs a scale of its own", param="scale")
    return Recipe.of(own | given)


def trainable_of(model: Model, recipe: Recipe) -> Trainable:
    bits = _bits(model)
    with lock, on_stream():
        return Trainable(
            model.decoder,
            kind=recipe.type,  # type: ignore[arg-type]
            rank=recipe.rank,
            scale=recipe.adapter_scale,
            dropout=recipe.dropout,
            modules=recipe.target_modules,
            layers=recipe.last_layers,
            ranks=recipe.ranks(bits),
        )


def _check_plain(model: Model, trainable: Trainable) -> None:
    """Whole weights that were trained have no place in a base that keeps them packed."""
    packed = sorted({bits for path, bits in _bits(model).items() if bits and path in trainable.paths})
    if packed:
        raise UsageError(
            f"{model.name} is packed ({', '.join(map(str, packed))} bits a weight): there is no place in it "
            "for whole weights, which type full trains",
            hint="--type lora or dora, or a model that is not packed",
            param="type",
        )


def _bits(model: Model) -> dict[str, int | None]:
    return {path: facts.bits for path, facts in linears_of(model.decoder).items()}


def objective_of(recipe: Recipe) -> Objective:
    if recipe.method == "dpo":
        return Dpo(recipe.dpo_beta)
    return Orpo(recipe.orpo_lambda) if recipe.method == "orpo" else Sft()


def model_fingerprint(model: Model) -> str:
    return files_fingerprint(model.path)


def _start_fingerprint(folder: Path) -> str:
    if not folder.is_dir():  # a run that goes on does not read it
        raise AdapterNotFound(
            f"{folder} is not there", hint="the run started from this adapter, and goes on only with it"
        )
    return files_fingerprint(folder)


def files_fingerprint(path: Path) -> str:
    """Of a folder's weights and configs, or of one file: names, sizes, and samples of what is in them."""
    files = sorted({file for pattern in WEIGHTS for file in path.glob(pattern)}) if path.is_dir() else [path]
    if path.is_dir():
        files += sorted(path.glob("adapter_config.json"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode())
            digest.update(opened.read(BEGINNING))
            for block in range(1, BLOCKS + 1):  # the last one ends with the file
                opened.seek(max(0, size * block // BLOCKS - BLOCK))
                digest.update(opened.read(BLOCK))
    return digest.hexdigest()


def _started_from(folder: Path, setup: Setup, params: Params) -> Params:
    """The adapter's weights in the places of the start's; they have to be the same."""
    adapter = Adapter.read(folder)
    if adapter.kind != "full" and adapter.scale != setup.recipe.adapter_scale:
        raise AdapterMismatch(
            f"{folder} has scale {adapter.scale:g} and training {setup.recipe.adapter_scale:g}",
            hint="leave --scale out to take the adapter's",
        )
    found = adapter.params(setup.model.decoder)
    for name in sorted(params.keys() | found.keys()):
        mine, theirs = params.get(name), found.get(name)
        if mine is None or theirs is None or mine.shape != theirs.shape:
            raise AdapterMismatch(
                f"{folder} does not fit: {name} is {_shape(theirs)} in it and {_shape(mine)} in training",
                hint="choose the same --rank, --target-modules and --layers",
            )
    return {name: found[name] for name in params}


def _shape(array: mx.array | None) -> str:
    return "missing" if array is None else "x".join(map(str, array.shape))
