"""Invariant: any bytes give a Header or one of our errors; never a crash, a hang or a big allocation."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, MlxoneError, StorageError, UnsupportedModel
from mlxone.formats import gguf as gguf_header
from mlxone.formats.gguf import Header, TensorInfo, check_header
from tests.models import gguf_files as g

METADATA: dict[str, tuple[str, Any]] = {
    "general.architecture": ("str", "llama"),
    "llama.block_count": ("u32", 2),
    "llama.rope.freq_base": ("f32", 10000.0),
    "tokenizer.ggml.add_bos_token": ("bool", False),
    "tokenizer.ggml.tokens": ("[str]", ["a", "b", "é", ""]),
    "tokenizer.ggml.token_type": ("[i32]", [1, 1, 3, 1]),
    "long": ("u64", 2**63),
}
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
TENSORS: dict[str, Any] = {
    "a.weight": ((2, 3), F32, bytes(24)),
    "b.weight": ((2, 64), Q4_1, bytes(80)),
    "c.weight": ((5,), F16, bytes(10)),
}
GOOD = g.gguf(METADATA, TENSORS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "model.gguf"


def read(place: Path, content: bytes) -> Header:
    return check_header(g.write(place, content))


def refused(place: Path, content: bytes) -> str:
    """The error's line; whatever is wrong, it names the file and is short."""
    with pytest.raises(DamagedModel) as e:
        read(place, content)
    assert str(place) in e.value.message
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < len(str(place)) + 250
    return e.value.message


@pytest.mark.parametrize("version", [2, 3])
def test_a_good_header_is_read(place: Path, version: int):
    header = read(place, g.gguf(METADATA, TENSORS, version=version))
    assert header.version == version
    assert header.values == {k: v for k, (kind, v) in METADATA.items() if not kind.startswith("[")}
    assert header.arrays == {"tokenizer.ggml.tokens": 4, "tokenizer.ggml.token_type": 4}
    assert header.tensors == (
        TensorInfo("a.weight", (2, 3), "F32", 0, 24),
        TensorInfo("b.weight", (2, 64), "Q4_1", 32, 80),
        TensorInfo("c.weight", (5,), "F16", 128, 10),
    )
    assert header.data_start % 32 == 0


def test_the_alignment_of_the_file_is_used(place: Path):
    key: dict[str, tuple[str, Any]] = {"general.alignment": ("u32", 64)}
    header = read(place, g.gguf(METADATA | key, TENSORS, alignment=64))
    assert [t.offset for t in header.tensors] == [0, 64, 192]
    assert header.data_start % 64 == 0


@pytest.mark.parametrize("kind", [k for k in g.SCALARS if k != "f64"])
def test_every_kind_of_value_is_read(place: Path, kind: str):
    header = read(
        place, g.gguf({"one": (kind, 1), "many": (f"[{kind}]", [1, 0]), "s": ("str", "x")}, TENSORS)
    )
    assert header.values == {"one": 1, "s": "x"}
    assert header.arrays == {"many": 2}


# Bytes of 2 rows of 256 weights, from the blocks' definitions.
SIZES = {
    0: ("F32", 2048),
    1: ("F16", 1024),
    2: ("Q4_0", 16 * (2 + 16)),
    3: ("Q4_1", 16 * (2 + 2 + 16)),
    8: ("Q8_0", 16 * (2 + 32)),
    12: ("Q4_K", 2 * (2 + 2 + 12 + 128)),
    14: ("Q6_K", 2 * (128 + 64 + 16 + 2)),
    30: ("BF16", 1024),
}


@pytest.mark.parametrize("kind", gguf_header.TENSOR_TYPES)
def test_every_type_we_let_by_has_its_size_and_is_read_by_mlx(place: Path, kind: int):
    name, size = SIZES[kind]
    content = g.gguf({}, {"x.weight": ((2, 256), kind, bytes(size))})
    assert read(place, content).tensors == (TensorInfo("x.weight", (2, 256), name, 0, size),)
    loaded: Any = mx.load(str(place), format="gguf")
    assert loaded["x.weight"].shape[0] == 2


# What each lie is answered with. Each would be followed by MLX's own loader.


def head(*, magic: bytes = b"GGUF", version: int = 3, tensors: int = 1, keys: int = 1) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys)


def one_tensor(
    name: str | bytes = "t", shape: Any = (4,), kind: int = F32, offset: int = 0, data: int = 64
) -> bytes:
    content = head(keys=0) + g.tensor_info(name, shape, kind, offset)
    return content + bytes(-len(content) % 32) + bytes(data)


LIES = {
    "empty": (b"", "not a GGUF"),
    "another magic": (head(magic=b"GGML") + bytes(99), "not a GGUF"),
    "version 4": (head(version=4) + bytes(99), "version 4"),
    "version 0": (head(version=0) + bytes(99), "version 0"),
    "no tensors": (g.gguf(METADATA, {}), "claims 0 tensors"),
    "absurd tensors": (head(tensors=2**62) + bytes(99), "claims 4611686018427387904 tensors"),
    "absurd keys": (head(keys=2**63) + bytes(99), "claims 9223372036854775808 metadata"),
    "absurd key length": (head() + struct.pack("<Q", 2**40) + bytes(99), "claims 1099511627776 bytes"),
    "absurd string": (
        head() + g.text("k") + struct.pack("<IQ", 8, 2**63) + bytes(99),
        "claims 9223372036854775808 bytes",
    ),
    "string past the end": (head() + g.text("k") + struct.pack("<IQ", 8, 200) + bytes(99), "ends inside 'k'"),
    "absurd array": (
        head() + g.text("k") + struct.pack("<IIQ", 9, 4, 2**61) + bytes(99),
        "more than the file",
    ),
    "array past the end": (head() + g.text("k") + struct.pack("<IIQ", 9, 4, 99) + bytes(99), "more than"),
    "absurd strings": (
        head() + g.text("k") + struct.pack("<IIQ", 9, 8, 2**61) + bytes(99),
        "more than the file",
    ),
    "unknown value type": (head() + g.text("k") + struct.pack("<I", 13) + bytes(99), "unknown type 13"),
    "unknown item type": (
        head() + g.text("k") + struct.pack("<IIQ", 9, 99, 1) + bytes(99),
        "type 99",
    ),
    "empty key": (g.gguf({"": ("u8", 1)}, TENSORS), "empty"),
    "bool of 2": (head() + g.text("k") + struct.pack("<IB", 7, 2) + bytes(99), "neither true nor false"),
    "key not UTF-8": (head() + g.text(b"\xff") + bytes(99), "not UTF-8"),
    "string not UTF-8": (g.gguf({"k": ("str", b"\xff")}, TENSORS), "not UTF-8"),
    "item not UTF-8": (g.gguf({"k": ("[str]", ["a", b"\xff"])}, TENSORS), "not UTF-8"),
    "alignment 0": (g.gguf({"general.alignment": ("u32", 0)}, TENSORS), "alignment 0"),
    "alignment 12": (g.gguf({"general.alignment": ("u32", 12)}, TENSORS), "alignment 12"),
    "alignment huge": (g.gguf({"general.alignment": ("u32", 2**31)}, TENSORS), "alignment"),
    "alignment as text": (g.gguf({"general.alignment": ("str", "32")}, TENSORS), "alignment"),
    "alignment as list": (g.gguf({"general.alignment": ("[u32]", [32])}, TENSORS), "alignment"),
    "tensor name empty": (one_tensor(""), "claims 1 dimensions"),
    "tensor name not UTF-8": (one_tensor(b"\xfe"), "not UTF-8"),
    "9 dimensions": (one_tensor(shape=(1,) * 9), "9 dimensions"),
    "a dimension of 0": (one_tensor(shape=(0, 4)), "shape (0, 4)"),
    "a dimension too large": (one_tensor(shape=(2**31,)), "shape"),
    "size that wraps at 64 bits": (one_tensor(shape=(2**31 - 1,) * 4), "after the end of the file"),
    "unknown tensor type": (one_tensor(kind=200), "unknown type 200"),
    "removed tensor type": (one_tensor(kind=4), "unknown type 4"),
    "a row that is no block": (one_tensor(shape=(33,), kind=Q8_0), "rows of 33"),
    "a scalar of blocks": (one_tensor(shape=(), kind=Q8_0), "rows of 1"),
    "offset not aligned": (one_tensor(offset=8), "at byte 8"),
    "offset past the end": (one_tensor(offset=2**40), "at byte 1099511627776"),
    "data cut short": (one_tensor(data=15), "ends 1 bytes after the end of the file"),
}


@pytest.mark.parametrize(("content", "reason"), LIES.values(), ids=LIES)
def test_a_lie_is_named(place: Path, content: bytes, reason: str):
    assert reason in refused(place, content)


def test_a_key_may_come_once(place: Path):
    twice = head(keys=2) + 2 * (g.text("k") + g.value("u8", 1)) + bytes(99)
    assert "there twice: 'k'" in refused(place, twice)


def test_a_tensor_may_come_once_and_tensors_may_not_overlap(place: Path):
    for names, reason in ((("t", "t"), "there twice"), (("t", "u"), "overlaps")):
        infos = b"".join(g.tensor_info(n, (16,), F32, 32 * i) for i, n in enumerate(names))
        assert reason in refused(place, head(tensors=2, keys=0) + infos + bytes(256))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (g.gguf({"k": ("f64", 1.0)}, TENSORS), "float64"),
        (g.gguf({"k": ("[f64]", [1.0])}, TENSORS), "float64"),
        (g.gguf({"k": ("[[u8]]", [[1]])}, TENSORS), "array of arrays"),
        (one_tensor(shape=(256,), kind=13, data=176), "Q5_K"),
        (one_tensor(shape=(32,), kind=39), "MXFP4"),
        (head(version=3 << 24) + bytes(99), "big-endian"),
        (head(version=1) + bytes(99), "version 1"),
    ],
)
def test_what_mlx_cannot_read_is_unsupported_and_not_damaged(place: Path, content: bytes, reason: str):
    with pytest.raises(UnsupportedModel, match=reason):
        read(place, content)


def test_what_is_no_file_is_an_error_and_no_wait(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nothing"):
        with pytest.raises(StorageError, match="is not a file"):
            check_header(path)


def outcome(place: Path, content: bytes) -> Header | MlxoneError:
    try:
        return read(place, content)
    except MlxoneError as e:
        return e


def test_every_truncation_is_refused(place: Path):
    end_of_last_tensor = read(place, GOOD).data_start + 128 + 10
    for length in range(end_of_last_tensor):
        assert isinstance(outcome(place, GOOD[:length]), DamagedModel), length


def test_every_flipped_bit_gives_a_header_or_an_error(place: Path):
    header_end = read(place, GOOD).data_start
    for position in range(header_end):
        damaged = bytearray(GOOD)
        damaged[position] ^= 1 << position % 8
        outcome(place, bytes(damaged))  # anything but our errors fails here


@given(st.binary(max_size=300))
def test_random_bytes(place: Path, content: bytes):
    assert isinstance(outcome(place, content), DamagedModel | UnsupportedModel)


@given(st.binary(max_size=300), st.integers(1, 9), st.integers(0, 9))
def test_random_bytes_after_a_good_start(place: Path, content: bytes, tensors: int, keys: int):
    outcome(place, head(tensors=tensors, keys=keys) + content)


@given(st.data())
def test_random_words_in_a_good_file(place: Path, data: st.DataObject):
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(GOOD) - 8))
        word = data.draw(st.sampled_from([0, 1, 8, 9, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
        damaged[at : at + 8] = struct.pack("<Q", word)
    outcome(place, bytes(damaged))


def test_memory_and_time_follow_the_file_and_not_its_claims(place: Path):
    # A hole of 8 GB: every claim below would fit into the file, so only the limits refuse it.
    claims = [
        (head(tensors=2**28, keys=0), "claims 268435456 tensors"),
        (head(keys=2**28), "claims 268435456 metadata"),
        (head() + g.text("k") + struct.pack("<IIQ", 9, 8, 2**29), "claims 536870912 strings"),
        (head() + g.text("k") + struct.pack("<IQ", 8, 2**32), "claims 4294967296 bytes"),
        (head() + g.text("k") + struct.pack("<IIQ", 9, 4, 2**30), "longer than 256 MiB"),
        (head(keys=0) + struct.pack("<Q", 2**30), "claims 1073741824 bytes"),
    ]
    tracemalloc.start()
    begin = time.monotonic()
    for content, reason in claims:
        g.write(place, content)
        os.truncate(place, 8 << 30)
        with pytest.raises(DamagedModel, match=reason):
            check_header(place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    os.truncate(place, 0)
    assert peak < 1 << 20
    assert time.monotonic() - begin < 5


# Damages good files, and gives every one that passes the check to MLX's loader.
NATIVE = """
import random, sys
from pathlib import Path
from mlxone.backend.arrays import mx
from mlxone.core.errors import MlxoneError
from mlxone.formats.gguf import check_header
good, place, passed = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), 0
chance = random.Random(7)
for _ in range(3000):
    damaged = bytearray(good)
    for _ in range(chance.choice([1, 1, 2, 5])):
        damaged[chance.randrange(24, len(good))] = chance.choice([0, 1, 2, 3, 8, 9, 12, 127, 128, 255])
    place.write_bytes(damaged[: chance.choice([len(good), len(good), chance.randrange(len(good))])])
    try:
        check_header(place)
    except MlxoneError:
        continue
    passed += 1
    try:
        arrays, _ = mx.load(str(place), format="gguf", return_metadata=True)
        mx.eval(arrays)
    except (RuntimeError, ValueError):  # two names that meet in MLX's: refused, not crashed
        pass
print(passed)
"""


def test_mlx_survives_every_damaged_file_that_passes(tmp_path: Path):
    good = g.write(tmp_path / "good.gguf", GOOD)
    command = [sys.executable, "-c", NATIVE, str(good), str(tmp_path / "bad.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 300  # damage to names, values and data passes, as it should


def test_many_strings_stop_at_the_limit(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gguf_header, "MAX_STRINGS", 5)
    keys: dict[str, tuple[str, Any]] = {"a": ("[str]", ["x"] * 3), "b": ("[str]", ["y"] * 3)}
    assert "'b' claims 3 strings" in refused(place, g.gguf(keys, TENSORS))
