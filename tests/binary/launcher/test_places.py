"""Where the launcher unpacks to, and which places it does not trust."""

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
    names,
    python,
    with_mounts,
    works,
)

LINUX = sys.platform == "linux"
linux_only = pytest.mark.skipif(not LINUX, reason="of Linux's loader")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to somebody else")


@pytest.mark.parametrize(
    ("chosen", "where"),
    [
        ("{home}/elsewhere", "elsewhere"),
        ("~/below/home", "below/home"),
        ("~", "."),
        ("relative/to here", "relative/to here"),
        ("~other", "~other"),
        ("$HOME/x", "$HOME/x"),
        ("{home}/with space/ünd mehr//", "with space/ünd mehr"),
        ("", ".cache/mlxone"),
        ("{home}/" + "/".join(["long" * 50] * 10), "/".join(["long" * 50] * 10)),
    ],
)
def test_mlxone_home_is_read_as_documented(home: Home, tiny: Tiny, chosen: str, where: str):
    home.env["MLXONE_HOME"] = chosen.format(home=home.root)
    works(home, tiny, place=home.root / where)


def test_the_executable_may_lie_anywhere_and_be_called_through_links(home: Home, tiny: Tiny):
    moved = tiny.copied(home.root / "ein Ördner" / "with\nline" / "mlx one")
    link = home.root / "link"
    link.symlink_to(moved.file)
    report = python("import os; print(ascii(os.environ['MLXONE_EXECUTABLE']))")
    for _ in range(2):
        assert home.run([link], *report) == Said(0, ascii(str(moved.file)) + "\n", "")
    assert (
        home.run(["sh", "-c", 'PATH=.:$PATH; exec link "$@"', "sh"], *report).out
        == ascii(str(moved.file)) + "\n"
    )


def test_without_a_home_it_unpacks_among_the_temporary_files(home: Home, tiny: Tiny):
    del home.env["HOME"]
    works(home, tiny, place=home.fallback)
    assert home.fallback.stat().st_mode & 0o777 == 0o700
    home.env |= {"HOME": "", "MLXONE_HOME": "~/x"}
    works(home, tiny, place=home.fallback)


def falls_back(home: Home, tiny: Tiny, why: str, command: list[str | Path] | None = None) -> None:
    """Says so when it unpacks there, and not again."""
    first = home.run([*(command or []), tiny.file], *ECHO, "hello")
    assert (first.code, first.out) == (0, "hello\n")
    place = home.env.get("MLXONE_HOME", str(home.place))
    assert re.fullmatch(
        rf"mlxone: {re.escape(place)} cannot be used \([^()\n]*{why}[^\n]*\): unpacking into "
        rf"{re.escape(str(home.fallback))} instead; [^\n]*\n",
        first.err,
    ), first.err
    assert home.run([*(command or []), tiny.file], *ECHO, "hello") == Said(0, "hello\n", "")
    assert names(home.fallback / "runtime") == [tiny.name]


def test_a_file_where_the_home_should_be(home: Home, tiny: Tiny):
    home.env["MLXONE_HOME"] = str(home.root / "file")
    (home.root / "file").touch()
    falls_back(home, tiny, "Not a directory")


@pytest.mark.parametrize("broken", ["file", "link", "dangling"])
def test_something_else_where_the_runtimes_should_be(home: Home, tiny: Tiny, broken: str):
    home.place.mkdir(parents=True)
    if broken == "file":
        home.runtimes.touch()
    else:
        home.runtimes.symlink_to(home.temporary if broken == "link" else "nothing")
    falls_back(home, tiny, "not a folder")


def test_others_may_write_to_the_runtimes(home: Home, tiny: Tiny):
    works(home, tiny)
    home.runtimes.chmod(0o775)
    falls_back(home, tiny, "others may write")


def test_others_may_write_to_the_runtime_itself(home: Home, tiny: Tiny):
    works(home, tiny)
    (home.runtimes / tiny.name).chmod(0o777)
    works(home, tiny)
    assert (home.runtimes / tiny.name).stat().st_mode & 0o777 == 0o700


@root_only
@pytest.mark.parametrize("what", ["runtimes", "runtime"])
def test_folders_of_somebody_else(home: Home, tiny: Tiny, what: str):
    works(home, tiny)
    os.chown(home.runtimes if what == "runtimes" else home.runtimes / tiny.name, 65534, 65534)
    falls_back(home, tiny, "belongs to somebody else")


@root_only
@pytest.mark.parametrize("runtime", ["there", "not there"])
def test_a_place_of_somebody_else(home: Home, tiny: Tiny, runtime: str):
    """Who could replace `runtime` at any time, though that is ours."""
    if runtime == "there":
        works(home, tiny)
    else:
        home.place.mkdir(parents=True)
    os.chown(home.place, 65534, 65534)
    falls_back(home, tiny, "it belongs to somebody else")
    assert [path.name for path in home.place.iterdir()] == (["runtime"] if runtime == "there" else [])


@root_only
def test_a_place_that_root_gave_to_our_group(home: Home, tiny: Tiny):
    """As a volume of a cluster: root could replace anything there anyway."""
    home.place.mkdir(parents=True)
    for folder in (home.root, home.place):
        os.chown(folder, 0, 65534)
        folder.chmod(0o2775)
    said = home.run(tiny.copied(home.root / "tiny"), "true", user=65534, group=65534, extra_groups=[])
    assert said == Said(0, "", "")
    assert home.runtimes.stat().st_uid == 65534


@root_only
@pytest.mark.parametrize("below", ["", ".cache"])
def test_no_folders_are_made_in_the_home_of_somebody_else(home: Home, tiny: Tiny, below: str):
    """As sudo leaves HOME."""
    (home.root / below).mkdir(exist_ok=True)
    os.chown(home.root / below, 65534, 65534)
    falls_back(home, tiny, f"{re.escape(str(home.root / below))} belongs to somebody else")
    assert not home.place.exists() and (home.root / ".cache").exists() == bool(below)


@root_only
@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_a_place_is_made_below_the_systems_folders_and_common_ones(home: Home, tiny: Tiny, mode: int):
    around = home.root / "around"
    around.mkdir()
    around.chmod(mode)
    if mode == 0o1777:
        os.chown(around, 65534, 65534)
    home.env["MLXONE_HOME"] = str(around / "not yet" / "there")
    works(home, tiny, place=around / "not yet" / "there")


@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
def test_a_place_that_anybody_may_write_to(home: Home, tiny: Tiny, mode: int):
    works(home, tiny)
    home.place.chmod(mode)
    falls_back(home, tiny, "anybody may write to it")


def test_a_place_that_a_group_may_write_to(home: Home, tiny: Tiny):
    works(home, tiny)
    home.place.chmod(0o775)
    works(home, tiny)


def test_a_folder_with_a_colon_cannot_hold_libraries(home: Home, tiny: Tiny):
    home.env["MLXONE_HOME"] = str(home.root / "a:b")
    falls_back(home, tiny, "colon")


READ_ONLY = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"


@linux_only
def test_a_read_only_home(home: Home, tiny: Tiny, mounts: None):
    home.place.mkdir(parents=True)
    falls_back(home, tiny, "Read-only file system", with_mounts(READ_ONLY.format(home.place)))


@linux_only
def test_a_read_only_home_with_a_whole_runtime_is_used(home: Home, tiny: Tiny, mounts: None):
    works(home, tiny)
    said = home.run([*with_mounts(READ_ONLY.format(home.place)), tiny.file], *ECHO, "hello")
    assert said == Said(0, "hello\n", "")


@linux_only
@pytest.mark.skipif(os.geteuid() != 0, reason="the test drops root's rights")
def test_a_home_without_permission(home: Home, tiny: Tiny):
    for folder in (home.root, home.temporary):
        folder.chmod(0o1777)
    home.env["MLXONE_HOME"] = str(home.root / "closed" / "below")
    (home.root / "closed").mkdir(mode=0o755)
    reachable = tiny.copied(home.root / "tiny")
    said = home.run(reachable, *ECHO, "hello", user=65534)
    assert (said.code, said.out) == (0, "hello\n")
    assert "closed/below cannot be used (Permission denied)" in said.err
    assert names(home.temporary / "mlxone-65534" / "runtime") == [tiny.name]


@linux_only
@pytest.mark.parametrize("options", ["size=100k", "size=1m,nr_inodes=5", "noexec"])
def test_a_full_disk_and_one_that_may_not_hold_programs(home: Home, tiny: Tiny, mounts: None, options: str):
    home.place.mkdir(parents=True)
    why = "noexec" if options == "noexec" else "No space left on device"
    falls_back(home, tiny, why, with_mounts(f"mount -t tmpfs -o mode=700,{options} none {home.place}"))


@linux_only
def test_a_home_that_became_noexec(home: Home, tiny: Tiny, mounts: None):
    works(home, tiny)
    setup = READ_ONLY.replace(",ro", ",noexec").format(home.place)
    falls_back(home, tiny, "Permission denied", with_mounts(setup))
    said = home.run(
        [*with_mounts(setup), tiny.file], "sh", "-c", "echo $LD_LIBRARY_PATH; echo $LD_LIBRARY_PATH_ORIG"
    )
    assert (
        said.out == f"{home.fallback / 'runtime' / tiny.name / '_internal'}\n\n"
    )  # nothing of the first try
    code = "import os; print(sum(os.path.exists(f'/proc/self/fd/{fd}') for fd in range(3, 256)))"
    assert home.run([*with_mounts(setup), tiny.file], *python(code)).out == "1\n"


def too_small(home: Home, tiny: Tiny) -> Said:
    return home.run(["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", tiny.file], *ECHO)


def test_no_room_anywhere_is_one_line_and_leaves_nothing(home: Home, tiny: Tiny):
    said = too_small(home, tiny)
    assert (said.code, said.out) == (9, "")
    lines = said.err.splitlines()
    assert len(lines) == 2 and "cannot be used (File too large)" in lines[0]
    assert lines[1].startswith(f"mlxone: no place to unpack into: neither {home.place} (File too large) nor ")
    assert "set MLXONE_HOME to a folder of yours with 1 MB free" in lines[1]
    assert names(home.runtimes) == names(home.fallback / "runtime") == []
    works(home, tiny)


# The fallback lies where anybody may have been before ------------------------------------------------------


def refuses_fallback(home: Home, tiny: Tiny, why: str) -> None:
    del home.env["HOME"]
    said = home.run(tiny, *ECHO)
    assert (said.code, said.out) == (9, "")
    first = rf"mlxone: no place to unpack into: {re.escape(str(home.fallback))} \({why}[^\n]*\); [^\n]*\n"
    assert re.fullmatch(first, said.err), said.err


def test_a_link_prepared_by_somebody_else(home: Home, tiny: Tiny):
    (home.root / "trap").mkdir(mode=0o700)
    home.fallback.symlink_to(home.root / "trap")
    refuses_fallback(home, tiny, "something else has that name")
    assert list((home.root / "trap").iterdir()) == []


@root_only
def test_a_folder_prepared_by_somebody_else(home: Home, tiny: Tiny):
    home.fallback.mkdir(mode=0o700)
    os.chown(home.fallback, 65534, 65534)
    refuses_fallback(home, tiny, "it belongs to somebody else")


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777])
def test_a_fallback_that_others_may_enter(home: Home, tiny: Tiny, mode: int):
    home.fallback.mkdir()
    home.fallback.chmod(mode)
    refuses_fallback(home, tiny, "others may enter it")


def test_a_temporary_folder_in_which_anybody_may_rename_anything(home: Home, tiny: Tiny):
    home.temporary.chmod(0o777)
    refuses_fallback(home, tiny, "anybody may rename it")
    home.temporary.chmod(0o1777)
    works(home, tiny, place=home.fallback)
