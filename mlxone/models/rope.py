"""Rotary position embedding: plain, and the ways to stretch it beyond the trained context.

Every variant ends in one `mx.fast.rope` call; they differ in the base or the frequencies given.
`RopeSpec.scaling` is what a config says under rope_scaling (or rope_parameters), with what its family
keeps elsewhere put into it by the family's reader: `original_max_position_embeddings` for longrope
(phi3 has it at the top of its config) and `alpha`, 1.0 where Hunyuan's config says nothing.

As in mlx-lm, longrope takes the long factors at any length, and yarn rounds the borders of its ramp
whatever `truncate` says. Positions of pictures (mrope) are not covered: for text alone it is plain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.config import is_number
from mlxone.models.spec import RopeSpec, yarn_magnitude

# (x [B, heads, L, dim], position of the first token: of all rows, or an array with each row's)
Rope = Callable[[mx.array, Any], mx.array]


def make_rope(spec: RopeSpec) -> Rope:
    kind = spec.scaling.get("type") or spec.scaling.get("rope_type", "default")
    maker = _MAKERS.get(kind) if isinstance(kind, str) else None
    if maker is None:
        raise UnsupportedModel(
            f"rope scaling {str(kind)[:40]!r} is not supported",
            hint=f"supported: {', '.join(sorted(_MAKERS))}",
        )
    if not spec.scaling.keys() & {"type", "rope_type"} and spec.scaling.get("factor") is not None:
        raise DamagedModel("config.json: rope_scaling has a factor and no type")
    return maker(spec)


# What a config says ---------------------------------------------------------------------------


def _wrong(key: str, expected: str, value: Any) -> DamagedModel:
    return DamagedModel(f"config.json: rope_scaling.{key} must be {expected}, not {str(value)[:40]!r}")


def _number(scaling: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = default if scaling.get(key) is None else scaling[key]
    if not is_number(value):
        raise _wrong(key, "a number", value)
    return value


def _positive(scaling: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Within reason, so that no formula here leaves a float's range."""
    value = _number(scaling, key, default)
    if not 1e-6 <= value <= 1e12:
        raise DamagedModel(f"config.json: rope_scaling.{key} must be between 1e-6 and 1e12, not {value}")
    return value


def _trained(spec: RopeSpec, kind: str) -> int:
    trained = spec.trained_context
    if not isinstance(trained, int) or trained < 1:
        raise DamagedModel(f"config.json: {kind} rope scaling needs max_position_embeddings")
    return trained


def _only(spec: RopeSpec, key: str, computed: float) -> None:
    """A setting that other programs compute with is refused if it says something else than follows here."""
    if spec.scaling.get(key) is None:
        return
    if not math.isclose(value := _number(spec.scaling, key), computed, rel_tol=1e-6):
        raise UnsupportedModel(
            f"config.json: rope_scaling.{key}={value} is not supported; {computed:.7g} follows from the rest"
        )


def _not_interleaved(spec: RopeSpec, kind: str) -> None:
    if spec.traditional:
        raise UnsupportedModel(f"config.json: {kind} rope scaling with rope_traditional is not supported")


# The variants -----------------------------------------------------------------------------------


def _plain(spec: RopeSpec, scale: float = 1.0) -> Rope:
    dims, traditional, base = spec.dims, spec.traditional, spec.base

    def rope(x: mx.array, offset: Any) -> mx.array:
        return mx.fast.rope(x, dims, traditional=traditional, base=base, scale=scale, offset=offset)

    return rope


def _linear(spec: RopeSpec) -> Rope:
    return _plain(spec, scale=1 / _positive(spec.scaling, "factor"))


def _mrope(spec: RopeSpec) -> Rope:
    """Sections of the dimensions follow time, height and width: in text these are the same."""
    sections = spec.scaling.get("mrope_section")
    if not isinstance(sections, list) or len(sections) != 3 or not all(type(n) is int for n in sections):
        raise _wrong("mrope_section", "a list of 3 whole numbers", sections)
    return _plain(spec)


def _with_frequencies(spec: RopeSpec, frequencies: mx.array, sharpen: float = 1.0) -> Rope:
    """`sharpen` multiplies what is turned, and so makes attention's softmax steeper."""
    dims, traditional = spec.dims, spec.traditional

    def rope(x: mx.array, offset: Any) -> mx.array:
        return mx.fast.rope(
            x, dims, traditional=traditional, base=None, scale=1.0, offset=offset, freqs=frequencies
        )

    def sharpened(x: mx.array, offset: Any) -> mx.array:
        if x.shape[-1] == dims:
            return rope(x * sharpen, offset)
        return rope(mx.concatenate([x[..., :dims] * sharpen, x[..., dims:]], axis=-1), offset)

    return rope if sharpen == 1.0 else sharpened


def _periods(spec: RopeSpec, *, base: float | None = None, turned: int | None = None) -> mx.array:
    """Of each pair of the dimensions turned: the tokens it takes to turn by one radian."""
    turned = spec.dims if turned is None else turned
    return (base or spec.base) ** (mx.arange(0, turned, 2, dtype=mx.float32) / spec.dims)


def _dynamic(spec: RopeSpec) -> Rope:
    """NTK-aware: the base grows once a sequence is longer than the trained context."""
    if spec.scaling.get("alpha") is not None:
        return _alpha(spec)
    dims, traditional, factor = spec.dims, spec.traditional, _positive(spec.scaling, "factor")
    trained = _trained(spec, "dynamic")
    exponent = _exponent(spec)

    def rope(x: mx.array, offset: Any) -> mx.array:
        if isinstance(offset, mx.array):  # the base is a number to MLX: each row has its own
            places = mx.broadcast_to(offset.reshape(-1), (x.shape[0],))
            return mx.concatenate([rope(x[i : i + 1], places[i].item()) for i in range(x.shape[0])])
        length = max(x.shape[-2] + offset, trained)
        stretch = (factor * length / trained) - (factor - 1)
        base = spec.base * stretch**exponent
        return mx.fast.rope(x, dims, traditional=traditional, base=base, scale=1.0, offset=offset)

    return rope


def _alpha(spec: RopeSpec) -> Rope:
    """Hunyuan's: the base is larger from the start."""
    _not_interleaved(spec, "dynamic (alpha)")
    base = spec.base * _positive(spec.scaling, "alpha") ** _exponent(spec)
    return _with_frequencies(spec, _periods(spec, base=base))


def _exponent(spec: RopeSpec) -> float:
    if spec.dims <= 2:
        raise DamagedModel(f"config.json: dynamic rope scaling needs more than {spec.dims} dimensions a head")
    return spec.dims / (spec.dims - 2)


def _llama3(spec: RopeSpec) -> Rope:
    """Long wavelengths are divided by the factor, short ones kept, those between interpolated."""
    factor = _positive(spec.scaling, "factor")
    low = _positive(spec.scaling, "low_freq_factor", 1.0)
    high = _positive(spec.scaling, "high_freq_factor", 4.0)
    trained = _positive(spec.scaling, "original_max_position_embeddings", 8192)
    if high <= low:
        raise DamagedModel("config.json: rope_scaling needs 0 < low_freq_factor < high_freq_factor")
    periods = _periods(spec)
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
    low, high = _yarn_ramp(spec)
    kept = 1.0 - mx.clip((mx.arange(dims // 2, dtype=mx.float32) - low) / (high - low), 0, 1)
    fast = _periods(spec)
    slow = factor * fast
    magnitudes = [
        yarn_magnitude(factor, _number(scaling, key, weight))
        for key, weight in (("mscale", 1), ("mscale_all_dim", 0))
    ]
    if min(magnitudes) <= 0:
        raise DamagedModel("config.json: rope_scaling.mscale and mscale_all_dim must not be negative")
    sharpen = magnitudes[0] / magnitudes[1]
    _only(spec, "attention_factor", sharpen)
    return _with_frequencies(spec, (slow * fast) / (slow * kept + fast * (1 - kept)), sharpen)


def _yarn_ramp(spec: RopeSpec) -> tuple[int, float]:
    """The last pair of dimensions that is kept, and the first that is wholly interpolated."""
    scaling, dims = spec.scaling, spec.dims
    trained = _positive(scaling, "original_max_position_embeddings", 4096)
    if spec.base <= 1:
        raise DamagedModel(f"config.json: yarn rope scaling needs a rope_theta above 1, not {spec.base}")

    def dimension_of(rotations: float) -> float:
        return (dims * math.log(trained / (rotations * 2 * math.pi))) / (2 * math.log(spec.base))

    low = max(math.floor(dimension_of(_positive(scaling, "beta_fast", 32))), 0)
    high = min(math.ceil(dimension_of(_positive(scaling, "beta_slow", 1))), dims - 1)
    return low, high if high != low else high + 0.001


def _longrope(spec: RopeSpec) -> Rope:
    """Each pair of dimensions has a learned factor; attention sharpens with the context's growth."""
    _not_interleaved(spec, "longrope")
    scaling = spec.scaling
    original = _positive(scaling, "original_max_position_embeddings")
    if original <= 1:
        raise _wrong("original_max_position_embeddings", "above 1", original)
    growth = _trained(spec, "longrope") / original
    sharpen = 1.0 if growth <= 1 else math.sqrt(1 + math.log(growth) / math.log(original))
    for key, computed in (("factor", growth), ("attention_factor", sharpen), ("long_mscale", sharpen)):
        _only(spec, key, computed)
    return _with_frequencies(spec, _factors(spec, "long_factor") * _periods(spec), sharpen)


def _factors(spec: RopeSpec, key: str) -> mx.array:
    value = spec.scaling.get(key)
    values: list[Any] = value if isinstance(value, list) else [value]
    if len(values) not in (1, spec.dims // 2) or not all(is_number(v) and 1e-6 <= v <= 1e12 for v in values):
        raise _wrong(key, f"one number above 0, or a list of {spec.dims // 2}", value)
    return mx.array(values, dtype=mx.float32)


def _proportional(spec: RopeSpec) -> Rope:
    """Only a share of the dimensions turns, at the frequencies it would have if all did."""
    share = _positive(spec.scaling, "partial_rotary_factor", 1.0)
    if share > 1:
        raise _wrong("partial_rotary_factor", "at most 1", share)
    turned = int(spec.dims * share)
    periods = _positive(spec.scaling, "factor", 1.0) * _periods(spec, turned=turned)
    still = mx.full(((spec.dims - turned) // 2,), mx.inf)
    return _with_frequencies(spec, mx.concatenate([periods, still]))


_MAKERS: Mapping[str, Callable[[RopeSpec], Rope]] = {
    "default": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "deepseek_yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
    "proportional": _proportional,
    "mrope": _mrope,
}
