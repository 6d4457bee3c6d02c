"""Headers of safetensors files: a good one is read, each damage is told by file and tensor."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import DamagedModel, StorageError, UnsupportedModel
from mlxone.formats import safetensors as module
from mlxone.formats.safetensors import TensorInfo, read_header
from tests.models.checkpoints import entries, refused, write_safetensors

GOOD = entries({"a": (2, 3), "b": (4,), "scalar": ()})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """The good header with one entry changed; a change to None takes the key away."""
    entry = {k: v for k, v in (GOOD[name] | changes).items() if v is not None}
    return GOOD | {name: entry}


def test_a_good_header_is_read(file: Path):
    infos = read_header(write_safetensors(file, GOOD | {"__metadata__": {"format": "mlx"}}))
    assert infos == {
        "a": TensorInfo("a", "F32", (2, 3), 0, 24, file),
        "b": TensorInfo("b", "F32", (4,), 24, 40, file),
        "scalar": TensorInfo("scalar", "F32", (), 40, 44, file),
    }
    assert (infos["a"].size, infos["scalar"].size) == (6, 1)


def test_what_is_odd_and_harmless_is_read(file: Path):
    header = entries({"empty": (0, 5), "a": (2,), "nothing": (0,)})
    assert len(read_header(write_safetensors(file, header))) == 3
    assert len(read_header(write_safetensors(file, header, data=100))) == 3, "bytes behind the last tensor"
    assert len(read_header(write_safetensors(file, json.dumps(header).encode() + b"   ", data=8))) == 3
    within = {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}
    assert len(read_header(write_safetensors(file, header | {"nothing": within}))) == 3
    assert read_header(write_safetensors(file, {})) == {}


# As the format defines them: bits are the number in the name.
SIZES = {8: "U8 I8 F8_E4M3 F8_E5M2 F8_E8M0", 16: "U16 I16 F16 BF16", 32: "U32 I32 F32", 64: "U64 I64 F64 C64"}


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("BOOL", 1)] + [(d, bits // 8) for bits, names in SIZES.items() for d in names.split()],
)
def test_the_size_of_each_dtype(file: Path, dtype: str, size: int):
    def entry(end: int) -> dict[str, Any]:
        return {"a": {"dtype": dtype, "shape": [3, 5], "data_offsets": [0, end]}}

    assert read_header(write_safetensors(file, entry(15 * size)))["a"].shape == (3, 5)
    for wrong in (15 * size - 1, 15 * size + 1):
        with refused(DamagedModel, "tensor 'a' does not have the size its shape says"):
            read_header(write_safetensors(file, entry(wrong)))
    assert dtype in module.ITEM_BYTES and len(module.ITEM_BYTES) == 17


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 7, struct.pack("<Q", 100) + b"{}"])
def test_a_header_that_is_cut_off(file: Path, content: bytes):
    file.write_bytes(content)
    with refused(DamagedModel, str(file), "its header is cut off", "download the model again"):
        read_header(file)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8, 2**40])
def test_an_absurd_length_is_not_read(file: Path, length: int):
    file.write_bytes(struct.pack("<Q", length) + b"{}")
    os.truncate(file, 2 * 10**8)  # a hole: the length itself may lie within the file
    with refused(DamagedModel, str(file), "its header is cut off or is no safetensors header"):
        read_header(file)


def test_every_cut_is_noticed(file: Path):
    whole = write_safetensors(file, GOOD).read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with refused(DamagedModel, str(file)):
            read_header(file)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": \xff}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (json.dumps(GOOD).encode("utf-16"), "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"3", "not a JSON object"),
    ],
)
def test_a_header_that_is_no_object(file: Path, raw: bytes, reason: str):
    with refused(DamagedModel, str(file), reason):
        read_header(write_safetensors(file, raw, data=44))


DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (GOOD | {"b": 5}, "tensor 'b' has no description"),
        (GOOD | {"b": None}, "tensor 'b' has no description"),
        (changed("b", dtype=None), "tensor 'b' has no dtype"),
        (changed("b", dtype=["F32"]), "tensor 'b' has no dtype"),
        (changed("b", dtype=DEEP), "tensor 'b' has no dtype"),
        (changed("b", shape=None), "tensor 'b' has no proper shape"),
        (changed("b", shape=4), "tensor 'b' has no proper shape"),
        (changed("b", shape=[4.0]), "tensor 'b' has no proper shape"),
        (changed("b", shape=[True]), "tensor 'b' has no proper shape"),
        (changed("b", shape=[-4]), "tensor 'b' has no proper shape"),
        (changed("b", shape=[2**48]), "tensor 'b' has no proper shape"),
        (changed("b", shape=[4] + [1] * module.MAX_RANK), "tensor 'b' has no proper shape"),
        (changed("b", data_offsets=None), "tensor 'b' has no proper shape or offsets"),
        (changed("b", data_offsets=[24]), "tensor 'b' has no proper shape or offsets"),
        (changed("b", data_offsets=[24, 40, 40]), "tensor 'b' has no proper shape or offsets"),
        (changed("b", data_offsets=[-16, 0]), "tensor 'b' has no proper shape or offsets"),
        (changed("b", data_offsets=[40, 24]), "tensor 'b' does not have the size its shape says"),
        (changed("b", shape=[5]), "tensor 'b' does not have the size its shape says"),
        (changed("b", dtype="F16"), "tensor 'b' does not have the size its shape says"),
        (changed("b", data_offsets=[20, 36]), "tensor 'b' overlaps another"),
        (changed("b", data_offsets=[0, 16]), "tensor 'a' overlaps another"),
        (changed("b", data_offsets=[44, 60]), "the file ends before tensor 'b' does"),
        (changed("b", data_offsets=[2**47, 2**47 + 16]), "the file ends before tensor 'b' does"),
    ],
)
def test_a_tensor_that_contradicts_itself_or_the_file(file: Path, header: Any, reason: str):
    with refused(DamagedModel, str(file), reason, "download the model again"):
        read_header(write_safetensors(file, header, data=44))


def test_a_shape_of_a_million_dimensions_is_not_multiplied_out(file: Path):
    with refused(DamagedModel, "tensor 'b' has no proper shape"):
        read_header(write_safetensors(file, changed("b", shape=[2**47] * 10**6), data=44))


@pytest.mark.parametrize("dtype", ["F4", "", "f32", "I128", "x\n" * 50])
def test_an_unknown_dtype_is_named(file: Path, dtype: str):
    with refused(UnsupportedModel, str(file), f"tensor 'b' has the unknown dtype {dtype[:20]!r}"):
        read_header(write_safetensors(file, changed("b", dtype=dtype)))


def test_a_name_is_shown_shortly_and_in_one_line(file: Path):
    name = "n\n\ud800" + "x" * 10**5
    with refused(DamagedModel, "tensor 'n\\n\\ud800xxx"):
        read_header(write_safetensors(file, GOOD | {name: 1}, data=44))


def test_something_else_in_the_files_place(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    with refused(DamagedModel, str(file), "is missing", "download the model again"):
        read_header(file)
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with refused(DamagedModel, str(place), "is a folder or a device"):
            read_header(place)
    write_safetensors(file, GOOD)

    def deny(self: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", deny)
    with refused(StorageError, str(file), "Permission denied"):
        read_header(file)
