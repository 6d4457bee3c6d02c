"""Invariant: any bytes in a model folder give a model that answers, or one line of our own error family.

Never a crash, a hang or an exception of somebody else; memory stays bounded. Files that pass the
readers are loaded, and one forward pass is run, in a process apart: a native crash fails the test.
"""

from __future__ import annotations

import copy
import json
import math
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.backend.arrays import on_cpu
from mlxone.core.errors import DamagedModel, MlxoneError
from mlxone.formats.config import read_json
from mlxone.formats.safetensors import ITEM_BYTES, TensorInfo, read_header
from mlxone.service.defaults import sampling_for
from mlxone.service.loading import load
from mlxone.text.tokenizer import Tokenizer
from tests.models import checkpoints as c

# The folder is written anew in each example, so that one fixture serves them all.
reused = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# Values -------------------------------------------------------------------------------------

EDGES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 5, 7, 32, 64, 96, 100, 2**31 - 1, 2**31, 2**63, 2**64, 10**400,
    0.0, -0.0, 0.5, 1.0, 1e-320, 1e-30, 1e38, 1e39, 1e300, -1e300, math.nan, math.inf, -math.inf,
    "", "true", "64", "default", "linear", "dynamic", "llama3", "yarn", "affine", "mxfp4", "gelu",
    "\n", "\ud800",
    [], {}, [[]], [0], [1, 2], ["full_attention"], ["sliding_attention"] * 2, {"a": {}},
    {"__float__": "NaN"}, {"__float__": "Infinity"}, {"__float__": 1},
]  # fmt: skip
scalars = st.sampled_from(EDGES) | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)

BASES: dict[str, dict[str, Any]] = {
    "llama": c.LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "yarn": c.LLAMA | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
                       "beta_fast": 32, "original_max_position_embeddings": 64, "mscale": 1,
                       "mscale_all_dim": 0.5}},
    "dynamic": c.LLAMA | {"model_type": "mistral", "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "sliding": c.LLAMA | {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4},
    "qwen2": c.LLAMA | {"model_type": "qwen2", "use_sliding_window": False, "tie_word_embeddings": True},
    "qwen3": c.QWEN3 | {"rope_scaling": {"type": "linear", "factor": 2.0}, "attention_bias": False},
    "smollm3": c.LLAMA | {"model_type": "smollm3", "no_rope_layers": [1, 0], "no_rope_layer_interval": 4},
    "packed": c.LLAMA | {"quantization": {"group_size": 64, "bits": 4, "mode": "affine",
                         "lm_head": {"group_size": 32, "bits": 8, "mode": "affine"},
                         "model.layers.0.mlp.up_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}},
}  # fmt: skip
PACKED = {"lm_head": (32, 8, "affine"), "model.layers.0.mlp.up_proj": (32, 4, "mxfp4")}


@pytest.fixture(scope="module")
def worker() -> Iterator[c.Worker]:
    worker = c.Worker()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good folder for each base."""
    found = {}
    for name, config in BASES.items():
        arrays = c.tensors(config)
        if name == "packed":
            arrays = c.packed(arrays, lambda path: PACKED.get(path, (64, 4, "affine")))
        found[name] = c.save(tmp_path_factory.mktemp(name), config, arrays)
    return found


def tried(worker: c.Worker, folder: Path) -> str:
    """What became of a folder: the class of our error, or nothing."""
    result = worker.try_out(folder)
    assert result["ours"], f"{result['kind']}: {result['text']}"
    assert "\n" not in result["text"] and len(result["text"]) < 1000
    return str(result["kind"])


def ours_or_value(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except MlxoneError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        assert error.code != "internal"
        return error


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as a path of keys."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [p for key, v in inner for p in places(v, (*path, key))]


@st.composite
def mutated(draw: st.DrawFn, base: Any, changes: st.SearchStrategy[Any] = values, most: int = 3) -> Any:
    """The base with some of its values, at any depth, replaced or taken away, or a key more."""
    value = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(1, most))):
        spots = places(value)
        if not spots or draw(st.integers(0, 9)) == 0:
            value[draw(st.text(max_size=5))] = copy.deepcopy(draw(changes))
            continue
        *way, last = draw(st.sampled_from(spots))
        holder = value
        for key in way:
            holder = holder[key]
        if draw(st.integers(0, 7)) == 0:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(draw(changes))  # it may be changed in its turn
    return value


# config.json --------------------------------------------------------------------------------


def test_the_bases_are_good(worker: c.Worker, folders: dict[str, Path]):
    for name, folder in folders.items():
        (folder / "config.json").write_text(json.dumps(BASES[name]))
        assert tried(worker, folder) == "", name


@reused
@given(st.data())
def test_fuzz_a_config_of_anything(worker: c.Worker, folders: dict[str, Path], data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(BASES)))
    config = data.draw(mutated(BASES[name]))
    (folders[name] / "config.json").write_text(json.dumps(config))
    tried(worker, folders[name])


# Each once: what all bases share, then what a base has of its own.
ONE_KEY = [
    (name, place)
    for name, base in {"plain": c.LLAMA, **BASES}.items()
    for place in places(base)
    if name == "plain" or place[0] not in c.LLAMA
]


@pytest.mark.parametrize(
    ("name", "place"), ONE_KEY, ids=lambda v: v if isinstance(v, str) else ".".join(map(str, v))
)
def test_fuzz_each_key_through_the_edges(worker: c.Worker, folders: dict[str, Path], name: str, place: Any):
    name = "llama" if name == "plain" else name
    for edge in EDGES:
        config = json.loads(json.dumps(BASES[name]))
        holder = config
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = edge
        (folders[name] / "config.json").write_text(json.dumps(config))
        tried(worker, folders[name])


@reused
@given(st.binary(max_size=200) | values.map(lambda v: json.dumps(v).encode()))
def test_fuzz_a_config_of_any_bytes(tmp_path: Path, content: bytes):
    (tmp_path / "config.json").write_bytes(content)
    assert isinstance(ours_or_value(lambda: read_json(tmp_path / "config.json")), dict | MlxoneError)


# safetensors --------------------------------------------------------------------------------

SHAPES = c.shapes(c.LLAMA)
HEADER = {"__metadata__": {"format": "mlx"}, **c.entries(SHAPES)}
header_values = values | st.sampled_from(
    [*ITEM_BYTES, "F4", "U4", [64], [96, 64], [0, 256], [256, 512], [0, 0]]
)


@st.composite
def headers(draw: st.DrawFn) -> Any:
    """Damage that leaves more of the header in order than chance would."""
    header = draw(mutated(HEADER, header_values))
    names = [n for n in header if isinstance(header[n], dict) and n != "__metadata__"]
    kind = draw(st.sampled_from(["as is", "swap", "retype", "rename", "repack"]))
    if kind == "as is" or len(names) < 2:
        return header
    one, two = draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
    if kind == "swap":
        header[one], header[two] = header[two], header[one]
    elif kind == "rename":
        header[draw(st.sampled_from(["x", two + "s", two.replace("weight", "scales"), "\ud800", "a\0b"]))] = (
            header.pop(one)
        )
    else:  # sizes stay true: only the dtype is another
        dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
        shapes = {n: SHAPES.get(n, (2,)) for n in names}
        header, start = {}, 0
        for name in names:
            kind = dtype if name == one else "F32"
            end = start + math.prod(shapes[name]) * ITEM_BYTES[kind]
            header[name] = {"dtype": kind, "shape": list(shapes[name]), "data_offsets": [start, end]}
            start = end
    return header


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("headers")
    (folder / "config.json").write_text(json.dumps(c.LLAMA))
    return folder


@reused
@given(headers(), st.sampled_from([-1, 0, 0, 0, 9]))
def test_fuzz_a_header_of_anything(worker: c.Worker, llama: Path, header: Any, surplus: int):
    c.write_safetensors(llama / "model.safetensors", header, data=max(0, c.data_bytes(HEADER) * 2 + surplus))
    tried(worker, llama)


@reused
@given(st.data())
def test_fuzz_a_packed_header_of_anything(worker: c.Worker, folders: dict[str, Path], data: st.DataObject):
    folder = folders["packed"]
    (folder / "config.json").write_text(json.dumps(BASES["packed"]))
    whole = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + length])
    try:
        names = sorted(n for n in header if n != "__metadata__")
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
            entry, (start, end) = header[name], header[name]["data_offsets"]
            entry["dtype"] = data.draw(st.sampled_from(sorted(ITEM_BYTES)))
            items = (end - start) // ITEM_BYTES[entry["dtype"]]
            rows = data.draw(st.sampled_from([1, 32, entry["shape"][0], 128]))
            entry["shape"] = data.draw(st.sampled_from([[rows, items // rows], [items], entry["shape"]]))
            size = math.prod(entry["shape"]) * ITEM_BYTES[entry["dtype"]]
            entry["data_offsets"] = [start, start + size] if size <= end - start else [start, end]
        raw = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + whole[8 + length :])
        tried(worker, folder)
    finally:
        (folder / "model.safetensors").write_bytes(whole)


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=20))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 2)) == 0 else data)


SMALL = json.dumps({"__metadata__": {"a": "b"}, **c.entries({"a": (2,), "b": (1, 2)})}).encode()


@reused
@given(damaged_bytes(struct.pack("<Q", len(SMALL)) + SMALL + bytes(16)) | st.binary(max_size=100))
def test_fuzz_a_file_of_any_bytes(tmp_path: Path, content: bytes):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    infos = ours_or_value(lambda: read_header(file))
    if isinstance(infos, dict):
        assert all(
            isinstance(i, TensorInfo) and 0 <= i.start <= i.end <= len(content) for i in infos.values()
        )


@reused
@given(st.data())
def test_fuzz_flipped_bits_in_a_whole_checkpoint(worker: c.Worker, llama: Path, data: st.DataObject):
    """Bits of the header, and cuts anywhere: what is accepted has to load and run."""
    raw = json.dumps(HEADER).encode()
    raw = data.draw(damaged_bytes(raw))
    file = c.write_safetensors(llama / "model.safetensors", raw, data=c.data_bytes(HEADER))
    if data.draw(st.booleans()):
        with file.open("r+b") as opened:
            opened.truncate(data.draw(st.integers(0, file.stat().st_size)))
    tried(worker, llama)


# The index, generation_config.json, tokenizer.json -------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = c.save(tmp_path_factory.mktemp("sharded"), c.LLAMA, c.tensors(c.LLAMA), shards=2)
    return folder, json.loads((folder / "model.safetensors.index.json").read_text())


names = st.sampled_from(
    ["..", ".", "", "/", "/dev/zero", "config.json", "x" * 300, "a\0", "model", "../x", "\udc80"]
)


@reused
@given(st.data())
def test_fuzz_an_index_of_anything(worker: c.Worker, sharded: tuple[Path, Any], data: st.DataObject):
    folder, index = sharded
    content = data.draw(mutated(index, values | names) | values)
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    tried(worker, folder)


GENERATION = {
    "eos_token_id": [0, 1], "do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1,
    "repetition_penalty": 1.1, "max_length": 100,
}  # fmt: skip


def with_tokenizer(folder: Path) -> Path:
    vocab = {letter: id for id, letter in enumerate("abcdefgh")}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    return folder


@reused
@given(mutated(GENERATION) | values)
def test_fuzz_a_generation_config_of_anything(folders: dict[str, Path], generation: Any):
    folder = with_tokenizer(folders["llama"])
    (folder / "config.json").write_text(json.dumps(BASES["llama"]))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    model = ours_or_value(lambda: load(folder))
    if not isinstance(model, MlxoneError):
        assert all(type(id) is int for id in model.eos_token_ids)
        assert 0 <= sampling_for(model, {}).temperature <= 5


@reused
@given(st.binary(max_size=300) | values.map(lambda v: json.dumps(v).encode()))
def test_fuzz_a_tokenizer_of_any_bytes(tmp_path: Path, content: bytes):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DamagedModel) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value) and "\n" not in str(caught.value)


# The worker itself ---------------------------------------------------------------------------


def test_a_death_is_noticed_and_told(folders: dict[str, Path]):
    worker = c.Worker()
    try:
        assert worker.try_out(folders["sliding"])["ours"]
        assert worker.process is not None
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(AssertionError, match="ended with -9"):
            worker.try_out(folders["sliding"])
        assert worker.try_out(folders["sliding"])["ours"], "the next one is tried in a new process"
    finally:
        worker.close()


def test_somebody_elses_exception_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for error, ours in ((RuntimeError("a"), False), (MemoryError("a"), False), (DamagedModel("a"), True)):
        monkeypatch.setattr(c, "logits", raising(error))
        assert c.tried(tmp_path) == {"ours": ours, "kind": type(error).__name__, "text": "a"}


def raising(error: Exception) -> Callable[[Path], Any]:
    def raise_it(_: Path) -> Any:
        raise error

    return raise_it


@pytest.mark.skipif(sys.platform != "linux" or not on_cpu(), reason="the limit is set there only")
def test_the_other_process_has_little_memory():
    code = "from tests.models.checkpoints import limit_memory; limit_memory(); bytearray(5 * 2**30)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=c.ROOT, capture_output=True, text=True, check=False
    )
    assert "MemoryError" in done.stderr
