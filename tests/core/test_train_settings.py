"""The table of training: whole, consistent, and every flag of mlx_lm.lora has its place in it."""

from __future__ import annotations

import pytest
from mlx_lm.lora import build_parser

from mlxone.core.settings import check_value
from mlxone.core.train_settings import LEARNING_RATES, METHODS, TRAIN_BY_NAME, TRAIN_SETTINGS

# What is asked for elsewhere (the model and the data are arguments), or has no meaning here.
NOT_OURS = {
    *("--help", "--model", "--train", "--data", "--config", "--clear-cache-threshold"),
    *("--report-to", "--project-name", "--trust-remote-code"),
}
ASKED_FOR = {
    *("method", "type", "rank", "scale", "dropout", "rs_lora", "lora_plus", "target_modules", "layers"),
    *("rank_scaling", "iters", "epochs", "batch", "grad_accum", "lr", "schedule", "warmup", "weight_decay"),
    *(
        "grad_clip",
        "optimizer",
        "seed",
        "max_seq_length",
        "val_size",
        "eval_every",
        "save_every",
        "resume",
        "dry_run",
    ),
    *(
        "sft_scope",
        "mask_prompt",
        "sample_every",
        "test",
        "dpo_beta",
        "orpo_lambda",
        "adapter_path",
        "skip_bad",
        "export",
    ),
    *("plot", "pack"),
}


def test_every_name_is_there_once():
    assert len(TRAIN_BY_NAME) == len(TRAIN_SETTINGS)
    assert set(TRAIN_BY_NAME) >= ASKED_FOR
    flags = [flag for s in TRAIN_SETTINGS for flag in (s.flag, *s.aliases)]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("setting", TRAIN_SETTINGS, ids=lambda s: s.name)
def test_a_setting_explains_itself_and_its_default_is_in_its_range(setting):
    assert setting.help.endswith(".") and setting.run_default
    assert check_value(setting, setting.default) == setting.default
    assert setting.default is None or isinstance(setting.default, setting.kind)


def test_each_flag_of_mlx_lm_is_a_name_or_an_alias():
    theirs = {flag for action in build_parser()._actions for flag in action.option_strings if flag[1] == "-"}
    ours = {flag for s in TRAIN_SETTINGS for flag in (s.flag, *s.aliases)}
    assert theirs - ours == NOT_OURS


def test_each_method_has_a_learning_rate():
    assert LEARNING_RATES == {"sft": 2e-4, "dpo": 5e-5, "orpo": 1e-5}
    assert set(LEARNING_RATES) == set(METHODS)
