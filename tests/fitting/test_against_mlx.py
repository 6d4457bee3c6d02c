"""The arithmetic against MLX's own measure of memory, on the CPU: two small models, two contexts."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

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
