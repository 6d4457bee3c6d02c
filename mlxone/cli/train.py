"""`mlxone train`: a model learns from examples; what it learned goes into an adapter's folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mlxone.cli import known, terminal
from mlxone.cli.flags import Flag, SectionedCommand, flag, setting_flags
from mlxone.cli.group import verbose_option
from mlxone.cli.mlx_lm_keys import FEATURES, FOREIGN, foreign
from mlxone.cli.models import model_params, named_model
from mlxone.core.errors import UsageError
from mlxone.core.train_settings import TRAIN_BY_NAME, TRAIN_SETTINGS

MODELS, DATA, WHAT, STEPS, RATE, MEMORY, CHECKS, RESULT, OUTPUT = (
    "Models",
    "Data",
    "What is trained",
    "Steps",
    "Learning rate",
    "Memory",
    "On the way",
    "Result",
    "Output",
)
_SECTIONS = {
    **dict.fromkeys(("val_size", "max_seq_length", "sft_scope", "mask_prompt", "skip_bad", "pack"), DATA),
    **dict.fromkeys(("iters", "epochs", "batch", "grad_accum", "seed"), STEPS),
    **dict.fromkeys(("lr", "schedule", "lr_end", "decay_steps", "warmup", "warmup_start"), RATE),
    **dict.fromkeys(("weight_decay", "grad_clip", "optimizer", "bias_correction", "lora_plus"), RATE),
    **dict.fromkeys(("grad_checkpoint", "checkpoint_every", "dry_run"), MEMORY),
    **dict.fromkeys(("eval_every", "val_batches", "steps_per_report", "sample_every"), CHECKS),
    **dict.fromkeys(("sample_prompt", "test", "test_batches"), CHECKS),
    **dict.fromkeys(("adapter_path", "resume", "overwrite", "save_every", "export", "start_from"), RESULT),
    "plot": OUTPUT,
}
ORDER = (WHAT, STEPS, RATE, DATA, MEMORY, CHECKS, RESULT, OUTPUT)
_HERE = "--data"  # what a bare --inspect looks at

# A run is what these are about.
_NOT_WITH = {"inspect": ("dry_run", "resume", "overwrite", "export", "plot"), "dry_run": ("plot", "export")}


class TrainCommand(SectionedCommand):
    """Says of a flag of mlx_lm.lora that is not here what is here instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name.removeprefix("--").replace("-", "_")
            if name in FOREIGN:
                raise foreign(name, error.option_name) from None
            raise


def _setting_flags() -> list[Flag]:
    """Where one of a few words is wanted, they stand in the help."""
    found = list(setting_flags(_SECTIONS, WHAT, TRAIN_SETTINGS))
    for option in found:
        option.metavar = "|".join(TRAIN_BY_NAME[option.name or ""].choices) or option.metavar
    return sorted(found, key=lambda option: ORDER.index(option.section))


FLAGS: list[click.Parameter] = [
    *model_params(required=False),
    flag(MODELS, "--pull", "Download the model if it is missing.", is_flag=True),
    flag(
        DATA,
        "--data",
        "A folder with train, valid and test, one file, - for stdin, or ORG/REPO of a data set.",
        "PATH",
    ),
    flag(
        DATA,
        "--inspect",
        "Show what the data holds and what would be learned of it, and train nothing.",
        "PATH",
        is_flag=False,
        flag_value=_HERE,
    ),
    *(
        flag(DATA, f"--{name.replace('_', '-')}", f"What the rows call their {what}.", "KEY")
        for name, what in zip(FEATURES, ("prompt", "completion", "text", "messages"), strict=True)
    ),
    *_setting_flags(),
    flag(OUTPUT, "-c --config", "Options from a .toml file, or a .yaml file of mlx_lm.lora.", "FILE"),
    flag(OUTPUT, "--train", "Said by scripts for mlx_lm.lora; changes nothing.", is_flag=True),
    flag(OUTPUT, "--quiet", "No progress and no notices.", is_flag=True),
    known.json_flag("Print one JSON object in place of the adapter's folder."),
    verbose_option(),
]


@click.command("train", cls=TrainCommand, params=FLAGS)
def command(model: str | None, model_flag: str | None, **flags: Any) -> None:
    """Fine-tune a model: from data to an adapter.

    Trains a LoRA adapter on --data and prints the folder it is in; `mlxone run MODEL --adapter DIR` uses
    it. The model itself never changes. Ctrl-C saves and stops, --resume goes on from there exactly. A
    config file may hold every option by its flag's name; flags win over it.
    """
    from mlxone.cli import train_session
    from mlxone.cli.train_config import merged

    config = _config(flags)
    _check(flags)
    named = {name: flags[name] for name in TRAIN_BY_NAME}
    beside = {name: flags[name] for name in ("data", *FEATURES)}
    options = merged(named | beside, {name: value for name, value in config.items() if name != "model"})
    if "start_from" in options:
        options["start_from"] = _adapter(options["start_from"])
    by_flag = model_flag if model or model_flag else config.get("model")
    plan = train_session.Plan(
        model=named_model(model, by_flag),
        data=_data(flags, options.pop("data", None)),
        features={name: options.pop(name) for name in FEATURES if name in options},
        options=options,
        as_json=flags["json"],
        quiet=flags["quiet"],
        pull=flags["pull"],
    )
    if flags["inspect"] is not None:
        from mlxone.cli.train_inspect import inspect

        inspect(plan)
    elif options.get("dry_run"):
        from mlxone.cli.train_dry_run import dry_run

        dry_run(plan)
    else:
        train_session.run(plan)


def _adapter(named: str) -> str:
    """Its folder; mlx_lm.lora names the file in it."""
    path = Path(os.path.expanduser(named))
    return str(path.parent if path.is_file() and path.name == "adapters.safetensors" else path)


def _config(flags: Mapping[str, Any]) -> dict[str, Any]:
    from mlxone.cli import streams, train_config

    if flags["config"] is None:
        return {}
    path = Path(os.path.expanduser(flags["config"]))
    found = train_config.read_config(path)
    if not flags["quiet"] and (note := train_config.unsaid(path, found)):
        streams.complain(note)
    return found


def _check(flags: Mapping[str, Any]) -> None:
    for asked, others in _NOT_WITH.items():
        for name in others:
            if flags[asked] and flags[name]:
                shown = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{shown} does not go with --{asked.replace('_', '-')}", hint="nothing is trained"
                )
    if flags["inspect"] not in (None, _HERE) and flags["data"] is not None:
        raise UsageError("data is named twice, by --data and --inspect", hint="name it once")
    if flags["plot"] is not None and not os.path.isdir(
        Path(os.path.expanduser(flags["plot"])).absolute().parent
    ):
        raise UsageError(f"--plot {flags['plot']}: there is no such folder")


def _data(flags: Mapping[str, Any], given: str | None) -> str:
    named = flags["inspect"] if flags["inspect"] not in (None, _HERE) else given
    if not named:
        raise UsageError(
            "no data is named", hint="--data takes a folder, a file, - or ORG/REPO of a data set"
        )
    if named == "-" and terminal.is_terminal(sys.stdin):
        raise UsageError("--data - reads from a pipe, and this is a terminal", hint="name a file")
    return named
