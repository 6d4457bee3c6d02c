"""An adapter's folder: what it changes, and that whatever does not fit is named before anything changes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import AdapterMismatch, AdapterNotFound, MlxoneError
from mlxone.models.adapter_files import write_adapter
from mlxone.models.adapters import Adapter
from mlxone.models.changed import changed_decoder, leaves_of, norms_of
from mlxone.models.changes import Dora, LowRank, Replaced
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.models.checkpoints import LLAMA, entries, packed, refused, save, tensors, write_safetensors
from tests.models.tuned import answers, facts, linear, random_params, wide

UP = "model.layers.1.mlp.up_proj"
Q = "model.layers.0.self_attn.q_proj"
Arrays = dict[str, mx.array]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load_decoder(save(tmp_path_factory.mktemp("base"), LLAMA, tensors(LLAMA)))


def written(folder: Path, file: str, arrays: Mapping[str, mx.array], config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with lock, on_stream():
        mx.save_safetensors(str(folder / file), dict(arrays))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def mlx_lm(folder: Path, arrays: Mapping[str, mx.array], kind: str = "lora", rank: int = 4) -> Path:
    lora = {"rank": rank, "scale": 1.7, "dropout": 0.0}
    config = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": lora}
    return written(folder, "adapters.safetensors", arrays, config)


def peft(folder: Path, arrays: Mapping[str, mx.array], **config: Any) -> Path:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | config
    return written(folder, "adapter_model.safetensors", arrays, config)


def two(decoder: Decoder, kind: str = "lora") -> Arrays:
    return random_params(decoder, kind, wanted=lambda path: path in (UP, Q))


@pytest.mark.parametrize(("kind", "change"), [("lora", LowRank), ("dora", Dora), ("full", Replaced)])
def test_what_a_folder_says(tmp_path: Path, decoder: Decoder, kind: str, change: type):
    params = two(decoder, kind)
    adapter = Adapter.read(mlx_lm(tmp_path, params, kind))
    full = kind == "full"
    assert (adapter.kind, adapter.format) == (kind, "mlx-lm")
    assert (adapter.rank, adapter.scale) == ((0, 1.0) if full else (4, 1.7))
    assert adapter.size_bytes == sum(a.nbytes for a in params.values())
    assert set(adapter.paths) == {UP, Q}
    changes = adapter.changes(decoder)
    assert {path: [type(c) for c in own] for path, own in changes.items()} == {UP: [change], Q: [change]}


def test_a_full_fine_tuning_takes_the_bases_dtype_and_may_change_norms(tmp_path: Path, decoder: Decoder):
    params = random_params(decoder, "full", dtype=mx.bfloat16, wanted=lambda path: ".layers.1." in path)
    changes = Adapter.read(mlx_lm(tmp_path, params, "full")).changes(decoder)
    assert len(changes) == 9
    for path, own in changes.items():
        assert isinstance(own[0], Replaced) and own[0].weight.dtype == mx.float32
        assert mx.array_equal(own[0].weight, params[f"{path}.weight"].astype(mx.float32))


def test_a_full_fine_tuning_of_biases_alone(tmp_path: Path):
    config = LLAMA | {"model_type": "qwen2"}
    decoder = load_decoder(save(tmp_path / "base", config, tensors(config)))
    adapter = Adapter.read(mlx_lm(tmp_path / "a", {f"{Q}.bias": mx.full(64, 3.0)}, "full"))
    change = adapter.changes(decoder)[Q][0]
    assert isinstance(change, Replaced) and change.bias is not None and (change.bias == 3).all()
    assert mx.array_equal(change.weight, leaves_of(decoder)[Q].dense())
    with refused(AdapterMismatch, f"'{UP}.bias'", "has no bias"):
        Adapter.read(mlx_lm(tmp_path / "b", {f"{UP}.bias": mx.zeros(128)}, "full")).changes(decoder)


def test_a_tensor_by_two_names_is_not_chosen_from(tmp_path: Path, decoder: Decoder):
    rows = leaves_of(decoder)[Q].out_dims
    arrays = {
        f"base_model.model.{Q}.lora_A.weight": mx.zeros((4, 64)),
        f"base_model.model.{Q}.lora_B.weight": mx.zeros((rows, 4)),
        f"base_model.model.{Q}.lora_magnitude_vector": mx.ones(rows),
        f"base_model.model.{Q}.lora_magnitude_vector.weight": mx.zeros(rows),
    }
    with refused(AdapterMismatch, "lora_magnitude_vector", "second time"):
        Adapter.read(peft(tmp_path, arrays, use_dora=True))


def test_a_file_that_becomes_another_while_it_is_read(
    tmp_path: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
):
    params = two(decoder)
    folder = mlx_lm(tmp_path / "a", params)
    mlx_lm(tmp_path / "b", {name: array for name, array in params.items() if Q in name})
    load = mx.load

    def replaced(file: str, **how: Any) -> Any:  # after its header was read
        (tmp_path / "b" / "adapters.safetensors").replace(file)
        return load(file, **how)

    monkeypatch.setattr(mx, "load", replaced)
    with refused(AdapterMismatch, "written anew"):
        Adapter.read(folder)


# PEFT: names, orientation and scales, against the changed weights in float64.


@pytest.mark.parametrize("magnitude", [None, ".lora_magnitude_vector", ".lora_magnitude_vector.weight"])
@pytest.mark.parametrize("quantized", [True, False])
def test_peft_against_float64(tmp_path: Path, quantized: bool, magnitude: str | None):
    config, arrays = LLAMA, tensors(LLAMA)
    if quantized:
        config = LLAMA | {"quantization": {"group_size": 32, "bits": 4}}
        arrays = packed(arrays, lambda path: (32, 4, "affine"))
    decoder = load_decoder(save(tmp_path / "base", config, arrays))
    x, scales = mx.random.normal((3, 64)), {UP: 6 / math.sqrt(4), Q: 8 / math.sqrt(2)}
    rng = np.random.default_rng(1)
    params, stored = dict[str, Arrays](), dict[str, mx.array]()
    for path, rank in ((UP, 4), (Q, 2)):
        out = leaves_of(decoder)[path].out_dims
        a, b = rng.normal(size=(rank, 64)) / 8, rng.normal(size=(out, rank))
        params[path] = {"lora_a": mx.array(a.T), "lora_b": mx.array(b.T)}
        stored |= {
            f"base_model.model.{path}.lora_A.weight": mx.array(a.astype(np.float32)),
            f"base_model.model.{path}.lora_B.weight": mx.array(b.astype(np.float32)),
        }
        if magnitude:
            params[path]["m"] = stored[f"base_model.model.{path}{magnitude}"] = mx.random.uniform(
                0.5, 1.5, (out,)
            )
    folder = peft(
        tmp_path / "adapter", stored, use_rslora=True, use_dora=bool(magnitude),
        rank_pattern={"q_proj": 2}, alpha_pattern={"mlp.up_proj": 6},
    )  # fmt: skip
    adapter = Adapter.read(folder)
    assert (adapter.format, adapter.rank, adapter.scale) == ("peft", 4, 8 / 2)
    changed = changed_decoder(decoder, adapter.changes(decoder))
    with lock, on_stream():
        for path in (UP, Q):
            expected = linear(x, leaves_of(decoder)[path].dense(), params[path], scales[path])
            assert np.allclose(wide(leaves_of(changed)[path](x)), expected, atol=1e-4)


@pytest.mark.parametrize("prefix", ["language_model.model", "model.language_model"])
def test_a_text_model_inside_another_is_the_same_text_model(tmp_path: Path, decoder: Decoder, prefix: str):
    params = two(decoder)
    inside = {f"{prefix}.{name.removeprefix('model.')}": a for name, a in params.items()}
    direct = Adapter.read(mlx_lm(tmp_path / "a", params)).changes(decoder)
    found = Adapter.read(mlx_lm(tmp_path / "b", inside)).changes(decoder)
    assert set(found) == set(direct) == {UP, Q}
    one, other = (answers(changed_decoder(decoder, changes)) for changes in (direct, found))
    assert mx.array_equal(one, other)
    with refused(AdapterMismatch, "no linear"):  # two that claim one place
        Adapter.read(mlx_lm(tmp_path / "c", params | inside)).changes(decoder)


def test_a_tower_beside_the_text_model_is_not_taken_for_it(tmp_path: Path, decoder: Decoder):
    params = {f"model.vision_tower.{name.removeprefix('model.')}": a for name, a in two(decoder).items()}
    with refused(AdapterMismatch, "no linear 'model.vision_tower."):
        Adapter.read(mlx_lm(tmp_path, params)).changes(decoder)


# To go on training.


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_params_are_what_was_written(tmp_path: Path, decoder: Decoder, kind: str):
    params = random_params(decoder, kind, rank=lambda number: 2 + number % 3)
    write_adapter(tmp_path, params, facts(kind))
    again = Adapter.read(tmp_path).params(decoder)
    assert again.keys() == params.keys()
    assert all(mx.array_equal(again[name], array) for name, array in params.items())


def test_params_carry_what_is_scaled_otherwise_in_their_second_half(tmp_path: Path, decoder: Decoder):
    halves = {UP: (128, 4), Q: (64, 2)}
    stored = {
        f"base_model.model.{path}.lora_{half}.weight": mx.random.normal(shape).astype(mx.float16)
        for path, (out, rank) in halves.items()
        for half, shape in (("A", (rank, 64)), ("B", (out, rank)))
    }
    adapter = Adapter.read(peft(tmp_path / "peft", stored, rank_pattern={"q_proj": 2}))
    params = adapter.params(decoder)
    assert {a.dtype for a in params.values()} == {mx.float32}
    write_adapter(tmp_path / "ours", params, facts(scale=adapter.scale))
    ours = Adapter.read(tmp_path / "ours").changes(decoder)
    one, other = (answers(changed_decoder(decoder, c)) for c in (ours, adapter.changes(decoder)))
    assert mx.allclose(one, other, atol=1e-3) and not mx.allclose(one, answers(decoder), atol=1e-2)


# What does not fit.


def reshaped(name: str, *shape: int) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: mx.ones(shape)}


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {n: a for n, a in arrays.items() if n != name}


MISFITS: dict[str, tuple[Callable[[Arrays], Arrays], tuple[str, ...]]] = {
    "in": (reshaped(f"{UP}.lora_a", 32, 4), (f"'{UP}.lora_a'", "[32, 4]", "the model needs [64, 4]")),
    "out": (reshaped(f"{UP}.lora_b", 4, 64), (f"'{UP}.lora_b'", "[4, 64]", "the model needs [4, 128]")),
    "rank": (reshaped(f"{UP}.lora_a", 64, 3), (f"'{UP}.lora_a'", "[64, 3]", "no pair of rank 4")),
    "vector": (reshaped(f"{UP}.lora_a", 64), (f"'{UP}.lora_a'", "[64]", "no pair")),
    "experts": (reshaped(f"{UP}.lora_b", 8, 4, 128), (f"'{UP}.lora_b'", "[8, 4, 128]", "no pair")),
    "half": (without(f"{UP}.lora_b"), (f"'{UP}.lora_a'", "without the second of its pair")),
    "other half": (without(f"{UP}.lora_a"), (f"'{UP}.lora_b'", "without the first of its pair")),
    "layer": (
        lambda arrays: {n.replace("layers.1", "layers.7"): a for n, a in arrays.items()},
        ("tensor 'model.layers.7.mlp.up_proj.lora_a' of shape [64, 4]", "no linear 'model.layers.7.mlp"),
    ),
    "kind": (
        lambda arrays: arrays | {f"{UP}.m": mx.ones(128)},
        (UP, "a magnitude", "says lora"),
    ),
    "name": (lambda arrays: arrays | {f"{UP}.weight": mx.ones(1)}, (f"'{UP}.weight'", "none of a lora")),
    "dtype": (
        lambda arrays: arrays | {f"{UP}.lora_a": mx.ones((64, 4), mx.int32)},
        (f"'{UP}.lora_a'", "dtype I32"),
    ),
    "nan": (
        lambda arrays: arrays | {f"{UP}.lora_b": mx.full((4, 128), math.nan)},
        (f"'{UP}.lora_b'", "not finite"),
    ),
    "empty": (lambda arrays: {}, ("holds no tensors",)),
}  # fmt: skip


@pytest.mark.parametrize("what", MISFITS)
def test_the_first_tensor_that_does_not_fit_is_named(tmp_path: Path, decoder: Decoder, what: str):
    damage, named = MISFITS[what]
    folder = mlx_lm(tmp_path, damage(two(decoder)))
    for use in (Adapter.changes, Adapter.params):
        with refused(AdapterMismatch, str(tmp_path), *named):
            use(Adapter.read(folder), decoder)


def test_a_dora_without_its_magnitudes(tmp_path: Path, decoder: Decoder):
    with refused(AdapterMismatch, "no magnitude", "says dora"):
        Adapter.read(mlx_lm(tmp_path, two(decoder), "dora"))


@pytest.mark.parametrize("name", ["model.norm.weight", f"{UP}.weight"])
def test_whole_weights_of_other_shapes(tmp_path: Path, decoder: Decoder, name: str):
    arrays = two(decoder, "full") | {name: mx.ones((3, 3))}
    with refused(AdapterMismatch, repr(name), "[3, 3]"):
        Adapter.read(mlx_lm(tmp_path, arrays, "full")).changes(decoder)


def test_a_peft_tensor_is_named_with_its_own_shape(tmp_path: Path, decoder: Decoder):
    name = f"base_model.model.{UP}.lora_"
    stored = {f"{name}A.weight": mx.ones((4, 64)), f"{name}B.weight": mx.ones((100, 4))}
    with refused(AdapterMismatch, f"'{name}B.weight' of shape [100, 4]", "the model needs [128, 4]"):
        Adapter.read(peft(tmp_path, stored)).changes(decoder)


def test_a_norm_is_no_linear(tmp_path: Path, decoder: Decoder):
    path = next(iter(norms_of(decoder)))
    arrays = {f"{path}.lora_a": mx.ones((64, 4)), f"{path}.lora_b": mx.ones((4, 64))}
    with refused(AdapterMismatch, f"no linear {path!r}"):
        Adapter.read(mlx_lm(tmp_path, arrays)).changes(decoder)


def test_no_folder(tmp_path: Path):
    with refused(AdapterNotFound, f"{tmp_path / 'a'} is not a folder"):
        Adapter.read(tmp_path / "a")


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapters.safetensors"])
def test_a_file_that_is_missing(tmp_path: Path, decoder: Decoder, missing: str):
    folder = mlx_lm(tmp_path, two(decoder))
    (folder / missing).unlink()
    with refused(AdapterMismatch, str(folder / missing), "is missing"):
        Adapter.read(folder)


def test_pickled_tensors_are_not_read(tmp_path: Path):
    folder = peft(tmp_path, {"x": mx.ones(1)})
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with refused(AdapterMismatch, "adapter_model.bin", "safe_serialization=True"):
        Adapter.read(folder)


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_file_that_was_cut_off(tmp_path: Path, decoder: Decoder, keep: int):
    file = mlx_lm(tmp_path, two(decoder)) / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with refused(AdapterMismatch, str(file)):
        Adapter.read(tmp_path)


def test_names_that_are_meant_to_break_something(tmp_path: Path):
    for number, name in enumerate(
        ["", ".", ".lora_a", "a" * 100_000 + ".lora_a", "\n.lora_a", "__metadata__"]
    ):
        folder = mlx_lm(tmp_path / str(number), {"x": mx.ones(1)})
        write_safetensors(
            folder / "adapters.safetensors", {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        )
        with pytest.raises(MlxoneError) as caught:
            Adapter.read(folder)
        assert caught.type is AdapterMismatch and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "metadata", [[], 1, {"a": 1}, {"mlxone": 1}, {"mlxone": {}}, {"mlxone": "{}"}, {"a": "b"}]
)
def test_whatever_the_header_says_beside_its_tensors(tmp_path: Path, decoder: Decoder, metadata: Any):
    folder = mlx_lm(tmp_path, two(decoder))
    header = {"__metadata__": metadata} | entries({f"{UP}.lora_a": (64, 4), f"{UP}.lora_b": (4, 128)})
    write_safetensors(folder / "adapters.safetensors", header, data=(64 + 128) * 16)
    if metadata in ([], {"a": "b"}):
        assert Adapter.read(folder).paths == (UP,)
    else:
        with pytest.raises(MlxoneError) as caught:
            Adapter.read(folder)
        assert caught.type is AdapterMismatch


def test_what_was_read_needs_its_files_no_more(tmp_path: Path, decoder: Decoder):
    folder = mlx_lm(tmp_path, two(decoder))
    expected = answers(changed_decoder(decoder, Adapter.read(folder).changes(decoder)))
    adapter = Adapter.read(folder)
    (folder / "adapters.safetensors").write_bytes(b"")
    assert mx.array_equal(answers(changed_decoder(decoder, adapter.changes(decoder))), expected)
