"""What configurations of `mlx_lm.lora` hold, in our names: each key is mapped, or refused by its name. Pure.

Only what is nested or means something else there; keys that are merely called otherwise are aliases in
the table of settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlxone.core.errors import UsageError

# What mlx_lm.lora has and we have not, and what is there instead.
FOREIGN: dict[str, str] = {
    "report_to": "metrics.jsonl in the adapter's folder has every figure, `mlxone train-watch` shows them",
    "project_name": "a run is known by its --adapter-path",
    "trust_remote_code": "code that comes with a model is never run",
    "clear_cache_threshold": "a smaller --batch, or --grad-checkpoint, takes less memory",
}
FEATURES = ("prompt_feature", "completion_feature", "text_feature", "chat_feature")
LORA = {"rank": "rank", "scale": "scale", "dropout": "dropout", "keys": "target_modules"}
SCHEDULES = {
    "cosine_decay": ("lr", "decay_steps", "lr_end"),
    "linear_schedule": ("lr", "lr_end", "decay_steps"),
}
OURS = {"cosine_decay": "cosine", "linear_schedule": "linear"}
# Ours without being asked, so they may stand there.
USUAL = {"betas": [0.9, 0.999], "eps": 1e-8}
OPTIMIZER = ("weight_decay", "bias_correction")
DATASET = ("path", *FEATURES)
SPLITS = ("train_split", "valid_split", "test_split")

Pair = tuple[str, Any]


def flattened(config: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The same, flat. Names that need no help come out as they went in; what is empty is left out."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = str(key).replace("-", "_")
        for found, what in _pairs(name, value, config, f"{place}: {key}"):
            if found in flat:
                raise UsageError(
                    f"{place} says {found} twice", hint="once in its own name, once within another"
                )
            flat[found] = what
    return flat


def foreign(name: str, shown_as: str) -> UsageError:
    return UsageError(f"{shown_as} is not for mlxone", hint=FOREIGN[name])


def _pairs(name: str, value: Any, config: Mapping[str, Any], place: str) -> Iterator[Pair]:
    if name in FOREIGN:
        if value:
            raise foreign(name, place)
    elif name == "train":
        if value is not None and not isinstance(value, bool):
            raise UsageError(f"{place} is true or false, and no table", hint="options stand at the top")
        if value is False:
            raise UsageError(f"{place} is {value}", hint="`mlxone eval` measures without training")
    elif value is None or name == "config" or (name == "learning_rate" and config.get("lr_schedule")):
        return
    elif name in _NESTED:
        yield from _NESTED[name](value, config, place)
    else:
        yield name, value


def _lora(value: Any, config: Mapping[str, Any], place: str) -> Iterator[Pair]:
    for key, one in _table(value, place).items():
        if key == "alpha":
            raise UsageError(f"{place}.alpha is not known", hint="give scale: it is alpha divided by rank")
        if key not in LORA:
            raise _unknown(f"{place}.{key}", tuple(LORA))
        if one is not None:
            yield LORA[key], one


def _schedule(value: Any, config: Mapping[str, Any], place: str) -> Iterator[Pair]:
    """Its first argument is the learning rate, in place of any other."""
    table = _table(value, place)
    for key in table:
        if key not in ("name", "arguments", "warmup", "warmup_init"):
            raise _unknown(f"{place}.{key}", ("name", "arguments", "warmup", "warmup_init"))
    name, arguments = table.get("name"), table.get("arguments")
    if name not in SCHEDULES:
        raise UsageError(f"{place}.name cannot be {name!r}", hint=f"one of {', '.join(SCHEDULES)}")
    names = SCHEDULES[name]
    fewest = 2 if name == "cosine_decay" else 3  # a cosine ends at 0 where nothing is said
    if not isinstance(arguments, list) or not fewest <= len(arguments) <= len(names):
        raise UsageError(f"{place}.arguments is a list: {', '.join(names)}")
    rate = config.get("learning_rate")
    if rate is not None and rate != arguments[0]:
        raise UsageError(
            f"{place} begins at {arguments[0]}, and learning_rate is {rate}", hint="leave learning_rate out"
        )
    yield "schedule", OURS[name]
    yield from zip(names, arguments, strict=False)
    for theirs, ours in (("warmup", "warmup"), ("warmup_init", "warmup_start")):
        if table.get(theirs) is not None:
            yield ours, table[theirs]


def _optimizer(value: Any, config: Mapping[str, Any], place: str) -> Iterator[Pair]:
    """A table for each optimizer; only that of the one in use says anything."""
    used = str(config.get("optimizer") or "adamw").lower()
    for optimizer, settings in _table(value, place).items():
        table = _table(settings or {}, f"{place}.{optimizer}")
        if table and optimizer != used:
            raise UsageError(
                f"{place}.{optimizer} is for another optimizer than {used}",
                hint="leave it out, or say optimizer",
            )
        for key, one in table.items():
            if key in OPTIMIZER:
                yield key, one
            elif USUAL.get(key) != one:
                raise UsageError(f"{place}.{optimizer}.{key} cannot be set", hint="leave it out")


def _dataset(value: Any, config: Mapping[str, Any], place: str) -> Iterator[Pair]:
    if isinstance(value, list) and len(value) != 1:
        raise UsageError(f"{place} names {len(value)} data sets", hint="one at a time: give it as --data")
    table = _table(value[0] if isinstance(value, list) else value, place)
    for key, one in table.items():
        if key in ("config", *SPLITS) and not one:
            continue
        if key in SPLITS:
            hint = "a data set's own parts are taken; --val-size says how much of one is kept for validation"
            raise UsageError(f"{place}.{key} cannot be chosen", hint=hint)
        if key not in DATASET:
            raise _unknown(f"{place}.{key}", DATASET)
        if one is not None:
            yield ("data" if key == "path" else key), one


_NESTED: dict[str, Callable[[Any, Mapping[str, Any], str], Iterator[Pair]]] = {
    "lora_parameters": _lora,
    "lr_schedule": _schedule,
    "optimizer_config": _optimizer,
    "hf_dataset": _dataset,
}


def _table(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{place} is a table of names and values, not {value!r}")
    return value


def _unknown(place: str, known: tuple[str, ...]) -> UsageError:
    return UsageError(f"{place} is not known", hint=f"there are {', '.join(known)}")
