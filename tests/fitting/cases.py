"""Models and machines that exist as numbers only: of true size, and any that can be drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mlxone.core.facts import LayerFacts, ModelFacts
from mlxone.fitting.machine import Kind, Machine
from mlxone.fitting.work import Work
from mlxone.formats.config import Config
from mlxone.formats.safetensors import TensorInfo
from mlxone.hub.facts import facts_of
from tests.sparse import CONFIGS, GROUP, packed, shapes

GB = 10**9


@cache
def true_size(name: str, bits: int | None = 4) -> ModelFacts:
    """Of a published shape, as reading its config and headers gives them."""
    settings = {} if bits is None else {"quantization": {"group_size": GROUP, "bits": bits}}
    config = CONFIGS[name] | settings
    tensors = packed(shapes(config), bits).items()
    infos = [TensorInfo(n, t.dtype, t.shape, 0, t.nbytes, Path("m")) for n, t in tensors]
    return facts_of(Config(config), infos, {})


# A llama of 2 layers: 1,000,000 parameters in 16 bits, of which 1,000 are norms.
SMALL = ModelFacts(
    model_type="llama",
    layers=(LayerFacts(2, "full", 4, 64, 64),),
    hidden_size=512,
    intermediate_size=1024,
    heads=8,
    head_dim=64,
    vocab_size=1000,
    parameters=1_000_000,
    language_bytes=2_000_000,
    wide_bytes=4_000_000,
    unpackable_parameters=1000,
)


def with_layers(*layers: LayerFacts, **changes: Any) -> ModelFacts:
    return replace(SMALL, layers=layers, **changes)


def machine(usable: int = 16 * GB, *, free: int | None = None, kind: Kind = "cpu", **more: Any) -> Machine:
    return Machine(kind, "a machine", None, 2 * usable, usable, usable if free is None else free, **more)


_kept = st.builds(
    LayerFacts,
    count=st.integers(1, 90),
    kind=st.sampled_from(["full", "sliding"]),
    kv_heads=st.integers(1, 32),
    key_dim=st.sampled_from([64, 80, 128, 256, 512]),
    value_dim=st.sampled_from([64, 128, 256]),
    kv_bits=st.sampled_from([None, 4, 8]),
)
_fixed = st.builds(
    LayerFacts, count=st.integers(1, 90), kind=st.just("recurrent"), state_bytes=st.integers(0, 10**7)
)
_empty = st.builds(LayerFacts, count=st.integers(1, 90), kind=st.sampled_from(["none", "shared"]))
_layers = st.lists(_kept | _fixed | _empty, min_size=1, max_size=3).map(tuple)


def _model(
    layers: tuple[LayerFacts, ...], window: int, limit: int | None, inner: int, heads: int
) -> ModelFacts:
    head_dim = max(64, *(layer.key_dim for layer in layers))
    return with_layers(
        *layers, window=window, context_length=limit, intermediate_size=inner, heads=heads, head_dim=head_dim
    )


models = st.builds(
    _model,
    layers=_layers,
    window=st.sampled_from([1, 128, 512, 1000, 4096]),
    limit=st.none() | st.integers(1, 300_000),
    inner=st.integers(1, 30_000),
    heads=st.integers(1, 64),
)
works = st.builds(
    Work,
    context=st.integers(1, 300_000),
    rows=st.integers(1, 16),
    prefill_step=st.sampled_from([1, 128, 512, 2048, 8192]),
    kv_quant=st.sampled_from(["off", "4", "8", "config"]),
    vision=st.booleans(),
)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["cpu", "cuda", "apple"])
