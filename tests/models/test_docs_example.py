"""The row that docs/models.md makes up for a newcomer is one: it reads a config as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.families import table
from mlxone.models.families.family import Family
from mlxone.models.families.reading import every
from mlxone.models.spec import AttentionSpec, DecoderSpec
from tests.models.checkpoints import LLAMA, refused

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture
def acorn(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(Family\(.*?)```", PAGE.read_text(), re.S)
    row = eval(code, {"Family": Family, "every": every})
    monkeypatch.setattr(table, "BY_MODEL_TYPE", {**table.BY_MODEL_TYPE, "acorn": row})


def spec(**changes: Any) -> DecoderSpec:
    config = LLAMA | {"model_type": "acorn", "num_hidden_layers": 4, "tie_word_embeddings": False} | changes
    return table.spec_of(Config(config, source="the config"))


def test_it_departs_where_the_page_says(acorn: None):
    plain = spec(model_type="llama")
    found = spec()
    mixers = [layer.mixer for layer in found.layers]
    assert all(isinstance(mixer, AttentionSpec) for mixer in mixers)
    assert [m.window for m in mixers if isinstance(m, AttentionSpec)] == [512, 512, 512, None]
    (first, *_), (other, *_) = mixers, [layer.mixer for layer in plain.layers]
    assert isinstance(first, AttentionSpec) and isinstance(other, AttentionSpec)
    assert first.qkv_bias and not first.out_bias and first.head_norm is not None
    assert first.rope is not None and other.rope is not None and first.rope.dims == other.rope.dims / 2
    assert found.name("q_norm") == "q_layernorm" and found.name("o_proj") == "o_proj"
    assert [layer.feed_forward for layer in found.layers] == [layer.feed_forward for layer in plain.layers]


def test_it_refuses_what_the_page_says(acorn: None):
    with refused(UnsupportedModel, "the config: acorn with use_alibi=True is not supported"):
        spec(use_alibi=True)
