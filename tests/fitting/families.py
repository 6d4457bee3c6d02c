"""A config of every kind that parity is measured with: made small, cut to a few layers, or as published."""

from __future__ import annotations

from typing import Any

from bench.family_shapes import MODELS
from bench.random_models import SHAPES
from tests.parity import test_dense as dense
from tests.parity import test_families as first
from tests.parity import test_gemma as gemma
from tests.parity import test_latent as latent
from tests.parity import test_mixtures as mixtures
from tests.parity import test_recurrent as recurrent

Configs = dict[str, dict[str, Any]]


def _over(base: dict[str, Any], configs: Configs) -> Configs:
    return {name: {**base, **own} for name, own in configs.items()}


TINY: Configs = {
    **_over(first.BASE, first.CONFIGS),
    **_over(first.BASE, dense.CONFIGS),
    **_over(mixtures.BASE, mixtures.CONFIGS),
    **gemma.CONFIGS,
    **recurrent.CONFIGS,
    **latent.CONFIGS,
}
TRUE_SIZE: Configs = {
    **SHAPES,
    **{name: model.config for name, model in MODELS.items()},
    **_over(mixtures.BASE, mixtures.PUBLISHED),
    **latent.PUBLISHED,
    **recurrent.PUBLISHED,
    **{name: config for name, (config, _) in recurrent.LARGE.items()},
}
EVERY: Configs = {**TINY, **{f"{name} (true size)": config for name, config in TRUE_SIZE.items()}}
