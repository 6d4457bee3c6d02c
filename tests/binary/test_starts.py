"""First starts of the real file that go wrong: many at once, killed half-way, damaged, on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.binary.empty_root import HOME, EmptyRoot, Said
from tests.binary.shipped import Owner, Shipped, ended, folders

# Bytes of the program's own code, of a library and of data: what a start reads, and what it does not.
VICTIMS = ("mlxone", r"_internal/.*libmlx\.(so|dylib)", r"_internal/base_library\.zip", "licenses.txt")


def works(owner: Owner, shipped: Shipped) -> None:
    """It starts, says nothing else, and nothing of whatever happened before is left."""
    assert owner.run(shipped.file, "--version") == Said(0, shipped.version_line, "")
    assert folders(owner.runtimes) == [shipped.runtime_name]
    assert list((owner.home / "tmp").iterdir()) == []


def test_20_first_starts_at_once(owner: Owner, full: Shipped):
    asked = ["run", "--temperature", "0", "--max-tokens", "8", "Name the capital of France."]
    versions = [owner.start(full.file, "--version") for _ in range(17)]
    answers = [owner.start(full.file, *asked) for _ in range(3)]
    assert [ended(child) for child in versions] == [Said(0, full.version_line, "")] * 17
    said = [ended(child) for child in answers]
    assert [(one.code, one.err) for one in said] == [(0, "")] * 3
    assert len({one.out for one in said}) == 1 and "Paris" in said[0].out
    works(owner, full)


def test_killed_at_20_moments_of_unpacking(owner: Owner, full: Shipped):
    """A moment is a share of the bytes being there. A machine may be so busy that this process looks too
    late: that start was whole, which is no failure, and the first moment is tried again until one was not."""
    sizes = {name: entry["size"] for name, entry in full.manifest["files"].items() if "size" in entry}
    parts = [part / 20 for part in range(20)]
    unfinished = [killed_at(owner, full, part * sum(sizes.values())) for part in parts]
    while not any(unfinished):
        assert len(unfinished) < 60, "it was killed too late each time"
        unfinished.append(killed_at(owner, full, 0))


def killed_at(owner: Owner, shipped: Shipped, wanted: float) -> bool:
    """Kills a first start as soon as so many bytes are unpacked; whether that was before the end."""
    child = owner.start(shipped.file, "--version")
    while child.poll() is None and not is_unpacked(owner.runtimes, wanted):
        time.sleep(0.0005)
    child.kill()
    said, runtime = ended(child), owner.runtimes / shipped.runtime_name
    finished = runtime.name in folders(owner.runtimes)
    assert said.code == -signal.SIGKILL or (said.code, finished) == (0, True), said
    if finished:  # under that name it is never half there
        assert [
            name for name in (*shipped.manifest["files"], "stamp") if not os.path.lexists(runtime / name)
        ] == []
    works(owner, shipped)
    shutil.rmtree(runtime)
    return not finished


def is_unpacked(runtimes: Path, wanted: float) -> bool:
    """Whether there is a folder that is being filled, with at least so many bytes in it."""
    for folder in runtimes.glob(".unpack-*"):
        with contextlib.suppress(FileNotFoundError):  # filled, and renamed meanwhile
            return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) >= wanted
    return False


# Damage ----------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    """One byte in the middle is another; its size stays."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 0xFF]))


def flip_in_secret(file: Path) -> None:
    """With the time it had, as a copying tool or a rootkit would leave it. Its ctime no program can set."""
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    content, mode = file.read_bytes(), file.stat().st_mode
    file.unlink()
    file.write_bytes(content)
    file.chmod(mode)


@pytest.mark.parametrize("harm", [flip, flip_in_secret, Path.unlink, replace])
def test_whatever_is_done_to_a_file_is_repaired_at_the_next_start(
    owner: Owner, slim: Shipped, harm: Callable[[Path], None]
):
    works(owner, slim)
    runtime = owner.runtimes / slim.runtime_name
    names = sorted(name for name, entry in slim.manifest["files"].items() if "sha256" in entry)
    for pattern in VICTIMS:
        name = next(name for name in names if re.fullmatch(pattern, name))
        good = (runtime / name).read_bytes()
        harm(runtime / name)
        works(owner, slim)
        assert (runtime / name).read_bytes() == good


def test_a_file_that_is_too_much_and_a_folder_that_is_gone(owner: Owner, slim: Shipped):
    works(owner, slim)
    runtime = owner.runtimes / slim.runtime_name
    (runtime / "_internal").rename(runtime / "elsewhere")
    works(owner, slim)
    assert not (runtime / "elsewhere").exists() and (runtime / "_internal").is_dir()


def test_doctor_finds_what_the_quick_look_cannot(owner: Owner, full: Shipped):
    """Damage below the file system: same size, same times, as a stamp that agrees with it plays here."""
    works(owner, full)
    runtime = owner.runtimes / full.runtime_name
    victim = runtime / "licenses.txt"
    good = victim.read_bytes()
    flip(victim)
    forge_stamp(runtime, "licenses.txt")
    works(owner, full)
    assert victim.read_bytes() != good, "the stamp was not forged: this proves nothing"
    said = owner.run(full.file, "doctor", "--offline")
    assert said.code == 1 and "damaged" in said.out and "licenses.txt" in said.out, said
    works(owner, full)
    assert victim.read_bytes() == good
    assert "damaged" not in owner.run(full.file, "doctor", "--offline").out


def forge_stamp(runtime: Path, name: str) -> None:
    """Writes the times that a file has now into the stamp."""
    stamp, now = runtime / "stamp", (runtime / name).stat()
    times = [f"{ns // 10**9}.{ns % 10**9:09}" for ns in (now.st_mtime_ns, now.st_ctime_ns)]
    lines = stamp.read_text().splitlines(keepends=True)
    [at] = [at for at, line in enumerate(lines) if line.endswith(f" {name}\n")]
    lines[at] = " ".join([lines[at].split(" ")[0], *times, f"{name}\n"])
    stamp.write_text("".join(lines))  # in place: a new file would change the time of its folder


# Disks -----------------------------------------------------------------------------------------------

# No room for it, as can be known beforehand; and one that runs out of files in the middle of the work.
TINY, FEW = "size=8m", "size=1g,nr_inodes=40"


@pytest.mark.parametrize("disk", [TINY, FEW])
def test_a_full_disk_is_one_line(empty_root: EmptyRoot, slim: Shipped, tmp_path: Path, disk: str):
    """Neither the home nor the temporary folder has room, and nothing is left on either."""
    program = empty_root.give(slim.file, "/opt/mlxone")
    listing = tmp_path / "left"
    said = empty_root.run(program, "--version", tmpfs={HOME: disk, "/tmp": disk}, listing=listing)
    assert (said.code, said.out) == (9, "")
    [line] = said.err.splitlines()
    assert line.startswith("mlxone: ") and "No space left" in line
    allowed = [".cache", ".cache/mlxone", ".cache/mlxone/runtime", ".cache/mlxone/runtime/.lock"]
    homes = {f"{HOME[1:]}/{name}" for name in allowed}
    others = {f"tmp/mlxone-1000{name}" for name in ("", "/runtime", "/runtime/.lock")}
    assert set(json.loads(listing.read_text())) <= homes | others


@pytest.mark.parametrize("disk", [TINY, FEW])
def test_a_full_home_leads_to_the_temporary_folder(empty_root: EmptyRoot, slim: Shipped, disk: str):
    program = empty_root.give(slim.file, "/opt/mlxone")
    said = empty_root.run(program, "--version", tmpfs={HOME: disk})
    assert (said.code, said.out) == (0, slim.version_line)
    [line] = said.err.splitlines()
    assert line.startswith("mlxone: ") and HOME in line and "/tmp/mlxone-1000" in line
    assert folders(empty_root.at("/tmp/mlxone-1000/runtime")) == [slim.runtime_name]
