"""Options from files: ours in TOML, those of mlx_lm.lora in YAML. All is honoured or refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.lora import CONFIG_DEFAULTS, build_parser

from mlxone.cli.mlx_lm_keys import FEATURES, FOREIGN
from mlxone.cli.train import command
from mlxone.cli.train_config import merged, read_config, unsaid
from mlxone.core.errors import MlxoneError, StorageError, UsageError
from mlxone.core.train_settings import TRAIN_SETTINGS
from mlxone.training.recipe import NAMES, Recipe

# As the documentation of mlx_lm.lora shows it, with all that can stand in it.
THEIRS = """
model: "some/model"
train: true
fine_tune_type: dora
optimizer: adamw
optimizer_config:
  adamw: {betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.02, bias_correction: true}
  sgd: {}
data: "folder"
seed: 7
num_layers: 16
batch_size: 2
iters: 1000
val_batches: -1
learning_rate: 1e-5
steps_per_report: 10
steps_per_eval: 200
resume_adapter_file: null
adapter_path: "out"
save_every: 50
test: false
test_batches: 100
max_seq_length: 512
grad_checkpoint: true
grad_accumulation_steps: 4
clear_cache_threshold: 0
mask_prompt: yes
report_to: null
project_name: null
trust_remote_code: false
lora_parameters:
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 4
  scale: 20.0
  dropout: 0.1
lr_schedule:
  name: cosine_decay
  warmup: 100
  warmup_init: 1e-7
  arguments: [1e-5, 1000, 1e-7]
"""
OURS = {
    "model": "some/model", "type": "dora",
    "optimizer": "adamw", "weight_decay": 0.02, "bias_correction": True,
    "data": "folder", "seed": 7, "layers": 16, "batch": 2, "iters": 1000, "val_batches": -1,
    "steps_per_report": 10, "eval_every": 200, "adapter_path": "out", "save_every": 50, "test": False,
    "test_batches": 100, "max_seq_length": 512, "grad_checkpoint": True, "grad_accum": 4, "mask_prompt": True,
    "target_modules": ("self_attn.q_proj", "self_attn.v_proj"), "rank": 4, "scale": 20.0, "dropout": 0.1,
    "schedule": "cosine", "lr": 1e-5, "decay_steps": 1000, "lr_end": 1e-7,
    "warmup": 100, "warmup_start": 1e-7,
}  # fmt: skip


@pytest.fixture
def read(tmp_path: Path):
    def read(text: str, name: str = "run.yaml") -> dict[str, Any]:
        path = tmp_path / name
        path.write_text(text)
        return read_config(path)

    return read


def test_a_whole_configuration_of_theirs(read):
    found = read(THEIRS)
    assert found == OURS
    assert all(type(found[name]) is type(value) for name, value in OURS.items())
    Recipe.of({name: value for name, value in found.items() if name in NAMES})


def test_each_key_of_theirs_is_mapped_or_refused(read):
    """All that mlx_lm.lora itself has a default for, with a value that is not that."""
    other = {
        "model": "m", "data": "d", "lr_schedule": {"name": "linear_schedule", "arguments": [1e-4, 0.0, 100]},
        "lora_parameters": {"rank": 2}, "optimizer_config": {"adamw": {"weight_decay": 0.5}},
        "resume_adapter_file": "a", "optimizer": "sgd", "fine_tune_type": "full", "adapter_path": "p",
        "report_to": "wandb", "project_name": "p",
    }  # fmt: skip
    for name, default in CONFIG_DEFAULTS.items():
        value = other.get(name, not default if isinstance(default, bool) else (default or 0) + 3 if default is None or isinstance(default, (int, float)) else default)  # fmt: skip  # noqa: E501
        if name == "config":
            continue
        config = yaml.safe_dump({name: value})
        if name in FOREIGN:
            with pytest.raises(UsageError, match=name):
                read(config)
        else:
            assert bool(read(config)) == (name != "train"), name


def test_each_flag_of_theirs_is_a_flag_or_refused():
    spelled = {name for option in command.params for name in option.opts}
    theirs = {
        name
        for action in build_parser()._actions
        for name in action.option_strings
        if name not in ("-h", "--help")
    }
    refused = {"--" + name.replace("_", "-") for name in FOREIGN}
    assert theirs <= spelled | refused
    assert not spelled & refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("leaning_rate: 1e-4", "leaning_rate.*did you mean learning_rate"),
        ("wholly_else: 1", "wholly_else.*nothing that `train` knows"),
        ("train: false", "train is False.*eval"),
        ("train: {iters: 5}", "train is true or false, and no table"),
        ("lora_parameters: {alpha: 16}", "lora_parameters.alpha.*scale"),
        ("lora_parameters: {rnk: 16}", "lora_parameters.rnk is not known"),
        ("lora_parameters: 8", "lora_parameters is a table"),
        ("lr_schedule: {name: step_decay, arguments: [1, 2, 3]}", "lr_schedule.name cannot be 'step_decay'"),
        ("lr_schedule: {name: cosine_decay}", "lr_schedule.arguments is a list"),
        ("lr_schedule: {name: cosine_decay, arguments: [1], wamup: 2}", "lr_schedule.wamup is not known"),
        ("lr_schedule: {name: cosine_decay, arguments: [1, 5]}\nlearning_rate: 1e-5", "leave learning_r"),
        ("optimizer_config: {adamw: {betas: [0.9, 0.95]}}", "adamw.betas cannot be set"),
        ("optimizer_config: {sgd: {momentum: 0.9}}", "sgd is for another optimizer than adamw"),
        ("optimizer: sgd\noptimizer_config: {sgd: {momentum: 0.9}}", "sgd.momentum cannot be set"),
        ("hf_dataset: [{path: a/b}, {path: c/d}]", "names 2 data sets"),
        ("hf_dataset: {path: a/b, train_split: 'train[:10%]'}", "train_split cannot be chosen"),
        ("hf_dataset: {path: a/b, config: {name: x}}", "config is not known"),
        ("data: x\nhf_dataset: {path: a/b}", "says data twice"),
        ("report_to: wandb", "report_to is not for mlxone.*metrics.jsonl"),
        ("trust_remote_code: true", "trust_remote_code is not for mlxone.*never run"),
        ("iters: many", "iters takes a whole number"),
        ("iters: 0", "iters must be between 1"),
        ("iters: 10\niters: 20", "iters twice"),
        ("batch: 10\nbatch_size: 20", "batch twice"),
        ("iters: {a: 1}", "iters cannot be"),
        ("data: 5", "data is a text"),
        ("a: [", "line 1"),
        ("- 1", "no names"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(read, text, words):
    with pytest.raises(UsageError, match=f"(?s){words}") as caught:
        read(text)
    assert "run.yaml" in str(caught.value) and "\n" not in caught.value.message


def test_a_data_set_of_the_hub(read):
    found = read("hf_dataset: {path: a/b, prompt_feature: q, completion_feature: a}")
    assert found == {"data": "a/b", "prompt_feature": "q", "completion_feature": "a"}
    assert set(FEATURES) >= {"prompt_feature", "completion_feature"}


@pytest.mark.parametrize("number", ["1e-5", "1E-5", "1.0e-5", "1.e-5", ".1e-4", "0.00001", "+1e-5"])
def test_numbers_as_people_write_them(read, number):
    assert read(f"lr: {number}") == {"lr": 1e-5}


def test_ours(read):
    text = 'learning-rate = 1e-4\nrank = 4\n"rs-lora" = true\ntarget_modules = ["q_proj", "v_proj"]\n'
    text += 'method = "DPO"\n'
    assert read(text, "run.toml") == {
        "lr": 1e-4, "rank": 4, "rs_lora": True, "target_modules": ("q_proj", "v_proj"), "method": "dpo",
    }  # fmt: skip
    with pytest.raises(UsageError, match="line 1"):
        read("a b", "run.toml")
    with pytest.raises(UsageError, match="neither"):
        read("{}", "run.json")
    with pytest.raises(StorageError, match="none.toml"):
        read_config(Path("none.toml"))


def test_every_setting_may_stand_in_a_file(read):
    values: dict[Any, str] = {int: "3", float: "0.5", str: '"x"', bool: "true"}
    for setting in TRAIN_SETTINGS:
        value = f'"{setting.choices[0]}"' if setting.choices else values[setting.kind]
        for name in (setting.name, setting.flag.removeprefix("--"), *(a[2:] for a in setting.aliases)):
            assert list(read(f"{name} = {value}", "run.toml")) == [setting.name]


def test_flags_win_over_the_file_and_over_what_contradicts_them_there():
    config = {"iters": 100, "sft_scope": "full", "rank": 4, "lr": 1e-4}
    flags = {
        "iters": None,
        "epochs": 2.0,
        "mask_prompt": True,
        "sft_scope": None,
        "rank": 8,
        "target_modules": (),
    }
    assert merged(flags, config) == {"epochs": 2.0, "mask_prompt": True, "rank": 8, "lr": 1e-4}
    # What contradicts within one place is for the recipe to refuse.
    assert merged({}, {"iters": 1, "epochs": 1.0}) == {"iters": 1, "epochs": 1.0}


def test_what_theirs_leaves_to_defaults_is_said():
    assert "learning_rate, scale, num_layers" in unsaid(Path("a.yaml"), {})
    assert unsaid(Path("a.yaml"), {"lr": 1, "scale": 1, "layers": 1}) == unsaid(Path("a.toml"), {}) == ""


@given(st.text(max_size=80), st.sampled_from(["a.yaml", "a.toml"]))
def test_any_text_gives_options_or_our_own_error(tmp_path_factory, text, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(read_config(path), dict)
    except MlxoneError as error:
        assert error.exit_code in (2, 9)
