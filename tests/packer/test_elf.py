from __future__ import annotations

import os
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
