"""Every way to stretch rotary positions equals mlx-lm's object for it, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from mlxone.backend.arrays import mx, on_stream  # before mlx.nn: it brings the BLAS

# isort: split
from mlx_lm.models.deepseek_v2 import DeepseekV2YarnRotaryEmbedding
from mlx_lm.models.hunyuan_v1_dense import DynamicNTKAlphaRoPE
from mlx_lm.models.rope_utils import SuScaledRoPE, apply_yarn_mscale, initialize_rope

from mlxone.core.errors import DamagedModel, MlxoneError, UnsupportedModel
from mlxone.models.rope import make_rope
from mlxone.models.spec import RopeSpec, yarn_magnitude

DIMS, TRAINED = 16, 128
FACTORS = [1 + 0.7 * i for i in range(DIMS // 2)]
OFFSETS = [0, 9, 126, 1000, 10**6]
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 2.5},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "deepseek_yarn": {"factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.707,
                      "original_max_position_embeddings": 4096},
    "longrope": {"short_factor": [1.0] * 8, "long_factor": FACTORS, "original_max_position_embeddings": 32},
    "proportional": {"partial_rotary_factor": 0.25, "factor": 1.5},
    "mrope": {"mrope_section": [2, 3, 3]},
}  # fmt: skip
KINDS = [
    (k, traditional)
    for k in SCALINGS
    for traditional in (False, True)
    if (k, traditional) != ("longrope", True)
]


def ours(
    scaling: Mapping[str, Any],
    x: mx.array,
    offset: Any,
    *,
    dims: int = DIMS,
    traditional: bool = False,
    trained_context: int | None = TRAINED,
) -> mx.array:
    with on_stream():
        return make_rope(RopeSpec(dims, 10000.0, traditional, scaling, trained_context))(x, offset)


def tokens(dtype: mx.Dtype = mx.float32, *, length: int = 5, dims: int = DIMS, rows: int = 1) -> mx.array:
    mx.random.seed(3)
    return mx.random.normal((rows, 3, length, dims)).astype(dtype)


def same(a: mx.array, b: mx.array) -> bool:
    return a.dtype == b.dtype and bool(mx.array_equal(a, b))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize(("kind", "traditional"), KINDS)
def test_it_is_mlx_lms(kind: str, traditional: bool, dtype: mx.Dtype):
    scaling = SCALINGS[kind] | {"rope_type": kind}
    with on_stream():
        theirs = initialize_rope(DIMS, 10000.0, traditional, dict(scaling), TRAINED)
    for width in (DIMS,) if kind == "proportional" else (DIMS, DIMS + 8):  # heads turn whole, or in part
        for offset in OFFSETS:
            for length in (1, 5):
                x = tokens(dtype, length=length, dims=width)
                with on_stream():
                    expected = theirs(x, offset)
                assert same(ours(scaling, x, offset, traditional=traditional), expected), (width, offset)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_yarn_sharpens_what_it_turns_alone(dtype: mx.Dtype):
    """A factor that multiplied the whole head would change the dimensions without positions."""
    x = tokens(dtype, dims=DIMS + 8)
    out = ours(SCALINGS["yarn"] | {"type": "yarn"}, x, 3)
    assert mx.array_equal(out[..., DIMS:], x[..., DIMS:])
    norms = [(y[..., :DIMS].astype(mx.float32) ** 2).sum().item() for y in (x, out)]
    assert norms[1] / norms[0] == pytest.approx(yarn_magnitude(4.0, 1.0) ** 2, rel=1e-2)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("extra", [{}, {"mscale": 0.707, "mscale_all_dim": 0.707}, {"mscale": 1.0}])
def test_deepseek_v2s_own_is_yarn(extra: dict[str, float], dtype: mx.Dtype):
    values = {"original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1} | extra
    with on_stream():
        theirs = DeepseekV2YarnRotaryEmbedding(DIMS, TRAINED, 10000, scaling_factor=40, **values)
        x = tokens(dtype)
        expected = theirs(x, 77)
    assert same(ours(values | {"type": "yarn", "factor": 40}, x, 77, traditional=True), expected)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("context", [16, 32, 4096])
@pytest.mark.parametrize("factor", [1.0, 2.0, [2.0], FACTORS])
def test_longrope_with_a_factor_for_all_or_each(factor: Any, context: int, dtype: mx.Dtype):
    with on_stream():
        theirs = SuScaledRoPE(DIMS, 10000.0, context, 32, 1.0, factor)
        x = tokens(dtype, dims=DIMS + 8)
        expected = theirs(x, 50)
    scaling = {"type": "su", "long_factor": factor, "original_max_position_embeddings": 32}
    assert same(ours(scaling, x, 50, trained_context=context), expected)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("alpha", [1.0, 1000.0])
def test_hunyuans_alpha_raises_the_base_once(alpha: float, dtype: mx.Dtype):
    scaling = {"type": "dynamic", "alpha": alpha, "factor": 1.0}
    with on_stream():
        theirs, x = DynamicNTKAlphaRoPE(DIMS, 10000.0, alpha), tokens(dtype)
    for offset in OFFSETS:
        with on_stream():
            expected = theirs(x, offset)
        assert same(ours(scaling, x, offset, trained_context=None), expected)


def test_a_ramp_of_no_width():
    """Both borders fall on the first dimension: a step, and no division by zero."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_slow": 8.5}
    with on_stream():
        x = tokens()
        expected = initialize_rope(DIMS, 10000.0, False, scaling, TRAINED)(x, 9)
    assert same(ours(scaling, x, 9), expected) and not mx.isnan(expected).any()


@pytest.mark.parametrize("kind", SCALINGS)
def test_rows_at_places_of_their_own(kind: str):
    """An array of positions turns each row as it would be turned alone."""
    places, x = [0, 7, 300], tokens(rows=3)
    scaling = SCALINGS[kind] | {"type": kind}
    together = ours(scaling, x, mx.array(places))
    for i, place in enumerate(places):
        assert mx.array_equal(together[i : i + 1], ours(scaling, x[i : i + 1], place))
    assert mx.array_equal(ours(scaling, x, mx.array(7)), ours(scaling, x, 7)), "one place for all"


# What cannot be computed is refused by name -------------------------------------------------


def refusal(kind: str, without: str = "", **changes: Any) -> MlxoneError:
    scaling = {k: v for k, v in (SCALINGS.get(kind, {}) | {"type": kind}).items() if k != without}
    spec = {k: changes.pop(k) for k in ("trained_context", "traditional", "dims") if k in changes}
    with pytest.raises(MlxoneError) as caught:
        ours(scaling | changes, tokens(), 0, **spec)
    assert str(caught.value).startswith("config.json: "), "it says where"
    return caught.value


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("linear", "factor"),
        ("dynamic", "factor"),
        ("llama3", "factor"),
        ("yarn", "factor"),
        ("deepseek_yarn", "factor"),
        ("longrope", "long_factor"),
        ("longrope", "original_max_position_embeddings"),
        ("mrope", "mrope_section"),
    ],
)
def test_a_missing_key_is_named(kind: str, key: str):
    nothing: dict[str, Any] = {key: None}
    for error in (refusal(kind, without=key), refusal(kind, **nothing)):
        assert isinstance(error, DamagedModel) and f"rope_scaling.{key} must be" in str(error)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("longrope", "long_factor", [1.0] * 7),
        ("longrope", "long_factor", [1.0] * 7 + ["1"]),
        ("longrope", "long_factor", [1.0] * 7 + [0.0]),
        ("longrope", "long_factor", []),
        ("longrope", "long_factor", -1.0),
        ("longrope", "long_factor", [math.nan] * 8),
        ("longrope", "original_max_position_embeddings", 1),
        ("proportional", "partial_rotary_factor", 1.5),
        ("proportional", "partial_rotary_factor", 0),
        ("proportional", "factor", "1"),
        ("mrope", "mrope_section", [4, 4]),
        ("mrope", "mrope_section", [4, 2, "2"]),
        ("dynamic", "alpha", 0),
        ("dynamic", "alpha", "1"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(kind: str, key: str, value: Any):
    error = refusal(kind, **{key: value})
    assert isinstance(error, DamagedModel) and f"rope_scaling.{key} must be" in str(error)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_what_needs_the_trained_context_says_so(kind: str):
    assert f"{kind} rope scaling needs max_position_embeddings" in str(refusal(kind, trained_context=None))


def test_a_head_too_narrow_for_its_formula():
    assert "more than 2 dimensions" in str(refusal("dynamic", dims=2))
    assert "more than 2 dimensions" in str(refusal("dynamic", dims=2, alpha=2.0))


@pytest.mark.parametrize(
    ("kind", "more"), [("longrope", {}), ("su", SCALINGS["longrope"]), ("dynamic", {"alpha": 2.0})]
)
def test_pairs_side_by_side_where_mlx_lm_has_none(kind: str, more: dict[str, Any]):
    error = refusal(kind, traditional=True, **more)
    assert isinstance(error, UnsupportedModel) and "rope_traditional" in str(error)


@pytest.mark.parametrize(
    ("kind", "key", "right"),
    [
        ("yarn", "attention_factor", 0.1 * math.log(4) + 1),
        ("longrope", "attention_factor", math.sqrt(1 + math.log(4) / math.log(32))),
        ("longrope", "long_mscale", math.sqrt(1 + math.log(4) / math.log(32))),
        ("longrope", "factor", 4.0),
    ],
)
def test_a_setting_that_would_compute_other_numbers(kind: str, key: str, right: float):
    """mlx-lm looks at none of these: they may say what follows anyway, and nothing else."""
    scaling = SCALINGS[kind] | {"type": kind}
    assert mx.array_equal(ours(scaling | {key: right}, tokens(), 5), ours(scaling, tokens(), 5))
    wrong: dict[str, Any] = {key: right * 1.1}
    error = refusal(kind, **wrong)
    assert isinstance(error, UnsupportedModel) and f"rope_scaling.{key}=" in str(error)


@pytest.mark.parametrize("factor", [0.5, 1, 40])
@pytest.mark.parametrize("weight", [0.0, 0.707, 1.0])
def test_the_part_of_yarns_magnitude_that_scales_the_scores(factor: float, weight: float):
    scaling = {"type": "yarn", "factor": factor, "mscale_all_dim": weight}
    expected = apply_yarn_mscale(0.25, scaling)
    assert 0.25 * yarn_magnitude(factor, weight) ** 2 == pytest.approx(expected, rel=1e-15)


def test_a_factor_without_a_type():
    with pytest.raises(DamagedModel, match="rope_scaling has a factor and no type"):
        ours({"factor": 4.0}, tokens(), 0)
    assert same(ours({"rope_theta": 1e4}, tokens(), 3), ours({}, tokens(), 3)), (
        "rope_parameters hold the base"
    )
