from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, MlxoneError, StorageError, UnsupportedModel
from mlxone.models.gguf import convert
from mlxone.models.gguf_config import _shortest
from tests.models import gguf_files as g

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
Array = np.ndarray[Any, Any]


def values(name: str, shape: tuple[int, ...]) -> Array:
    chance = np.random.default_rng(list(name.encode()))
    return (chance.standard_normal(shape) * 0.2).astype(np.float32)


def interleaved(rows: Array, heads: int) -> Array:
    """What a GGUF writer does to query and key rows: row i of a head's first half, row i of its second."""
    by_head = rows.reshape(heads, -1, rows.shape[-1])
    first, second = np.split(by_head, 2, axis=1)
    return np.stack([first, second], axis=2).reshape(rows.shape)


def stored(name: str, rows: Array) -> Array:
    if "attn_q" in name:
        return interleaved(rows, g.HEADS)
    return interleaved(rows, g.KV_HEADS) if "attn_k" in name else rows


def q4_1(rows: Array) -> tuple[bytes, Array]:
    """The blocks, and the weights that they stand for."""
    blocks = rows.reshape(-1, 32)
    low = blocks.min(axis=1, keepdims=True).astype(np.float16)
    step = ((blocks.max(axis=1, keepdims=True) - low) / 15).astype(np.float16)
    codes = np.clip(np.rint((blocks - low) / step), 0, 15).astype(np.uint8)
    packed = codes[:, :16] | codes[:, 16:] << 4
    raw = b"".join(step[i].tobytes() + low[i].tobytes() + packed[i].tobytes() for i in range(len(blocks)))
    return raw, (codes * step.astype(np.float32) + low.astype(np.float32)).reshape(rows.shape)


def q8_0(rows: Array) -> tuple[bytes, Array]:
    blocks = rows.reshape(-1, 32)
    step = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
    codes = np.clip(np.rint(blocks / step), -127, 127).astype(np.int8)
    raw = b"".join(step[i].tobytes() + codes[i].tobytes() for i in range(len(blocks)))
    return raw, (codes * step.astype(np.float32)).reshape(rows.shape)


def encode(rows: Array, kind: int) -> tuple[bytes, Array]:
    if kind == Q4_1:
        return q4_1(rows)
    if kind == Q8_0:
        return q8_0(rows)
    cast = rows.astype(np.float32 if kind == F32 else np.float16)
    return cast.tobytes(), cast.astype(np.float32)


def model(kinds: dict[str, int] | int, *, tied: bool = True) -> tuple[dict[str, Any], dict[str, Array]]:
    """Tensors for a file, and the weights they stand for, in the snapshot's row order."""
    tensors, truth = {}, {}
    for name, shape in g.shapes(tied=tied).items():
        kind = kinds if isinstance(kinds, int) else kinds.get(name.split(".")[-2], Q4_1)
        raw, meant = encode(values(name, shape), F32 if len(shape) == 1 else kind)
        stored_raw, _ = encode(stored(name, values(name, shape)), F32 if len(shape) == 1 else kind)
        assert len(raw) == len(stored_raw)
        tensors[name], truth[name] = (shape, F32 if len(shape) == 1 else kind, stored_raw), meant
    return tensors, truth


def write(tmp_path: Path, tensors: dict[str, Any], **changes: tuple[str, Any] | None) -> Path:
    metadata = {k: v for k, v in (g.LLAMA | changes).items() if v is not None}
    return g.write(tmp_path / "m.gguf", g.gguf(metadata, tensors))


def read(folder: Path) -> tuple[dict[str, Any], dict[str, mx.array]]:
    weights: Any = mx.load(str(folder / "model.safetensors"))
    return json.loads((folder / "config.json").read_text()), weights


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Array]]:
    place = tmp_path_factory.mktemp("quantized")
    tensors, truth = model({"token_embd": Q8_0})
    convert(write(place, tensors), place / "out")
    return place / "out", truth


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers.1.self_attn.q_proj": "blk.1.attn_q",
    "model.layers.1.self_attn.k_proj": "blk.1.attn_k",
    "model.layers.1.self_attn.v_proj": "blk.1.attn_v",
    "model.layers.0.self_attn.o_proj": "blk.0.attn_output",
    "model.layers.0.mlp.gate_proj": "blk.0.ffn_gate",
    "model.layers.0.mlp.up_proj": "blk.0.ffn_up",
    "model.layers.1.mlp.down_proj": "blk.1.ffn_down",
    "model.layers.0.input_layernorm": "blk.0.attn_norm",
    "model.layers.1.post_attention_layernorm": "blk.1.ffn_norm",
}


@pytest.mark.parametrize(("name", "source"), NAMES.items(), ids=NAMES)
def test_quantized_weights_stay_what_they_were(
    quantized: tuple[Path, dict[str, Array]], name: str, source: str
):
    folder, truth = quantized
    _, weights = read(folder)
    weight = weights[f"{name}.weight"]
    if f"{name}.scales" in weights:
        bits = 8 if "embed" in name else 4
        scales, biases = weights[f"{name}.scales"], weights[f"{name}.biases"]
        assert {weight.dtype, scales.dtype, biases.dtype} == {mx.uint32, mx.float16}
        # In float32: what the packed words and scales mean, free of half precision's rounding.
        exact = (weight, scales.astype(mx.float32), biases.astype(mx.float32))
        found = np.array(mx.dequantize(*exact, group_size=32, bits=bits))
        assert np.allclose(found, truth[f"{source}.weight"], rtol=0, atol=1e-6)
    else:
        assert weight.dtype == mx.float16  # the norms take the scales' dtype
        assert np.array_equal(np.array(weight), truth[f"{source}.weight"].astype(np.float16))


def test_the_config_of_a_quantized_model(quantized: tuple[Path, dict[str, Array]]):
    config, _ = read(quantized[0])
    expected = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": len(g.TOKENS),
        "max_position_embeddings": 512,
        "rope_theta": 100000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "torch_dtype": "float16",
        "quantization": {
            "group_size": 32,
            "bits": 4,
            "model.embed_tokens": {"group_size": 32, "bits": 8},
        },
    }
    assert {key: config.get(key) for key in expected} == expected
    generation = json.loads((quantized[0] / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_the_oracle_loads_it_and_finds_every_weight(quantized: tuple[Path, dict[str, Array]]):
    from mlx_lm.utils import load_model

    loaded, _ = load_model(quantized[0])  # strict: no name missing, none left over
    assert loaded.model.embed_tokens.bits == 8
    assert loaded.model.layers[1].self_attn.q_proj.bits == 4
    logits = loaded(mx.array([[1, 5, 9]]))
    assert logits.shape == (1, 3, len(g.TOKENS))
    assert mx.all(mx.isfinite(logits)).item()


@pytest.mark.parametrize(("kind", "dtype"), [(F32, mx.float32), (F16, mx.float16)])
def test_plain_weights_keep_their_dtype_and_rows(tmp_path: Path, kind: int, dtype: Any):
    tensors, truth = model(kind, tied=False)
    convert(write(tmp_path, tensors), tmp_path / "out")
    config, weights = read(tmp_path / "out")
    assert {w.dtype for w in weights.values()} == {dtype}
    assert config["torch_dtype"] == str(dtype).removeprefix("mlx.core.")
    assert config["tie_word_embeddings"] is False
    assert "quantization" not in config
    expected = truth["blk.0.attn_q.weight"]
    assert np.array_equal(np.array(weights["model.layers.0.self_attn.q_proj.weight"], np.float32), expected)
    assert np.array_equal(np.array(weights["lm_head.weight"], np.float32), truth["output.weight"])


def test_what_is_not_quantized_in_a_quantized_model_says_so(tmp_path: Path):
    tensors, _ = model({"token_embd": F16, "output": Q8_0}, tied=False)
    convert(write(tmp_path, tensors), tmp_path / "out")
    config, _ = read(tmp_path / "out")
    assert config["quantization"] == {
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": False,
        "lm_head": {"group_size": 32, "bits": 8},
    }


def test_linear_rope_scaling_and_an_end_of_turn_token(tmp_path: Path):
    changes = {
        "llama.rope.scaling.type": ("str", "linear"),
        "llama.rope.scaling.factor": ("f32", 4.0),
        "tokenizer.ggml.eot_token_id": ("u32", 0),
    }
    convert(write(tmp_path, model(F16)[0], **changes), tmp_path / "out")
    config, _ = read(tmp_path / "out")
    assert config["rope_scaling"] == {"type": "linear", "factor": 4.0}
    assert config["eos_token_id"] == [2, 0]
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert tokenizer["eos_token"] == "<|endoftext|>"


@pytest.mark.parametrize("value", [1e-5, 1e-6, 0.1, 3.0, 100000.0, 500000.0, 1 / 3])
def test_floats_come_out_as_people_write_them(value: float):
    single = struct.unpack("<f", struct.pack("<f", value))[0]
    assert struct.pack("<f", _shortest(single)) == struct.pack("<f", value)
    assert len(repr(_shortest(single))) <= len(repr(single))
    assert value == 1 / 3 or _shortest(single) == value


# What cannot be converted.

REFUSED: dict[str, tuple[dict[str, tuple[str, Any] | None], type[MlxoneError], str]] = {
    "another architecture": ({"general.architecture": ("str", "qwen2")}, UnsupportedModel, "'qwen2'"),
    "no architecture": ({"general.architecture": None}, UnsupportedModel, "missing"),
    "experts": ({"llama.expert_count": ("u32", 8)}, UnsupportedModel, "mixture of experts"),
    "a factor of nothing": ({"llama.rope.scaling.factor": ("f32", 2.0)}, UnsupportedModel, "scaling.factor"),
    "yarn": ({"llama.rope.scaling.type": ("str", "yarn")}, UnsupportedModel, "'yarn'"),
    "partial rope": ({"llama.rope.dimension_count": ("u32", 8)}, UnsupportedModel, "rope.dimension_count"),
    "no layer count": ({"llama.block_count": None}, DamagedModel, "llama.block_count is missing"),
    "a text for a number": ({"llama.block_count": ("str", "2")}, DamagedModel, "llama.block_count is '2'"),
    "more layers than tensors": ({"llama.block_count": ("u32", 2**31 - 1)}, DamagedModel, "blk.2.attn_q"),
    "fewer layers than tensors": ({"llama.block_count": ("u32", 1)}, UnsupportedModel, "blk.1."),
    "no heads": ({"llama.attention.head_count": ("u32", 0)}, DamagedModel, "head_count is 0"),
    "heads that do not divide": ({"llama.attention.head_count_kv": ("u32", 3)}, DamagedModel, "3 key heads"),
    "a wrong width": ({"llama.feed_forward_length": ("u32", 128)}, DamagedModel, "ffn_gate.weight"),
    "not a number": ({"llama.rope.freq_base": ("f32", float("nan"))}, DamagedModel, "freq_base is nan"),
    "another tokenizer": ({"tokenizer.ggml.model": ("str", "llama")}, UnsupportedModel, "'llama'"),
    "another pre-tokenizer": ({"tokenizer.ggml.pre": ("str", "tekken")}, UnsupportedModel, "'tekken'"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, DamagedModel, "tokens is empty"),
    "tokens as numbers": ({"tokenizer.ggml.tokens": ("[u32]", [1])}, DamagedModel, "not a list of strings"),
    "a token twice": ({"tokenizer.ggml.tokens": ("[str]", g.TOKENS[:-1] + ["!"])}, DamagedModel, "twice"),
    "more tokens than rows": (
        {
            "tokenizer.ggml.tokens": ("[str]", [*g.TOKENS, "more"]),
            "tokenizer.ggml.token_type": ("[i32]", [*g.TYPES, 1]),
        },
        DamagedModel,
        "rows of embeddings",
    ),
    "no types": ({"tokenizer.ggml.token_type": None}, DamagedModel, "token_type is missing"),
    "types too short": ({"tokenizer.ggml.token_type": ("[i32]", [1])}, DamagedModel, "has 1 items"),
    "a merge of unknowns": ({"tokenizer.ggml.merges": ("[str]", ["h zz"])}, DamagedModel, "'h zz'"),
    "a merge of three": ({"tokenizer.ggml.merges": ("[str]", ["h e l"])}, DamagedModel, "'h e l'"),
    "eos outside": ({"tokenizer.ggml.eos_token_id": ("u32", 9999)}, DamagedModel, "eos token 9999"),
    "bos as text": ({"tokenizer.ggml.bos_token_id": ("str", "x")}, DamagedModel, "bos_token_id is 'x'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return model(F16)[0]


@pytest.mark.parametrize(("changes", "error", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_converted_says_why(
    tmp_path: Path, plain: dict[str, Any], changes: Any, error: type[MlxoneError], reason: str
):
    file = write(tmp_path, plain, **changes)
    with pytest.raises(error) as e:
        convert(file, tmp_path / "out")
    assert reason in e.value.message
    assert e.value.message.count(str(file)) == 1
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"blk.0.attn_v.weight": None}, DamagedModel, "'blk.0.attn_v.weight' is missing"),
        ({"token_embd.weight": None}, DamagedModel, "'token_embd.weight' is missing"),
        ({"blk.0.attn_q.bias": ((64,), F32, bytes(256))}, UnsupportedModel, "'blk.0.attn_q.bias' has no"),
        ({"rope_freqs.weight": ((8,), F32, bytes(32))}, UnsupportedModel, "Llama 3"),
        ({"blk.1.ffn_up.weight": ((64, 96), F16, bytes(12288))}, DamagedModel, "'blk.1.ffn_up.weight'"),
        ({"blk.1.ffn_up.weight": ((96, 32), Q8_0, bytes(3264))}, DamagedModel, "'blk.1.ffn_up.weight'"),
        ({"output_norm.weight": ((64,), Q8_0, bytes(68))}, DamagedModel, "'output_norm.weight'"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_make_a_llama(
    tmp_path: Path, plain: dict[str, Any], changes: Any, error: type[MlxoneError], reason: str
):
    tensors = {k: v for k, v in (plain | changes).items() if v is not None}
    with pytest.raises(error) as e:
        convert(write(tmp_path, tensors), tmp_path / "out")
    assert reason in e.value.message
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_never_reaches_mlx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mx, "load", lambda *_, **__: pytest.fail("MLX saw it"))
    with pytest.raises(DamagedModel, match="not a GGUF file"):
        convert(g.write(tmp_path / "m.gguf", b"GGUG" + bytes(100)), tmp_path / "out")


def test_a_read_only_file_is_explained(
    tmp_path: Path, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write to anything
    with pytest.raises(StorageError, match="read-only"):
        convert(write(tmp_path, plain), tmp_path / "out")


# What is left behind.


def test_what_is_there_is_not_overwritten(tmp_path: Path, plain: dict[str, Any]):
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="is there already"):
        convert(write(tmp_path, plain), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("[save] failed")])
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch, failure: Exception
):
    def fail(path: str, *_: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise failure

    file = write(tmp_path, plain)
    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.raises(StorageError, match=str(tmp_path / "out")):
        convert(file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made(tmp_path: Path, plain: dict[str, Any]):
    file = write(tmp_path, plain)
    with pytest.raises(StorageError, match="cannot be written"):
        convert(file, file / "out")


def test_every_file_is_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    out = tmp_path / "out"
    convert(write(tmp_path, plain), out)
    assert {p.stat().st_ino for p in (*out.iterdir(), out, tmp_path)} <= synced
    assert out.stat().st_mode & 0o777 == 0o755


KILLED = """
import os, sys
from pathlib import Path
from mlxone.models import gguf
save = gguf.mx.save_safetensors
def die(*args, **kwargs):
    save(*args, **kwargs)
    os._exit(9)
gguf.mx.save_safetensors = die
gguf.convert(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_conversion_is_not_mistaken_for_a_model(tmp_path: Path, plain: dict[str, Any]):
    file = write(tmp_path, plain)
    done = subprocess.run([sys.executable, "-c", KILLED, str(file), str(tmp_path / "out")], check=False)
    assert done.returncode == 9
    assert not (tmp_path / "out").exists()
    convert(file, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()
