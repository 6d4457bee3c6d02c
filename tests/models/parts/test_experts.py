"""Each family's mixture of experts computes what mlx-lm's module computes with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from mlxone.backend.arrays import mx
from mlxone.models.parts import dense_and_experts, experts
from mlxone.models.spec import DenseAndExpertsSpec, ExpertsSpec
from mlxone.models.stacked import Abreast, JoinedStacks
from tests.models.parts.mixtures import CHOSEN, EXPERTS, HIDDEN, INNER, MIXTURES, Mixture

# isort: split
import mlx.nn as nn
from mlx.utils import tree_flatten

FEW, ENOUGH, MANY = 5, 22, 40  # tokens; 3 choices each: 64 are sorted
PACKINGS: dict[str, dict[str, Any]] = {
    "4 bits": {"group_size": 32, "bits": 4},
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "8 bits": {"group_size": 32, "bits": 8},
}


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in the form they are stored in."""
    monkeypatch.setenv("MLXONE_CPU", "native")


def ours(mixture: Mixture, folder: Path, module: nn.Module) -> Any:
    source, build = mixture.source(folder, module), experts.build
    if isinstance(mixture.spec, DenseAndExpertsSpec):
        built: Any = dense_and_experts.build(mixture.spec, mixture.model(), source, mixture.path)
    else:
        built = build(mixture.spec, mixture.model(), source, mixture.path)
    assert not source.checkpoint.leftover()
    return built


def hidden(tokens: int, dtype: mx.Dtype, rows: int = 1) -> mx.array:
    mx.random.seed(tokens)
    return mx.random.normal((rows, tokens, HIDDEN)).astype(dtype)


def assert_same(module: Any, part: Any, x: mx.array) -> None:
    theirs, own = module(x), part(x)
    assert own.dtype == theirs.dtype and own.shape == theirs.shape
    assert mx.isfinite(theirs).all()
    assert mx.array_equal(own, theirs)


@pytest.mark.parametrize("name", MIXTURES)
def test_float32(tmp_path: Path, name: str):
    module = MIXTURES[name].module()
    part = ours(MIXTURES[name], tmp_path, module)
    for tokens, rows in ((1, 1), (FEW, 1), (ENOUGH - 1, 1), (ENOUGH, 1), (MANY, 1), (1, 30), (9, 3)):
        assert_same(module, part, hidden(tokens, mx.float32, rows))


def quantized(module: nn.Module, packing: dict[str, Any]) -> nn.Module:
    """As mlx-lm does it: routers in 8 bits, or not at all where they are no module."""

    def setting(path: str, inner: nn.Module) -> Any:
        if not hasattr(inner, "to_quantized"):
            return False
        is_router = path.endswith(("gate", "router", "router.layer", "router.proj"))
        return {"group_size": 32, "bits": 8, "mode": "affine"} if is_router else True

    nn.quantize(module, **packing, class_predicate=setting)
    return module


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", MIXTURES)
def test_packed_under_bfloat16(tmp_path: Path, name: str, packing: str):
    module = quantized(MIXTURES[name].module(mx.bfloat16, seed=1), PACKINGS[packing])
    part = ours(MIXTURES[name], tmp_path, module)
    for tokens in (1, FEW, MANY):
        assert_same(module, part, hidden(tokens, mx.bfloat16))


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen3_next", "lfm2_moe", "granitemoehybrid"])
def test_a_router_wider_than_the_rest(tmp_path: Path, name: str):
    """What comes out is as wide as the scores, but where a family casts them or the sum."""
    module = MIXTURES[name].module(mx.bfloat16, seed=2)
    wide = {path: array.astype(mx.float32) for path, array in linears_of_router(module)}
    module.load_weights(list(wide.items()), strict=False)
    nn.quantize(module, 32, 4, class_predicate=lambda path, m: hasattr(m, "num_experts"))
    part = ours(MIXTURES[name], tmp_path, module)
    assert_same(module, part, hidden(FEW, mx.bfloat16))


def linears_of_router(module: nn.Module) -> list[tuple[str, mx.array]]:
    parameters: Any = tree_flatten(module.parameters())
    found = [(path, array) for path, array in parameters if path.endswith(("gate.weight", "layer.weight"))]
    assert found
    return found


def test_bfloat16_experts_are_widened_where_mlx_gathers_from_float32_alone(tmp_path: Path):
    """mlx-lm raises there; we answer in the model's dtype."""
    mixture = MIXTURES["gpt_oss"]
    module = mixture.module(mx.bfloat16)
    part = ours(mixture, tmp_path, module)
    x = hidden(MANY, mx.bfloat16)
    out = part(x)
    assert out.dtype == mx.bfloat16
    module.set_dtype(mx.float32)
    assert mx.allclose(out.astype(mx.float32), module(x.astype(mx.float32)), atol=0.1)


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_next", "mixtral"])
@pytest.mark.parametrize("packing", [None, "4 bits", "mxfp4"])
def test_gate_and_up_in_one_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, packing: str | None
):
    mixture = MIXTURES[name]
    module = mixture.module()
    if packing is not None:
        quantized(module, PACKINGS[packing])
    apart = ours(mixture, tmp_path, module)
    monkeypatch.setattr(experts, "on_cpu", lambda: False)
    joined = ours(mixture, tmp_path, module)
    # Narrow stacks of this mode stay apart: a wider one's kernel rounds differently (`stacked.TILE`).
    assert type(joined.stacked.gate_up) is (Abreast if packing == "mxfp4" else JoinedStacks)
    for tokens in (FEW, MANY):
        x = hidden(tokens, mx.float32)
        assert mx.allclose(apart(x), joined(x), rtol=1e-5, atol=1e-5)


def test_each_token_goes_through_the_experts_it_was_given(tmp_path: Path):
    """Against one matrix product after another."""
    mixture = MIXTURES["mixtral"]
    module: Any = mixture.module(seed=3)
    part = ours(mixture, tmp_path, module)
    x, indices = hidden(MANY, mx.float32), mx.random.randint(0, EXPERTS, (1, MANY, CHOSEN))
    out = experts.through_experts(part.stacked, x, indices)
    names = ("gate_proj", "up_proj", "down_proj")
    gate, up, down = (module.switch_mlp[name].weight for name in names)
    for token in range(MANY):
        for place, expert in enumerate(cast("list[int]", indices[0, token].tolist())):
            row = x[0, token]
            single = (nn.silu(row @ gate[expert].T) * (row @ up[expert].T)) @ down[expert].T
            assert mx.allclose(out[0, token, place], single, rtol=1e-4, atol=1e-5)


class Recorder:
    """Experts that give back what they get, plus their number."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], bool]] = []

    def __call__(self, x: mx.array, indices: mx.array, is_sorted: bool) -> mx.array:
        self.seen.append((cast("list[int]", indices.flatten().tolist()), is_sorted))
        return x + 100 * indices[..., None, None]


@pytest.mark.parametrize("shape", [(1, 63, 1), (1, 64, 1), (1, 21, 3), (2, 16, 2), (1, 15, 4), (3, 40, 2)])
def test_from_64_choices_on_they_come_sorted(shape: tuple[int, int, int]):
    recorder: Any = Recorder()
    indices = mx.random.randint(0, EXPERTS, shape)
    x = mx.random.normal((*shape[:2], HIDDEN))
    out = experts.through_experts(recorder, x, indices)
    ((seen, is_sorted),) = recorder.seen
    assert is_sorted == (indices.size >= 64)
    assert seen == (sorted(seen) if is_sorted else cast("list[int]", indices.flatten().tolist()))
    assert mx.array_equal(out, x[..., None, :] + 100 * indices[..., None])


def test_every_array_is_told(tmp_path: Path):
    """What is not told is not brought into memory with the rest of the layer."""
    for name, mixture in MIXTURES.items():
        folder = tmp_path / name
        folder.mkdir()
        module = mixture.module()
        told = sum(a.size for a in ours(mixture, folder, module).arrays())
        assert told == nn.utils.tree_reduce(lambda total, a: total + a.size, module.parameters(), 0), name


def test_a_stack_of_another_size_names_its_tensor(tmp_path: Path):
    mixture = MIXTURES["mixtral"]
    spec = mixture.spec
    assert isinstance(spec, ExpertsSpec)
    source = mixture.source(tmp_path, mixture.module())
    with pytest.raises(Exception, match=r"mlp\.switch_mlp\.up_proj\.weight"):
        experts.build(ExpertsSpec(spec.router, INNER + 1), mixture.model(), source, mixture.path)
