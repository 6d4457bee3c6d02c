"""The arithmetic against MLX's own measure of memory, on the CPU: two small models, two contexts."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx, on_cpu
from mlxone.core.words import Sampling
from mlxone.engine.loop import decode, prefill
from mlxone.engine.row import Row
from mlxone.fitting.machine import Machine
from mlxone.fitting.report import Case
from mlxone.fitting.work import Work
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.fitting.cases import machine
from tests.models import checkpoints as c

BASE: dict[str, Any] = {
    "model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 1e4, "vocab_size": 3000,
    "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
MODELS = {
    # Few heads: what a chunk needs is mostly the feed-forward layers' results.
    "wide": BASE | {"hidden_size": 256, "intermediate_size": 3072, "num_hidden_layers": 3,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128},
    # Many heads: mostly tables of scores.
    "many heads": BASE | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
                          "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 32},
}  # fmt: skip
SHARE = 0.15


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "m"
    config = MODELS[request.param]
    return c.save(path, config, c.tensors(config, mx.bfloat16))


def cpu() -> Machine:
    assert on_cpu(), "these figures are the CPU's"
    return machine(kind="cpu")


def peak(decoder: Decoder, context: int) -> int:
    """The most there was at once, while a prompt is read and answered with two tokens."""
    row = Row(decoder, [5 + i % 2900 for i in range(context - 1)], decoder.new_state(), Sampling(), seed=0)
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    for _ in prefill(row, 2048):
        pass
    assert len(list(decode(row, 2))) == 2
    return mx.get_peak_memory()


@pytest.mark.parametrize("context", [1024, 2048])
def test_the_peak_is_what_was_predicted(folder: Path, context: int):
    gc.collect()
    mx.clear_cache()
    others = mx.get_active_memory()  # of whatever ran in this process before
    decoder = load_decoder(folder)
    decoder.materialize()
    facts = read_facts(folder, Config.read(folder))
    needs = Case(facts, cpu(), decoder.form).needs(Work(context))
    measured = peak(decoder, context) - others
    assert needs.transient_bytes > needs.total_bytes / 3  # not lost beside the weights
    assert measured == pytest.approx(needs.total_bytes, rel=SHARE)


# What only some families compute ---------------------------------------------------------------

SMALL = BASE | {
    "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32,
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "sinks": SMALL | {
        "model_type": "gpt_oss", "num_local_experts": 16, "num_experts_per_tok": 4, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "mamba-2": SMALL | {
        "model_type": "nemotron_h", "hybrid_override_pattern": "M-M*M-", "num_hidden_layers": 6,
        "attention_bias": False, "mamba_num_heads": 64, "mamba_head_dim": 32, "mamba_proj_bias": False,
        "ssm_state_size": 64, "conv_kernel": 4, "n_groups": 2, "mlp_bias": False, "use_bias": False,
        "layer_norm_epsilon": 1e-5, "use_conv_bias": True, "mlp_hidden_act": "relu2"},
    "gated delta": SMALL | {
        "model_type": "qwen3_5", "full_attention_interval": 3, "linear_num_value_heads": 16,
        "linear_num_key_heads": 8, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4,
        "rope_parameters": {"type": "default", "mrope_section": [1, 2, 1], "rope_theta": 20000,
                            "partial_rotary_factor": 0.25}},
    "latent": SMALL | {
        "model_type": "deepseek_v3", "kv_lora_rank": 64, "q_lora_rank": 64, "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32, "v_head_dim": 32, "num_key_value_heads": 8, "n_routed_experts": 16,
        "num_experts_per_tok": 4, "moe_intermediate_size": 256, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 1,
        "topk_group": 1, "routed_scaling_factor": 1.0},
}  # fmt: skip
# Rather too much than too little: how far ahead MLX allocates depends on what else the machine does.
BELOW, ABOVE = 0.08, 0.8


@pytest.mark.parametrize("name", OTHERS)
def test_the_peak_of_other_families_is_not_above_what_was_predicted(name: str, tmp_path: Path):
    save_random_model(tmp_path / "m", OTHERS[name], dtype=mx.float32)
    gc.collect()
    mx.clear_cache()
    others = mx.get_active_memory()
    decoder = load_decoder(tmp_path / "m")
    decoder.materialize()
    facts = read_facts(tmp_path / "m", Config.read(tmp_path / "m"))
    needs = Case(facts, cpu(), decoder.form).needs(Work(1024))
    measured = peak(decoder, 1024) - others
    assert measured * (1 - BELOW) <= needs.total_bytes <= measured * (1 + ABOVE)
