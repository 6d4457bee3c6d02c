"""What bears the runtime's name and does not match its stamp: it goes no sooner than it must."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.binary.launcher.tiny import (
    ECHO,
    Home,
    Said,
    Tiny,
    contents,
    ended,
    names,
    running,
    with_mounts,
    works,
)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="of Linux's disks")
HELLO = Said(0, "hello\n", "")


def touch_all(runtime: Path) -> None:
    """As `chmod -R` or a restored backup does: nothing in it is any worse."""
    for path in (runtime, *runtime.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode)


def changed(home: Home, tiny: Tiny) -> Path:
    works(home, tiny)
    touch_all(runtime := home.runtimes / tiny.name)
    return runtime


@pytest.mark.parametrize("used", [False, True], ids=["not in use", "in use"])
def test_it_stays_if_its_replacement_cannot_be_written(home: Home, tiny: Tiny, used: bool):
    runtime = changed(home, tiny)
    child = running(home, tiny) if used else None
    touch_all(runtime)
    before = (runtime.stat().st_ino, contents(runtime))
    said = home.run(["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", tiny.file], *ECHO)
    assert said.code == 9 and "File too large" in said.err
    assert names(home.runtimes) == [tiny.name]
    assert (runtime.stat().st_ino, contents(runtime)) == before
    if child:
        ended(child)


def test_it_comes_back_if_the_name_cannot_be_taken(home: Home, strange: Tiny):
    runtime = changed(home, strange)
    before = (runtime.stat().st_ino, contents(runtime))
    home.env["DISK"] = "stubborn"
    said = home.run(strange, *ECHO)
    assert said.code == 9 and "runtime" not in said.err and "(Input/output error)" in said.err
    assert (runtime.stat().st_ino, contents(runtime)) == before
    assert names(home.runtimes) == [strange.name]
    del home.env["DISK"]
    works(home, strange)


# A disk with room for one ------------------------------------------------------------------------------

CHANGE = 'find "$NAME" -type f -exec chmod u+r {} +'


def in_small_disk(home: Home, tiny: Tiny, options: str, script: str) -> Said:
    """`script` runs with the disk where the place should be, and starts "$0"."""
    home.place.mkdir(parents=True)
    home.env["NAME"] = str(home.runtimes / tiny.name)
    mounts = with_mounts(f"mount -t tmpfs -o mode=700,{options} none {home.place}")
    return home.run([*mounts, "sh", "-ec", script, tiny.file])


FULL = ["size=900k", "nr_inodes=20"]


@linux_only
@pytest.mark.parametrize("options", FULL)
def test_without_room_for_both_it_goes_first(home: Home, tiny: Tiny, mounts: None, options: str):
    script = f'"$0" true; {CHANGE}; "$0" true; ls -A "$NAME/.."; "$0" echo hello'
    assert in_small_disk(home, tiny, options, script) == Said(0, f".lock\n{tiny.name}\nhello\n", "")


@linux_only
@pytest.mark.parametrize("options", FULL)
def test_without_room_for_both_it_stays_while_it_is_used(home: Home, tiny: Tiny, mounts: None, options: str):
    script = f"""
mkfifo "$HOME/end"
"$0" sh -c 'touch "$HOME/runs"; read line < "$HOME/end"' &
trap "kill $!" EXIT
until test -e "$HOME/runs"; do :; done
{CHANGE}
"$0" echo hello
ls -A "$NAME/.." "$NAME"
"""
    said = in_small_disk(home, tiny, options, script)
    assert said.code == 0 and said.out.startswith("hello\n")
    assert said.out.count(tiny.name) == 3 and "_internal" in said.out and "stamp" in said.out
    assert ".old-" not in said.out and ".unpack-" not in said.out
    assert re.fullmatch(
        r"mlxone: \S+ cannot be used \(No space left on device[^\n]*\): unpacking into [^\n]*\n", said.err
    )
    assert names(home.fallback / "runtime") == [tiny.name]


# Containers: a folder of a lower layer cannot be renamed ---------------------------------------------------


@linux_only
def test_a_runtime_in_a_containers_image_is_replaced_where_it_is(home: Home, tiny: Tiny, mounts: None):
    changed(home, tiny)
    layers = home.root / "layers"
    for folder in ("upper", "work"):
        (layers / folder).mkdir(parents=True)
    home.place.rename(layers / "lower")
    home.place.mkdir()
    folders = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
    start = [*with_mounts(f"mount -t overlay -o {folders},userxattr overlay {home.place}"), tiny.file]
    for _ in range(2):
        assert home.run(start, *ECHO, "hello") == HELLO
    assert names(layers / "upper" / "runtime") == [tiny.name]
    assert not home.fallback.exists()


def test_what_cannot_be_renamed_is_removed_where_it_is(home: Home, strange: Tiny):
    runtime = changed(home, strange)
    whole = contents(runtime)
    home.env["DISK"] = "layers"
    works(home, strange)
    assert contents(runtime) == whole
    settled = runtime.stat()
    works(home, strange)
    assert runtime.stat() == settled


@pytest.mark.parametrize("disk", ["layers", "layers no locks"])
def test_what_cannot_be_renamed_and_is_in_use_stays_and_nothing_is_unpacked_beside_it(
    home: Home, strange: Tiny, disk: str
):
    child = running(home, strange)
    touch_all(runtime := home.runtimes / strange.name)
    before = (runtime.stat().st_ino, contents(runtime), home.runtimes.stat().st_mtime_ns)
    home.env["DISK"] = disk
    said = home.run(strange, *ECHO, "hello")
    assert (said.code, said.out) == (0, "hello\n")
    why = "the runtime there was changed and cannot be replaced: "
    assert why in said.err and f"unpacking into {home.fallback} instead" in said.err
    assert (runtime.stat().st_ino, contents(runtime), home.runtimes.stat().st_mtime_ns) == before
    assert home.run(strange, *ECHO, "hello") == HELLO
    ended(child)


# Where nobody can lock -------------------------------------------------------------------------------------


def test_a_changed_one_is_replaced_where_nobody_can_lock(home: Home, strange: Tiny):
    runtime = changed(home, strange)
    home.env["DISK"] = "no locks"
    assert home.run(strange, *ECHO, "hello") == HELLO
    [aside] = set(names(home.runtimes)) - {strange.name}
    assert re.fullmatch(r"\.old-\d+-\d+", aside)
    del home.env["DISK"]
    settled = runtime.stat()
    works(home, strange, aside)
    assert runtime.stat() == settled
    os.utime(runtime)
    works(home, strange)
