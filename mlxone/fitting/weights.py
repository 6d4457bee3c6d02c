"""How many bytes the weights take, as they are stored, as a CPU holds them, or quantized anew."""

from __future__ import annotations

from dataclasses import replace

from mlxone.backend.cpu import WeightForm
from mlxone.core.facts import ModelFacts

GROUP = 64
SCALE_BYTES = 4  # of one group: a scale and a bias of 16 bits each
WIDTHS = (8, 6, 5, 4, 3, 2)  # what quantizing can be asked for, the best first


def weights_bytes(facts: ModelFacts, form: WeightForm = "stored", *, vision: bool = False) -> int:
    beside = facts.sidecar_bytes if vision else 0
    return round(facts.language_bytes * growth(facts, form)) + beside


def growth(facts: ModelFacts, form: WeightForm) -> float:
    """How many times its stored size a weight takes in that form."""
    if form == "stored" or not facts.language_bytes:
        return 1.0
    if form == "wide":
        return facts.wide_bytes / facts.language_bytes
    plain = (facts.parameters - facts.packed_parameters) * facts.float_bytes
    widened = plain + facts.scale_bytes  # float32 now; what is packed stays packed
    return (facts.language_bytes + widened * (4 / facts.float_bytes - 1)) / facts.language_bytes


def element_bytes(facts: ModelFacts, form: WeightForm) -> int:
    """Of one element of an activation, or of a key that is not quantized."""
    return facts.float_bytes if form == "stored" else 4


def quantized(facts: ModelFacts, bits: int) -> ModelFacts:
    """The same model, had it been quantized to so many bits."""
    matrices = facts.parameters - facts.unpackable_parameters
    packed, scales = matrices * bits // 8, matrices // GROUP * SCALE_BYTES
    total = packed + scales + facts.unpackable_parameters * facts.float_bytes
    shrink = total / facts.language_bytes if facts.language_bytes else 1.0
    return replace(
        facts,
        language_bytes=total,
        scale_bytes=scales,
        packed_parameters=matrices,
        lookup_bytes=round(facts.lookup_bytes * shrink),
        expert_bytes=round(facts.expert_bytes * shrink),
        bits=float(bits),
        group_size=GROUP,
        mode="affine",
    )
