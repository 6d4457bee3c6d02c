"""Damage to what was unpacked, and to the file itself: found, repaired or told."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.binary.launcher.tiny import (
    ECHO,
    Home,
    Said,
    Tiny,
    contents,
    ended,
    flip,
    names,
    running,
    works,
)


def flip_and_hide(file: Path) -> None:
    """The time is set back; when it was set no program can set."""
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def replace(file: Path) -> None:
    shutil.copy2(file, other := file.with_name("other"))
    other.replace(file)


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def move_a_file(folder: Path) -> None:
    (folder / "1.bin").rename(folder.parent / "1.bin")


def close_to_others(file: Path) -> None:
    file.chmod(0o600)


def no_stamp_and_closed(top: Path) -> None:
    (top / "stamp").unlink()
    top.chmod(0)


def instead_of_stamp(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(top: Path) -> None:
        (top / "stamp").rename(top.parent / "aside")
        make(top / "stamp")

    return damage


def all_gone_but_the_stamp(top: Path) -> None:
    shutil.rmtree(top / "_internal")
    (top / "mlxone").unlink()


def a_file_in_its_place(top: Path) -> None:
    shutil.rmtree(top)
    top.touch()


def a_link_in_its_place(top: Path) -> None:
    top.rename(top.parents[1] / "moved")
    top.symlink_to("../moved")


def on(name: str, damage: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda top: damage(top / name)


FILE_DAMAGES: list[Callable[[Path], object]] = [
    flip,
    flip_and_hide,
    truncate,
    replace,
    Path.unlink,
    close_to_others,
]
DAMAGES: dict[str, Callable[[Path], object]] = {
    **{
        f"{damage.__name__} {name}": on(name, damage)
        for damage in FILE_DAMAGES
        for name in ("mlxone", "_internal/deep/er/1.bin", "manifest.json")
    },
    "a file more at the top": on("more", Path.touch),
    "a file more": on("_internal/more.py", Path.touch),
    "a file more below": on("_internal/deep/er/more.py", Path.touch),
    "a file moved": on("_internal/deep/er", move_a_file),
    "a link that is gone": lambda top: (top / "_internal/lïnk").unlink(),
    "a folder that is gone": on("_internal/deep", remove_folder),
    "a folder that is closed": lambda top: (top / "_internal/deep").chmod(0),
    "all gone but the stamp": all_gone_but_the_stamp,
    "no stamp": lambda top: (top / "stamp").unlink(),
    "no stamp and closed": no_stamp_and_closed,
    "a stamp that is a folder": instead_of_stamp(Path.mkdir),
    "a stamp that is a pipe": instead_of_stamp(os.mkfifo),
    "a stamp that is a link": instead_of_stamp(lambda stamp: stamp.symlink_to("../aside")),
    "a file in its place": a_file_in_its_place,
    "a link in its place": a_link_in_its_place,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_repaired(home: Home, tiny: Tiny, damage: Callable[[Path], object]):
    works(home, tiny)
    top = home.runtimes / tiny.name
    before = contents(top)
    damage(top)
    beside = ["aside"] if (home.runtimes / "aside").exists() else []
    works(home, tiny, *beside)
    assert contents(top) == before
    settled = top.stat()
    works(home, tiny, *beside)
    assert top.stat() == settled


def test_no_stamp_is_believed_but_a_whole_one(home: Home, tiny: Tiny):
    works(home, tiny)
    stamp, chance = home.runtimes / tiny.name / "stamp", random.Random(5)

    def is_believed(content: bytes) -> bool:
        before = stamp.parent.stat().st_ino
        stamp.write_bytes(content)
        works(home, tiny)
        return stamp.parent.stat().st_ino == before and stamp.read_bytes() == content

    whole = stamp.read_bytes()
    assert is_believed(whole)
    lines = whole.splitlines(keepends=True)
    cuts = {0, 1, len(whole) - 1, *chance.sample(range(len(whole)), 20)}
    cuts |= {len(b"".join(lines[:count])) for count in range(len(lines))}
    for cut in sorted(cuts):
        assert not is_believed(stamp.read_bytes()[:cut])
    for change in (
        lambda now: now + b"x",
        lambda now: now + b"\n",
        lambda now: now + now,
        lambda now: now[:-10] + bytes(10),
        lambda now: bytes(len(now)),
        lambda now: b"".join(now.splitlines(keepends=True)[1:]),
        lambda now: b"".join(line for i, line in enumerate(now.splitlines(keepends=True)) if i != 3),
        lambda now: b"".join(line * (1 + (i == 3)) for i, line in enumerate(now.splitlines(keepends=True))),
        lambda now: now.replace(b"origin ", b"Origin "),
        lambda now: b"\xff" * 100_000,
    ):
        assert not is_believed(change(stamp.read_bytes()))


def test_a_damaged_runtime_in_use_is_set_aside_and_removed_later(home: Home, tiny: Tiny):
    child = running(home, tiny)
    flip(home.runtimes / tiny.name / "_internal" / "0.bin")
    assert home.run(tiny, *ECHO, "hello") == Said(0, "hello\n", "")
    [aside] = set(names(home.runtimes)) - {tiny.name}
    assert contents(home.runtimes / aside).keys() == contents(home.runtimes / tiny.name).keys()
    works(home, tiny, aside)
    ended(child)
    flip(home.runtimes / tiny.name / "_internal" / "0.bin")
    works(home, tiny)


def test_a_disk_that_makes_up_its_inodes_and_sizes_of_folders_is_no_damage(home: Home, strange: Tiny):
    home.env["DISK"] = "remote"
    works(home, strange)
    settled = (home.runtimes / strange.name).stat()
    works(home, strange)
    assert (home.runtimes / strange.name).stat() == settled


def test_a_broken_disk_is_no_damage_to_the_executable(home: Home, strange: Tiny):
    home.env["DISK"] = "worn out"
    said = home.run(strange, *ECHO)
    assert said.code == 9 and "download it again" not in said.err
    assert f"no place to unpack into: neither {home.place} (Bad message)" in said.err


@pytest.mark.parametrize("part", range(12))
def test_a_damaged_executable_says_so_and_leaves_nothing(home: Home, tiny: Tiny, part: int):
    content = bytearray(tiny.file.read_bytes())
    start = content.find(tiny.payload)
    assert start > 0
    content[start + 20 + (len(tiny.payload) - 21) * part // 11] ^= 0x10
    damaged = tiny.copied(home.root / "damaged")
    damaged.file.write_bytes(content)
    assert home.run(damaged) == Said(9, "", f"mlxone: {damaged.file} is damaged: download it again\n")
    assert names(home.runtimes) == []


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="macOS does not start what was cut")
@pytest.mark.parametrize("lost", [1, 1000, -100], ids=["a byte", "some", "nearly all of the payload"])
def test_a_download_cut_short_says_so(home: Home, tiny: Tiny, lost: int):
    content = tiny.file.read_bytes()
    start = content.find(tiny.payload)
    assert len(tiny.payload) > 50_000  # pages that are not there any more
    cut = tiny.copied(home.root / "cut")
    os.truncate(cut.file, start - lost if lost < 0 else start + len(tiny.payload) - lost)
    assert home.run(cut) == Said(9, "", f"mlxone: {cut.file} is damaged: download it again\n")
    assert names(home.runtimes) == []
