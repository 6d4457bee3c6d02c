"""Rotary position embedding: plain, and the ways to stretch it beyond the trained context.

Every variant ends in one `mx.fast.rope` call; they differ in the base or the frequencies given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.config import is_number
from mlxone.models.spec import RopeSpec

Rope = Callable[[mx.array, Any], mx.array]  # (x [B, heads, L, dim], position of the first token)


def make_rope(spec: RopeSpec) -> Rope:
    kind = spec.scaling.get("type") or spec.scaling.get("rope_type", "default")
    maker = _MAKERS.get(kind) if isinstance(kind, str) else None
    if maker is None:
        raise UnsupportedModel(
            f"rope scaling {str(kind)[:40]!r} is not supported",
            hint=f"supported: {', '.join(sorted(_MAKERS))}",
        )
    return maker(spec)


def _number(scaling: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = default if scaling.get(key) is None else scaling[key]
    if not is_number(value):
        raise DamagedModel(f"config.json: rope_scaling.{key} must be a number, not {str(value)[:40]!r}")
    return value


def _positive(scaling: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Within reason, so that no formula here leaves a float's range."""
    value = _number(scaling, key, default)
    if not 1e-6 <= value <= 1e12:
        raise DamagedModel(f"config.json: rope_scaling.{key} must be between 1e-6 and 1e12, not {value}")
    return value


def _plain(spec: RopeSpec, scale: float = 1.0) -> Rope:
    dims, traditional, base = spec.dims, spec.traditional, spec.base

    def rope(x: mx.array, offset: Any) -> mx.array:
        return mx.fast.rope(x, dims, traditional=traditional, base=base, scale=scale, offset=offset)

    return rope


def _linear(spec: RopeSpec) -> Rope:
    return _plain(spec, scale=1 / _positive(spec.scaling, "factor"))


def _with_frequencies(spec: RopeSpec, frequencies: mx.array) -> Rope:
    dims, traditional = spec.dims, spec.traditional

    def rope(x: mx.array, offset: Any) -> mx.array:
        return mx.fast.rope(
            x, dims, traditional=traditional, base=None, scale=1.0, offset=offset, freqs=frequencies
        )

    return rope


def _dynamic(spec: RopeSpec) -> Rope:
    """NTK-aware: the base grows once a sequence is longer than the trained context."""
    dims, traditional, factor = spec.dims, spec.traditional, _positive(spec.scaling, "factor")
    trained = spec.trained_context
    if not isinstance(trained, int) or trained < 1 or dims <= 2:
        raise DamagedModel("config.json: dynamic rope scaling needs max_position_embeddings")

    def rope(x: mx.array, offset: Any) -> mx.array:
        length = max(x.shape[-2] + offset, trained)
        stretch = (factor * length / trained) - (factor - 1)
        base = spec.base * stretch ** (dims / (dims - 2))
        return mx.fast.rope(x, dims, traditional=traditional, base=base, scale=1.0, offset=offset)

    return rope


def _llama3(spec: RopeSpec) -> Rope:
    """Long wavelengths are divided by the factor, short ones kept, those between interpolated."""
    factor = _positive(spec.scaling, "factor")
    low = _positive(spec.scaling, "low_freq_factor", 1.0)
    high = _positive(spec.scaling, "high_freq_factor", 4.0)
    trained = _positive(spec.scaling, "original_max_position_embeddings", 8192)
    if high <= low:
        raise DamagedModel("config.json: rope_scaling needs 0 < low_freq_factor < high_freq_factor")
    periods = spec.base ** (mx.arange(0, spec.dims, 2) / spec.dims)
    wavelengths = 2 * mx.pi * periods
    long = wavelengths > trained / low
    between = (wavelengths > trained / high) & (wavelengths < trained / low)
    share = (trained / wavelengths - low) / (high - low)
    blended = mx.where(long, periods * factor, periods)
    smooth = blended / ((1 - share) / factor + share)
    return _with_frequencies(spec, mx.where(between, smooth, blended))


def _yarn(spec: RopeSpec) -> Rope:
    """Interpolates slow dimensions, keeps fast ones, ramps between; also sharpens attention."""
    scaling, dims = spec.scaling, spec.dims
    factor = _positive(scaling, "factor")
    trained = _positive(scaling, "original_max_position_embeddings", 4096)
    if spec.base <= 1:
        raise DamagedModel(f"config.json: yarn rope scaling needs a rope_theta above 1, not {spec.base}")

    def dimension_of(rotations: float) -> float:
        return (dims * math.log(trained / (rotations * 2 * math.pi))) / (2 * math.log(spec.base))

    low = max(math.floor(dimension_of(_positive(scaling, "beta_fast", 32))), 0)
    high = min(math.ceil(dimension_of(_positive(scaling, "beta_slow", 1))), dims - 1)
    ramp = (mx.arange(dims // 2, dtype=mx.float32) - low) / ((high - low) or 0.001)
    kept = 1.0 - mx.clip(ramp, 0, 1)
    fast = spec.base ** (mx.arange(0, dims, 2, dtype=mx.float32) / dims)
    slow = factor * fast
    rope = _with_frequencies(spec, (slow * fast) / (slow * kept + fast * (1 - kept)))
    magnitudes = [
        _magnitude(factor, _number(scaling, key, weight))
        for key, weight in (("mscale", 1), ("mscale_all_dim", 0))
    ]
    if min(magnitudes) <= 0:
        raise DamagedModel("config.json: rope_scaling.mscale and mscale_all_dim must not be negative")
    sharpen = magnitudes[0] / magnitudes[1]
    if sharpen == 1.0:
        return rope
    return lambda x, offset: rope(x * sharpen, offset)


def _magnitude(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


_MAKERS: Mapping[str, Callable[[RopeSpec], Rope]] = {
    "default": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}
