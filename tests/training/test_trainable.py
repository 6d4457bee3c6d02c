"""What is trained is what was asked for, and starts as it does in mlx-lm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import UsageError
from mlxone.models.changes import Dora, LowRank, Replaced
from mlxone.training.trainable import Trainable
from tests.models.checkpoints import refused
from tests.training import tiny

# isort: split
from mlx.utils import tree_flatten

LINEARS = {f"self_attn.{n}_proj" for n in "qkvo"} | {f"mlp.{n}_proj" for n in ("gate", "up", "down")}


def of_mlx_lm(
    folder: Path, seed: int, layers: int, dora: bool, keys: list[str] | None
) -> dict[str, mx.array]:
    model, _ = load_model(folder)
    model.freeze()
    mx.random.seed(seed)
    config: dict[str, Any] = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    linear_to_lora_layers(model, layers, config | ({"keys": keys} if keys else {}), use_dora=dora)
    return dict(tree_flatten(model.trainable_parameters()))


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen2"])
@pytest.mark.parametrize(
    ("kind", "layers", "keys"),
    [("lora", 2, None), ("dora", 2, None), ("lora", 1, ["self_attn.v_proj", "mlp.down_proj"])],
)
def test_it_starts_as_mlx_lm_does(tmp_path: Path, name: str, kind: Any, layers: int, keys: Any):
    decoder = tiny.load(tmp_path, tiny.CONFIGS[name])
    theirs = of_mlx_lm(tmp_path, 11, layers, kind == "dora", keys)
    with lock, on_stream():
        trainable = Trainable(decoder, kind=kind, rank=4, layers=layers, modules=keys)
        ours = trainable.start(11)
        assert ours.keys() == theirs.keys() == set(trainable.names(range(len(decoder.blocks))))
        for name, array in theirs.items():
            assert ours[name].dtype == mx.float32
            if name.endswith(".m"):  # sums in another order
                assert mx.allclose(ours[name], array, rtol=1e-6)
            else:
                assert mx.array_equal(ours[name], array), name


def test_a_full_start_is_the_weights_themselves(tmp_path: Path):
    decoder = tiny.load(tmp_path, tiny.QWEN2)
    tensors: Any = mx.load(str(tmp_path / "model.safetensors"))
    with lock, on_stream():
        trainable = Trainable(decoder, kind="full", layers=1)
        ours = trainable.start(0)
        assert set(ours) == {n for n in tensors if n.startswith("model.layers.1.")}
        assert set(trainable.names(range(2))) >= set(ours)
        assert all(mx.array_equal(ours[name], tensors[name]) for name in ours)


def test_ranks_may_differ_by_path():
    path = "model.layers.2.mlp.up_proj"
    with lock, on_stream():
        params = Trainable(tiny.decoder(), rank=4, ranks={path: 7}).start(0)
        assert params[f"{path}.lora_a"].shape == (64, 7) and params[f"{path}.lora_b"].shape == (7, 128)
        assert {a.shape[1] for n, a in params.items() if n.endswith("lora_a")} == {4, 7}


@pytest.mark.parametrize(("kind", "change"), [("lora", LowRank), ("dora", Dora), ("full", Replaced)])
def test_parameters_become_changes(kind: Any, change: type):
    with lock, on_stream():
        trainable = Trainable(tiny.decoder(), kind=kind, scale=3.0)
        changes = trainable.changes(trainable.start(0))
        assert tuple(changes) == trainable.paths
        assert {type(c) for own in changes.values() for c in own} == {change}
        norms = {p.rpartition(".")[2] for p in trainable.paths} - {p.rpartition(".")[2] for p in LINEARS}
        assert norms == ({"input_layernorm", "post_attention_layernorm"} if kind == "full" else set())


def test_each_path_is_thinned_in_its_own_way_and_always_the_same():
    with lock, on_stream():
        trainable = Trainable(tiny.decoder(), dropout=0.3)
        params = trainable.start(0)
        of_all: Any = trainable.changes(params, mx.random.key(3))
        keys = {tuple(own[0].key.tolist()) for own in of_all.values()}
        assert len(keys) == len(trainable.paths)
        path = trainable.paths[5]
        part = {n: a for n, a in params.items() if n.startswith(f"{path}.")}
        of_part: Any = trainable.changes(part, mx.random.key(3))
        assert mx.array_equal(of_part[path][0].key, of_all[path][0].key)
        without: Any = trainable.changes(params)
        assert without[path][0].key is None


@pytest.mark.parametrize("layers", [0, 4, -2])
def test_layers_that_are_not_there_are_refused(layers: int):
    with refused(UsageError, f"{layers} layers", "3"):
        Trainable(tiny.decoder(), layers=layers)


def test_modules_that_are_not_there_are_refused():
    with refused(UsageError, "'experts'", "q_proj", "down_proj"):
        Trainable(tiny.decoder(), modules=["q_proj", "experts"])
