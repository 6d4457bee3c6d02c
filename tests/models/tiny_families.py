"""The tiny configs of every family that parity is measured on, by name, and those of true size."""

from __future__ import annotations

import copy
from typing import Any

from mlxone.models.families.table import BY_MODEL_TYPE
from tests.parity import (
    test_dense,
    test_families,
    test_gemma,
    test_latent,
    test_mixtures,
    test_published,
    test_recurrent,
)

ON_A_BASE = (test_families, test_dense, test_mixtures)  # theirs hold what they change of one
WHOLE = (test_gemma, test_recurrent, test_latent)
MODULES = (*ON_A_BASE, *WHOLE)

CONFIGS: dict[str, dict[str, Any]] = {
    **{name: {**test_families.BASE, **own} for module in ON_A_BASE for name, own in module.CONFIGS.items()},
    **{name: own for module in WHOLE for name, own in module.CONFIGS.items()},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    name: config
    for module in (*MODULES, test_published)
    for name, config in getattr(module, "PUBLISHED", {}).items()
} | {name: config for name, (config, _) in test_recurrent.LARGE.items()}


def measured() -> dict[str, set[str]]:
    """The packings that each family's logits are compared in."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        for name, packing in module.CASES:
            packing = "unpacked" if packing in ("bf16", "float32", "plain") else packing
            found.setdefault(BY_MODEL_TYPE[CONFIGS[name]["model_type"]].name, set()).add(packing)
    return found


def family_name(config: dict[str, Any]) -> str:
    """Of a text model inside another one, too: the model in the frame is what computes."""
    inner = config.get("text_config", {}).get("model_type")
    outer = BY_MODEL_TYPE[config["model_type"]]
    if inner in BY_MODEL_TYPE and outer.inner_types and inner not in outer.inner_types:
        return BY_MODEL_TYPE[inner].name
    return outer.name


def of_each_family() -> dict[str, str]:
    """A family's name to the first of its configs."""
    found: dict[str, str] = {}
    for name, config in CONFIGS.items():
        found.setdefault(BY_MODEL_TYPE[config["model_type"]].name, name)
    return found


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """That config with changes to its text model's own; a change to `...` takes the key away."""
    config = copy.deepcopy(CONFIGS[name])
    own = config.get("text_config", config)
    for key, value in changes.items():
        if value is ...:
            own.pop(key, None)
        else:
            own[key] = value
    return config
