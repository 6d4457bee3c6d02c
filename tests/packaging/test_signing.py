"""Which files would be signed, in which order, by which commands: no Mac is needed to know."""

from __future__ import annotations

import itertools
import plistlib
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer import macho, signing
from packer.words import BuildError

PROGRAM, LIBRARY, BUNDLE = 2, 6, 8
IDENTITY = "Developer ID Application: Somebody (TEAM123456)"
MAGICS = {("<", 32): 0xFEEDFACE, ("<", 64): 0xFEEDFACF, (">", 32): 0xFEEDFACE, (">", 64): 0xFEEDFACF}


def thin(filetype: int, order: str = "<", bits: int = 64) -> bytes:
    """The header of a Mach-O file: magic, processor, its subtype, file type, and five words more."""
    return struct.pack(f"{order}IiiI5I", MAGICS[order, bits], 0x0100000C, 0, filetype, *[0] * 5)


def fat(filetype: int, order: str = ">", bits: int = 32, count: int = 2) -> bytes:
    """Two parts at 4096 and after; the first decides what the file is."""
    magic, part = (0xCAFEBABE, "iiIII") if bits == 32 else (0xCAFEBABF, "iiQQII")
    fields = [0x0100000C, 0, 4096, 32, 14, 0][: len(part)]
    head = struct.pack(f"{order}II", magic, count) + struct.pack(order + part, *fields) * 2
    return head.ljust(4096, b"\0") + thin(filetype)


def plant(tree: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    return tree


KINDS = {
    **{f"thin {o}{b}": (thin, o, b) for o, b in itertools.product("<>", (32, 64))},
    **{f"fat {o}{b}": (fat, o, b) for o, b in itertools.product("<>", (32, 64))},
}


@pytest.mark.parametrize(("make", "order", "bits"), KINDS.values(), ids=KINDS)
def test_every_kind_of_mach_o_is_known(tmp_path: Path, make, order: str, bits: int):
    for filetype, kind in ((PROGRAM, "program"), (LIBRARY, "library"), (BUNDLE, "library")):
        assert macho.kind(plant(tmp_path, {"x": make(filetype, order, bits)}) / "x") == kind


# A Java class begins like a fat file; what follows there is its version.
STRANGERS = {
    "empty": b"",
    "short": thin(PROGRAM)[:15],
    "text": b"/usr/lib/libSystem.B.dylib\n",
    "python's cache": b"\xa7\r\r\n" + bytes(12),
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(60),
    "java": b"\xca\xfe\xba\xbe\x00\x00\x00\x34" + bytes(60),
    "a fat file without parts": fat(LIBRARY, count=0),
    "a fat file cut short": fat(LIBRARY)[:20],
    "a fat file of something else": fat(LIBRARY)[:4096] + b"!<arch>\n" * 8,
}


@pytest.mark.parametrize("content", STRANGERS.values(), ids=STRANGERS)
def test_what_is_no_mach_o_is_not_taken_for_one(tmp_path: Path, content: bytes):
    assert macho.kind(plant(tmp_path, {"libx.dylib": content}) / "libx.dylib") is None


@given(st.binary(max_size=80), st.sampled_from([*macho.THIN, *macho.FAT, b""]))
def test_any_bytes_give_an_answer(tmp_path_factory: pytest.TempPathFactory, rest: bytes, magic: bytes):
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(magic + rest)
    assert macho.kind(file) in ("program", "library", None)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = plant(
        tmp_path / "tree-full",
        {
            "mlxone": thin(PROGRAM),
            "tool": thin(PROGRAM),
            "licenses.txt": b"text",
            "manifest.json": b"{}",
            "_internal/libmlx.dylib": thin(LIBRARY),
            "_internal/mlx/core.cpython-311-darwin.so": thin(BUNDLE),
            "_internal/mlx/lib/mlx.metallib": b"MTLB" + bytes(60),
            "_internal/mlx/lib/helper": thin(PROGRAM),
            "_internal/Python.framework/Versions/3.11/Python": fat(LIBRARY),
            "_internal/mlxone/build.json": b"{}",
            "_internal/mlxone/cli/__pycache__/main.cpython-311.pyc": b"\xa7\r\r\n" + bytes(60),
            "_internal/notes.dylib": b"a text by that name",
            "_internal/a b/ü.so": thin(BUNDLE),
        },
    )
    (tree / "_internal/Python").symlink_to("Python.framework/Versions/3.11/Python")
    (tree / "_internal/Python.framework/Versions/Current").symlink_to("3.11")
    (tree / "_internal/gone.dylib").symlink_to("nowhere")
    return tree


def test_the_order_is_from_the_inside_out(tree: Path):
    assert [file.relative_to(tree).as_posix() for file in signing.in_order(tree)] == [
        "_internal/Python.framework/Versions/3.11/Python",
        "_internal/a b/ü.so",
        "_internal/mlx/core.cpython-311-darwin.so",
        "_internal/libmlx.dylib",
        "_internal/mlx/lib/helper",
        "tool",
        "mlxone",
    ]


def test_every_file_is_signed_once_hardened_and_stamped(tree: Path):
    commands = signing.sign_commands(tree, IDENTITY)
    assert [command[-1] for command in commands] == [str(f) for f in signing.in_order(tree)]
    for command in commands:
        assert command[:4] == ["codesign", "--force", "--sign", IDENTITY]
        assert command[4:7] == ["--options", "runtime", "--timestamp"]
        # Only a process has entitlements.
        assert ("--entitlements" in command) == (Path(command[-1]).name in ("mlxone", "helper", "tool"))


def test_ad_hoc_is_neither_hardened_nor_stamped(tree: Path):
    assert all({"--options", "--timestamp"}.isdisjoint(c) for c in signing.sign_commands(tree, "-"))


def test_sign_tree_signs_then_verifies_and_says_what(tree: Path):
    ran: list[list[str]] = []
    files = signing.sign_tree(tree, IDENTITY, ran.append)
    assert files == signing.in_order(tree)
    assert ran == signing.sign_commands(tree, IDENTITY) + signing.check_commands(tree)
    assert all(c[:3] == ["codesign", "--verify", "--strict"] for c in ran[len(files) :])


def test_the_outer_file_is_signed_alone(tree: Path):
    ran: list[list[str]] = []
    signing.sign_file(tree / "mlxone", IDENTITY, ran.append)
    assert [command[1] for command in ran] == ["--force", "--verify"]


def test_gatekeeper_is_asked_about_the_outer_file_only(tree: Path):
    outer = signing.check_commands(tree / "mlxone", notarized=True)
    assert [c[0] for c in outer] == ["codesign", "codesign", "spctl"]
    assert outer[-1][1:4] == ["--assess", "--type", "install"]  # `execute` rejects every bare program
    assert {c[0] for c in signing.check_commands(tree, notarized=True)} == {"codesign"}


def test_what_cannot_be_signed_is_said(tmp_path: Path):
    plant(tmp_path / "tree", {"mlxone": b"\x7fELF" + bytes(60)})
    with pytest.raises(BuildError, match="nothing to sign"):
        signing.sign_tree(tmp_path / "tree", IDENTITY, lambda command: None)
    with pytest.raises(BuildError, match="no Mach-O program"):
        signing.sign_file(tmp_path / "tree" / "mlxone", IDENTITY, lambda command: None)


def test_without_the_tools_nothing_is_begun(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match=r"no codesign here \(signing needs macOS"):
        signing.sign_tree(tree, IDENTITY)


def test_a_command_that_fails_stops_it(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = tmp_path / "log"
    (tmp_path / "codesign").write_text(f'#!/bin/sh\necho x >>"{log}"\nexit 3\n')
    (tmp_path / "codesign").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="codesign ended with 3"):
        signing.sign_tree(tree, IDENTITY)
    assert log.read_text() == "x\n"


def test_the_dry_run_prints_every_command_and_runs_none(tree: Path):
    words = [sys.executable, "-m", "packer.signing", "--dry-run", str(tree), str(tree / "mlxone")]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": ""},
        cwd=signing.ENTITLEMENTS.parents[2],
    )
    printed = [shlex.split(line) for line in done.stdout.splitlines()]
    assert printed == [
        *signing.sign_commands(tree, "IDENTITY"),
        *signing.check_commands(tree, notarized=True),
        *signing.sign_commands(tree / "mlxone", "IDENTITY"),
        *signing.check_commands(tree / "mlxone", notarized=True),
    ]


def test_a_path_that_is_not_there(tmp_path: Path):
    with pytest.raises(BuildError, match="is not there"):
        signing.main(["--check", str(tmp_path / "tree")])


def test_there_are_no_entitlements():
    text = signing.ENTITLEMENTS.read_text(encoding="ascii")
    assert plistlib.loads(text.encode()) == {}
    # The parser that the kernel brings along stumbles over comments.
    assert "<!--" not in text and "\r" not in text


def test_the_page_says_why_each_usual_one_is_not_there():
    page = (signing.ENTITLEMENTS.parents[1] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(com\.apple\.security\.cs\.[a-z-]+)` \| (.+) \|$", page, re.M)
    assert {name.rsplit(".", 1)[1] for name, _ in rows} == {
        "allow-jit",
        "allow-unsigned-executable-memory",
        "allow-dyld-environment-variables",
        "disable-library-validation",
        "disable-executable-page-protection",
    }
    assert all(len(reason) > 30 for _, reason in rows)


def test_the_road_for_a_mac_signs_before_it_packs_and_checks_after_the_notary():
    script = (signing.ENTITLEMENTS.parent / "sign.sh").read_text(encoding="utf-8")
    steps = [
        "build.py all --level 19 --sign",
        "notary submit",
        "--check build/tree-slim",
        "--check --notarized dist/mlxone",
    ]
    found = [script.index(step) for step in steps]
    assert found == sorted(found)
    assert "stapler" not in script  # a bare executable holds no ticket
