"""That the parity tests leave no family out, and that what they call mixed is mixed."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import pytest
from mlx_lm.utils import _get_classes

from mlxone.formats.config import Config
from mlxone.models.families.table import BY_MODEL_TYPE, FAMILIES, spec_of
from mlxone.models.spec import AttentionSpec
from tests.parity import (
    test_dense,
    test_families,
    test_gemma,
    test_latent,
    test_mixtures,
    test_published,
    test_recurrent,
)

# isort: split
from mlx.utils import tree_flatten

BORDER = 37  # tokens of a prompt


def cases() -> dict[str, list[tuple[dict[str, Any], dict[str, Any] | None]]]:
    """By family: every config and how it is packed."""
    every = [
        *((test_families.config_of(n), test_families.PACKINGS[p]) for n, p in test_families.CASES),
        *((test_dense.config_of(n), test_families.PACKINGS[p]) for n, p in test_dense.CASES),
        *((test_gemma.CONFIGS[n], test_families.PACKINGS[p]) for n, p in test_gemma.CASES),
        *(
            (c := test_mixtures.config_of(n), test_mixtures.quantization_of(c, p))
            for n, p in test_mixtures.CASES
        ),
        *((test_recurrent.CONFIGS[n], test_recurrent.PACKINGS.get(p)) for n, p in test_recurrent.CASES),
        *((test_latent.CONFIGS[n], test_latent.PACKINGS[p]) for n, p in test_latent.CASES),
    ]
    found = defaultdict(list)
    for config, packing in every:
        found[BY_MODEL_TYPE[config["model_type"]].name].append((config, packing))
    return found


CASES = cases()
PUBLISHED: list[dict[str, Any]] = [
    *test_families.PUBLISHED.values(), *test_published.PUBLISHED.values(), *test_published.FRAMED.values(),
    *test_mixtures.PUBLISHED.values(),
    *test_recurrent.PUBLISHED.values(), *(config for config, _ in test_recurrent.LARGE.values()),
    *test_latent.PUBLISHED.values(),
]  # fmt: skip


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_family_is_compared_plain_packed_and_mixed(family: str) -> None:
    assert len(CASES[family]) >= 3
    kinds = {kind_of(*case) for case in CASES[family]}
    assert kinds == {"plain", "packed", "mixed"}
    assert family in {BY_MODEL_TYPE[config["model_type"]].name for config in PUBLISHED}


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_windows_are_shorter_than_the_prompt(family: str) -> None:
    mixers = [
        layer.mixer for config, _ in CASES[family] for layer in spec_of(Config(config, source="here")).layers
    ]
    windows = [m.window for m in mixers if isinstance(m, AttentionSpec) and m.window is not None]
    assert all(window < BORDER for window in windows)
    assert windows or family not in SLIDING


SLIDING = (
    "llama", "ministral3", "olmo3", "cohere2", "exaone4", "gemma3_text", "gemma3", "gemma4_text", "gemma4",
    "gemma4_unified", "gpt_oss",
)  # fmt: skip


def kind_of(config: dict[str, Any], packing: dict[str, Any] | None) -> str:
    if packing is None:
        return "plain"
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(copy.deepcopy(config)))
    modules: Any = tree_flatten(model.leaf_modules(), is_leaf=lambda m: hasattr(m, "parameters"))
    own = [packing[path] for path, module in modules if path in packing and hasattr(module, "to_quantized")]
    return "mixed" if own else "packed"
