"""What is written is read back as it was, by each program; a full disk or a kill leaves an adapter whole."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from mlxone.backend.arrays import mx
from mlxone.core.errors import AdapterMismatch, StorageError, UsageError
from mlxone.models.adapter_files import write_adapter, write_peft
from mlxone.models.adapters import Adapter
from mlxone.models.changed import changed_decoder, linears_of
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.models.checkpoints import LLAMA, refused, save, tensors
from tests.models.tuned import answers, facts, random_params

CONFIG, TENSORS = "adapter_config.json", "adapters.safetensors"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load_decoder(save(tmp_path_factory.mktemp("base"), LLAMA, tensors(LLAMA)))


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / CONFIG).read_text()))


def mounted(decoder: Decoder, folder: Path) -> mx.array:
    return answers(changed_decoder(decoder, Adapter.read(folder).changes(decoder)))


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("even", [True, False])
def test_both_formats_mean_the_same_model(tmp_path: Path, decoder: Decoder, kind: str, even: bool):
    params = random_params(decoder, kind, rank=lambda number: 4 if even else 1 + number % 4)
    write_adapter(tmp_path / "ours", params, facts(kind))
    write_peft(tmp_path / "peft", params, facts(kind), "some/model")
    one, other = mounted(decoder, tmp_path / "ours"), mounted(decoder, tmp_path / "peft")
    assert mx.allclose(one, other, atol=1e-4) and not mx.allclose(one, answers(decoder), atol=1e-2)
    assert Adapter.read(tmp_path / "ours").rank == Adapter.read(tmp_path / "peft").rank == 4


def test_the_config_speaks_mlx_lms_words(tmp_path: Path, decoder: Decoder):
    params = random_params(decoder, wanted=lambda path: path.endswith(("q_proj", "lm_head")))
    write_adapter(tmp_path, params, facts(dropout=0.1, layers=2, extra={"base": "some/model"}))
    assert config_of(tmp_path) == {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {
            "rank": 4, "scale": 1.7, "dropout": 0.1, "keys": ["lm_head", "self_attn.q_proj"],
        },
        "mlxone": {"rank": 4, "base": "some/model"},
    }  # fmt: skip
    write_adapter(tmp_path, params, facts(keys=["self_attn.q_proj"]))
    assert config_of(tmp_path)["lora_parameters"]["keys"] == ["self_attn.q_proj"]
    assert config_of(tmp_path)["num_layers"] == -1


def test_lower_ranks_are_filled_up_and_noted(tmp_path: Path, decoder: Decoder):
    params = random_params(decoder, rank=lambda number: 2 if number == 3 else 5)
    write_adapter(tmp_path, params, facts(rank=8))
    config, path = config_of(tmp_path), list(linears_of(decoder))[3]
    assert config["lora_parameters"]["rank"] == 5
    assert config["mlxone"] == {"rank": 8, "ranks": {path: 2}}
    stored: Any = mx.load(str(tmp_path / TENSORS))
    assert {a.shape[1] for n, a in stored.items() if n.endswith("lora_a")} == {5}
    assert not stored[f"{path}.lora_a"][:, 2:].any() and not stored[f"{path}.lora_b"][2:].any()


def test_the_config_speaks_pefts_words(tmp_path: Path, decoder: Decoder):
    in_layers = random_params(decoder, wanted=lambda path: path.endswith(("q_proj", "up_proj")))
    write_peft(tmp_path, in_layers, facts(), "some/model")
    config = config_of(tmp_path)
    assert (config["r"], config["lora_alpha"]) == (4, 4 * 1.7) and config["rank_pattern"] == {}
    assert config["target_modules"] == ["q_proj", "up_proj"]
    assert config["base_model_name_or_path"] == "some/model"
    last = {n: a for n, a in in_layers.items() if ".layers.1." in n}
    write_peft(tmp_path, last, facts(layers=1), "some/model")
    assert config_of(tmp_path)["target_modules"] == [
        "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj",
    ]  # fmt: skip
    uneven = {n: a for n, a in in_layers.items() if "layers.0.mlp" not in n}
    write_peft(tmp_path, uneven, facts(), "some/model")
    assert "q_proj" not in config_of(tmp_path)["target_modules"]


def test_whole_weights_are_nothing_for_peft(tmp_path: Path, decoder: Decoder):
    with refused(UsageError, "full fine-tuning", "fuse it"):
        write_peft(tmp_path, random_params(decoder, "full"), facts("full"), "some/model")


@pytest.mark.parametrize("write", ["ours", "peft"])
def test_a_full_disk_leaves_the_old_adapter(tmp_path: Path, decoder: Decoder, write: str):
    params = random_params(decoder)

    def save_it(scale: float) -> None:
        if write == "ours":
            write_adapter(tmp_path, params, facts(scale=scale))
        else:
            write_peft(tmp_path, params, facts(scale=scale), "some/model")

    save_it(1.0)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 10, 5_000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # a write beyond it fails, as on a full disk
        try:
            with refused(StorageError, str(tmp_path), "cannot be written"):
                save_it(2.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert Adapter.read(tmp_path).scale == pytest.approx(1.0)


def test_a_place_that_is_none(tmp_path: Path, decoder: Decoder):
    (tmp_path / "file").write_text("")
    with refused(StorageError, str(tmp_path / "file"), "cannot be written", "choose a folder"):
        write_adapter(tmp_path / "file" / "folder", random_params(decoder), facts())


@pytest.mark.parametrize("step", [0, 1])
def test_a_kill_at_any_name_leaves_one_adapter_or_is_noticed(
    tmp_path: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, step: int
):
    write_adapter(tmp_path, random_params(decoder, seed=1), facts(scale=1.0))
    old = mounted(decoder, tmp_path)
    names = iter(range(2))
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if next(names) == step:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_adapter(tmp_path, random_params(decoder, seed=2), facts(scale=2.0))
    if step == 0:
        assert mx.array_equal(mounted(decoder, tmp_path), old)
    else:
        with refused(AdapterMismatch, CONFIG, TENSORS, "different saves", '"scale": 2.0'):
            Adapter.read(tmp_path)
    write_adapter(tmp_path, random_params(decoder, seed=2), facts(scale=2.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG, TENSORS], "nothing is left lying about"
    assert Adapter.read(tmp_path).scale == 2.0


@pytest.mark.parametrize("key", ["rank", "scale", "ranks"])
def test_a_config_of_another_save_is_noticed(tmp_path: Path, decoder: Decoder, key: str):
    write_adapter(tmp_path, random_params(decoder), facts())
    config = config_of(tmp_path)
    if key == "ranks":  # by which the tensors would be cut
        config["mlxone"]["ranks"] = {next(iter(linears_of(decoder))): 3}
    else:
        config["lora_parameters"][key] = 3
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with refused(AdapterMismatch, CONFIG, TENSORS, "different saves"):
        Adapter.read(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"lora_alpha": 5}, {"rank_pattern": {"q_proj": 1}}, {"use_rslora": True}]
)
def test_a_config_of_another_save_is_noticed_beside_pefts_tensors(
    tmp_path: Path, decoder: Decoder, changes: dict[str, Any]
):
    write_peft(tmp_path, random_params(decoder), facts(), "some/model")
    (tmp_path / CONFIG).write_text(json.dumps(config_of(tmp_path) | changes))
    with refused(AdapterMismatch, CONFIG, "different saves"):
        Adapter.read(tmp_path)
