"""What proves that mlxone unpacked a folder: never its name alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mlxone.hub import runtimes
from packer.payload import Manifest
from tests.hub.unpacked import NAME, ZIPAPP, folder, unpacked


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def gone(plan: runtimes.Plan) -> set[str]:
    return {runtime.path.name for runtime in plan.runtimes}


def staying(plan: runtimes.Plan) -> dict[str, str]:
    return {one.path.name: one.why for one in plan.staying}


@pytest.mark.parametrize("name", [".unpack-12-ab", ".old-12-0", ".old-12-9f3c00ab"])
def test_leftovers_and_the_lock_go_as_well(name: str):
    unpacked(name)
    (folder() / ".lock").touch()
    [leftover] = runtimes.plan().runtimes
    assert leftover.leftover
    runtimes.remove(runtimes.plan())
    assert not folder().exists()


def test_a_leftover_need_not_have_its_stamp_yet_nor_anything_at_all():
    for name in (".unpack-12-ab", ".old-12-0"):
        (unpacked(name) / "stamp").unlink()
    (folder() / ".unpack-13-ab").mkdir()
    runtimes.remove(runtimes.plan())
    assert not folder().exists()


MADE = Manifest("1.2.3", "full", {"mlxone": {"sha256": "ab", "size": 1, "mode": "0755"}}).text


def test_a_runtime_without_a_stamp_is_known_by_its_manifest():
    (unpacked() / "stamp").rename(folder() / NAME / "manifest.json")
    (folder() / NAME / "manifest.json").write_bytes(MADE)
    [runtime] = runtimes.plan().runtimes
    assert runtime.origin == ""
    runtimes.remove(runtimes.plan())
    assert not folder().exists()


def test_a_stamp_without_an_origin_is_one_too():
    """The launcher leaves out a path that would break the line."""
    (unpacked() / "stamp").write_text("origin \nend 0\n")
    [runtime] = runtimes.plan().runtimes
    assert runtime.origin == ""


def other(**changes: object) -> bytes:
    return json.dumps({**json.loads(MADE), **changes}).encode()


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        (NAME, "", b""),
        (NAME, "stamp", b"a stamp of my collection\n"),
        (NAME, "stamp", b"\norigin /opt/mlxone\n"),
        (f"1.2.3-{ZIPAPP}", "manifest.json", MADE),
        ("my-0123456789abcdef", "manifest.json", MADE),
        *(
            (NAME, "manifest.json", content)
            for content in (
                b"",
                b"[]",
                b"\xff",
                b"{}",
                b"[" * 100_000,
                other(kind="photos"),
                other(kind=[]),
                other(files=[]),
                other(version=1),
                other(more=1),
            )
        ),
    ],
    ids=lambda value: ascii(value)[:32],
)
def test_a_runtimes_name_alone_is_no_proof(name: str, file: str, content: bytes):
    kept = unpacked(name)
    (kept / "stamp").unlink()
    if file:
        (kept / file).write_bytes(content)
    plan = runtimes.plan()
    assert (gone(plan), staying(plan)) == (set(), {name: runtimes.UNPROVEN})
    runtimes.remove(plan)
    assert (kept / "_internal" / "library.so").is_file()


@pytest.mark.parametrize("name", [".unpack-12-ab", ".old-2019-12"])
def test_nor_is_a_leftovers_with_other_things_in_it(name: str):
    kept = unpacked(name) / "beach.jpg"
    kept.with_name("stamp").rename(kept)
    plan = runtimes.plan()
    assert (gone(plan), staying(plan)) == (set(), {name: runtimes.UNPROVEN})
    runtimes.remove(plan)
    assert kept.is_file()


def test_a_pipe_as_stamp_proves_nothing_and_is_not_waited_for():
    kept = unpacked()
    (kept / "stamp").unlink()
    os.mkfifo(kept / "stamp")
    assert staying(runtimes.plan()) == {NAME: runtimes.UNPROVEN}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "notes",
            "1.2.3-0123",
            "x-0123456789abcdeg",
            "x-0123456789ABCDEF",
            ".hidden-0123456789abcdef",
            "a_b",
        ),
        *(".old-photos", ".old-12", ".old-12-xyz", ".unpack-me", ".unpack-12", ZIPAPP + ".tmp"),
    ],
)
def test_what_is_called_otherwise_stays(name: str):
    kept, _ = unpacked(name), unpacked()
    plan = runtimes.plan()
    assert (gone(plan), staying(plan)) == ({NAME}, {name: "not made by mlxone"})
    runtimes.remove(plan)
    assert {path.name for path in folder().iterdir()} == {name, ".lock"}
    assert (kept / "_internal" / "library.so").is_file()


def test_so_does_a_file_with_a_runtimes_name():
    folder().mkdir(parents=True)
    (folder() / NAME).touch()
    assert staying(runtimes.plan()) == {NAME: "not made by mlxone"}


def test_a_link_as_stamp_tells_nothing(tmp_path: Path):
    stamp = unpacked() / "stamp"
    stamp.rename(tmp_path / "stamp")
    stamp.symlink_to(tmp_path / "stamp")
    assert staying(runtimes.plan()) == {NAME: runtimes.UNPROVEN}
