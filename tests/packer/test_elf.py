from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer import elf

NUMBERS = st.tuples(st.integers(0, 3), st.integers(0, 99))


def written(path: Path, *names: str, magic: bytes = b"\x7fELF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(magic + b"\2\1\1" + b"".join(b"\0" + name.encode() for name in names) + b"\0tail")
    return path


@given(st.lists(NUMBERS, min_size=1))
def test_the_newest_name_counts(tmp_path_factory, versions):
    names = [f"GLIBC_{major}.{minor}" for major, minor in versions]
    assert elf.asked(written(tmp_path_factory.getbasetemp() / "file", *names)) == max(versions)


@pytest.mark.parametrize(
    ("names", "version"),
    [
        (["GLIBC_2.2.5", "GLIBC_2.4"], (2, 4)),
        (["GLIBC_2.17", "GLIBC_ABI_DT_RELR"], (2, 36)),
        (["GLIBC_2.39", "GLIBC_ABI_DT_RELR"], (2, 39)),
        (["GLIBCXX_3.4.30", "GLIBC_PRIVATE", "MY_GLIBC_9.9", "GLIBC_9.9 or so"], None),
        ([], None),
    ],
)
def test_other_names_do_not(tmp_path, names, version):
    assert elf.asked(written(tmp_path / "file", *names)) == version


def test_what_is_no_elf_file_asks_for_nothing(tmp_path):
    assert elf.asked(written(tmp_path / "text", "GLIBC_2.38", magic=b"#!/b")) is None
    (tmp_path / "empty").touch()
    assert elf.asked(tmp_path / "empty") is None


def test_the_tree_needs_what_its_neediest_file_does(tmp_path):
    written(tmp_path / "a" / "libone.so", "GLIBC_2.17")
    written(tmp_path / "b" / "libtwo.so.3", "GLIBC_2.38", "GLIBC_2.2.5")
    written(tmp_path / "c" / "three", "GLIBC_2.38")
    outside = written(tmp_path.parent / "outside.so", "GLIBC_2.99")
    (tmp_path / "link.so").symlink_to(outside)
    found = elf.needed(tmp_path)
    assert found and (str(found), found.file) == ("2.38", "b/libtwo.so.3")


def test_a_tree_without_elf_files_needs_none(tmp_path):
    written(tmp_path / "program", magic=b"\xcf\xfa\xed\xfe")
    assert elf.needed(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_this_python_asks_for_no_more_than_there_is():
    there = tuple(int(part) for part in os.confstr("CS_GNU_LIBC_VERSION").split()[1].split(".")[:2])
    asked = elf.asked(Path(sys.executable).resolve())
    assert asked and (2, 2) <= asked <= there


# Where a file looks for libraries ------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="ELF files are made here by cc")
@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
def test_a_builders_folder_is_searched_no_more(tmp_path, tags):
    builders = tmp_path / "builder"
    builders.mkdir()
    (tmp_path / "inner.c").write_text("int inner(void) { return 42; }")
    (tmp_path / "outer.c").write_text("int inner(void); int outer(void) { return inner(); }")

    def compiled(output: Path, source: str, *words: str) -> None:
        command = ["cc", "-shared", "-fPIC", "-o", str(output), str(tmp_path / source), *words]
        subprocess.run(command, check=True)

    compiled(builders / "libinner.so", "inner.c")
    outer = tmp_path / "libouter.so"
    compiled(outer, "outer.c", f"-L{builders}", "-linner", f"-Wl,-rpath,{builders},{tags}")

    def loaded(**variables: str) -> subprocess.CompletedProcess[str]:
        code = f"import ctypes; print(ctypes.CDLL({str(outer)!r}).outer())"
        environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"} | variables
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    assert loaded().stdout == "42\n"
    size = outer.stat().st_size
    elf.drop_search_path(outer)
    assert "libinner.so: cannot open" in loaded().stderr and outer.stat().st_size == size
    assert loaded(LD_LIBRARY_PATH=str(builders)).stdout == "42\n"
    once = outer.read_bytes()
    elf.drop_search_path(outer)
    assert outer.read_bytes() == once


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_entries_go_and_the_rest_moves_up(tmp_path, wide, order):
    word, pair = ("Q", "qQ") if wide else ("I", "iI")
    header, program = bytearray(64), bytearray(56 if wide else 32)
    header[:6] = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2])
    struct.pack_into(order + word, header, 32 if wide else 28, 64)
    struct.pack_into(order + "HH", header, 54 if wide else 42, len(program), 1)
    before = [(1, 7), (29, 1), (5, 8), (15, 2), (0, 0)]
    table = b"".join(struct.pack(order + pair, *entry) for entry in before)
    struct.pack_into(order + "I", program, 0, 2)
    struct.pack_into(order + word, program, 8 if wide else 4, 64 + len(program))
    struct.pack_into(order + word, program, 32 if wide else 16, len(table))
    file = tmp_path / "library.so"
    file.write_bytes(bytes(header + program) + table + b"tail")
    elf.drop_search_path(file)
    after = [(1, 7), (5, 8), (0, 0), (0, 0), (0, 0)]
    table = b"".join(struct.pack(order + pair, *entry) for entry in after)
    assert file.read_bytes() == bytes(header + program) + table + b"tail"


def test_what_is_no_elf_file_stays_as_it_is(tmp_path):
    script = tmp_path / "libc.so"
    script.write_text("GROUP ( /lib/libc.so.6 )")
    elf.drop_search_path(script)
    assert script.read_text() == "GROUP ( /lib/libc.so.6 )"
