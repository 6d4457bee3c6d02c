"""install.sh against a mirror on this machine, with machines of every kind played by a doctored PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from packer import release
from tests.packaging.mirror import TOOLS, Machine, Mirror, can_run, everything, serving, shells

SHELLS = shells()
SH = SHELLS[0]
FETCHERS = [name for name in ("curl", "wget") if shutil.which(name)]
HASHERS = [name for name in ("sha256sum", "shasum") if shutil.which(name)]
VERSION = "1.2.3"


@pytest.fixture(scope="module")
def server() -> Iterator[Mirror]:
    with serving() as mirror:
        yield mirror


@pytest.fixture
def mirror(server: Mirror) -> Mirror:
    server.files.clear()
    server.cut.clear()
    server.asked.clear()
    server.publish(VERSION)
    return server


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name in ("bin", "home"):
        (tmp_path / name).mkdir()
    machine = Machine(tmp_path / "bin", tmp_path / "home").link(*TOOLS, FETCHERS[0], HASHERS[0])
    return machine.system("Linux", "x86_64")


def options(mirror: Mirror, *more: str) -> list[str]:
    return ["--base-url", mirror.url, "--version", f"v{VERSION}", *more]


def test_every_tool_it_needs_is_on_the_list():
    assert shutil.which("sh") and FETCHERS and HASHERS


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("fetcher", FETCHERS)
def test_it_installs(machine: Machine, mirror: Mirror, shell: list[str], fetcher: str):
    machine.without(FETCHERS[0]).link(fetcher)
    done = machine.run(shell, *options(mirror))
    target = machine.home / ".local/bin/mlxone"
    assert (done.returncode, done.stderr) == (0, "")
    assert target.read_bytes() == mirror.files[f"/v{VERSION}/mlxone-{VERSION}-linux-x86_64"]
    assert can_run(target) and target.stat().st_mode & 0o777 == 0o755
    assert everything(machine.home) == [".local", ".local/bin", ".local/bin/mlxone"]
    for said in (f"installed mlxone {VERSION}", str(target), "not on your PATH", "to remove it"):
        assert said in done.stdout


@pytest.mark.parametrize("hasher", HASHERS)
def test_it_checks_with_what_there_is(machine: Machine, mirror: Mirror, hasher: str):
    machine.without(HASHERS[0]).link(hasher)
    if hasher == "shasum":
        machine.link("perl")  # it is a Perl program
    assert machine.run(SH, *options(mirror)).returncode == 0


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_releases_copy_needs_no_options_and_comes_through_a_pipe(
    machine: Machine, mirror: Mirror, shell: list[str]
):
    script = release.installer(VERSION, mirror.url)
    done = machine.run(shell, script=script)
    assert (done.returncode, done.stderr) == (0, "")
    assert can_run(machine.home / ".local/bin/mlxone")


def test_options_reach_it_through_the_pipe_too(machine: Machine, mirror: Mirror, tmp_path: Path):
    mirror.publish("9.0")
    script = release.installer(VERSION, mirror.url)
    done = machine.run(SH, "--version=9.0", "--slim", f"--to={tmp_path / 'there'}", script=script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there/mlxone").read_bytes() == mirror.files["/v9.0/mlxone-slim-9.0-linux-x86_64"]
    assert everything(machine.home) == []


def test_the_variables_decide_where_from_and_where_to(machine: Machine, mirror: Mirror, tmp_path: Path):
    there = str(tmp_path / "there")
    done = machine.run(
        SH, "--version", VERSION, MLXONE_DOWNLOAD_URL=mirror.url + "/", MLXONE_INSTALL_DIR=there, HOME=None
    )
    assert done.returncode == 0, done.stderr
    assert can_run(Path(there, "mlxone"))


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("where", ["with space/and ü", "./relative", "-dash/-n", "ends/", "$HOME`x`*"])
def test_any_folder_will_do(machine: Machine, mirror: Mirror, shell: list[str], where: str):
    done = machine.run(shell, *options(mirror, "--to", where))
    assert (done.returncode, done.stderr) == (0, "")
    assert can_run(machine.home / where / "mlxone")
    assert len([p for p in machine.home.rglob("*") if p.is_file()]) == 1


def test_an_older_one_is_replaced_and_its_open_copy_lives_on(machine: Machine, mirror: Mirror):
    old = machine.home / ".local/bin/mlxone"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    with old.open() as opened:
        done = machine.run(SH, *options(mirror))
        assert done.returncode == 0 and "replaced" in done.stdout
        assert opened.read() == "old"  # another file: a program that runs from it is not disturbed
    assert b"echo mlxone" in old.read_bytes()


def test_it_says_when_the_folder_is_on_the_path(machine: Machine, mirror: Mirror):
    done = machine.run(SH, *options(mirror, "--to", str(machine.bin)))
    assert done.returncode == 0 and "PATH" not in done.stdout


def test_it_says_when_another_one_comes_first(machine: Machine, mirror: Mirror):
    machine.fake("mlxone", "")
    there = machine.home / "there"
    done = machine.run(SH, *options(mirror, "--to", str(there)), PATH=f"{machine.bin}:{there}")
    assert f"another one first: {machine.bin}/mlxone" in done.stdout


@pytest.mark.parametrize(
    ("shell", "word"), [("/bin/zsh", ".zshrc"), ("/usr/bin/fish", "fish_add_path"), ("/bin/bash", ".profile")]
)
def test_it_says_how_to_put_it_on_the_path(machine: Machine, mirror: Mirror, shell: str, word: str):
    assert word in machine.run(SH, *options(mirror), SHELL=shell).stdout


# What it refuses. Whatever was there stays, and nothing is left behind.


def refused(machine: Machine, code: int, word: str, *words: str, **environment: str | None) -> None:
    kept = machine.home / "kept" / "mlxone"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("old")
    for target in (["--to", str(kept.parent)], ["--to", str(machine.home / "new/deep")]):
        before = everything(machine.home)
        done = machine.run(SH, *words, *target, **environment)
        ours = [line for line in done.stderr.splitlines() if line.startswith("install.sh: ")]
        assert (done.returncode, len(ours)) == (code, 1), done.stderr
        assert word in ours[0]
        assert everything(machine.home) == before and kept.read_text() == "old"


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_wrong_sum(machine: Machine, mirror: Mirror, fetcher: str):
    machine.without(FETCHERS[0]).link(fetcher)
    mirror.files[f"/v{VERSION}/mlxone-{VERSION}-linux-x86_64"] += b"#"
    refused(machine, 8, "not what was published", *options(mirror))


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_download_that_is_cut(machine: Machine, mirror: Mirror, fetcher: str):
    machine.without(FETCHERS[0]).link(fetcher)
    mirror.cut.add(f"/v{VERSION}/mlxone-{VERSION}-linux-x86_64")
    refused(machine, 8, "nothing was changed", *options(mirror))


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("missing", ["SHA256SUMS", f"mlxone-{VERSION}-linux-x86_64"])
def test_a_file_that_is_not_there(machine: Machine, mirror: Mirror, fetcher: str, missing: str):
    machine.without(FETCHERS[0]).link(fetcher)
    del mirror.files[f"/v{VERSION}/{missing}"]
    refused(machine, 8, f"{missing} could not be fetched", *options(mirror))


def test_sums_that_do_not_name_it(machine: Machine, mirror: Mirror):
    mirror.files[f"/v{VERSION}/SHA256SUMS"] = b"0" * 64 + b"  mlxone-1.2.3-linux-x86_64.old\n"
    refused(machine, 8, "names no mlxone-1.2.3-linux-x86_64", *options(mirror))


def test_no_server(machine: Machine, mirror: Mirror):
    refused(machine, 8, "could not be fetched", "--version", VERSION, "--base-url", "http://127.0.0.1:9")


def test_nothing_to_fetch_with(machine: Machine, mirror: Mirror):
    refused(machine.without(FETCHERS[0]), 8, "neither curl nor wget", *options(mirror))


def test_nothing_to_check_with(machine: Machine, mirror: Mirror):
    refused(machine.without(HASHERS[0]), 8, "neither sha256sum nor shasum", *options(mirror))
    assert mirror.asked == []


MACHINES = {
    "Intel Mac": (["Darwin", "x86_64"], "Apple silicon"),
    "Windows": (["MINGW64_NT-10.0", "x86_64"], "WSL"),
    "FreeBSD": (["FreeBSD", "amd64"], "not on FreeBSD"),
    "32 bits": (["Linux", "i686"], "i686"),
    "Raspberry Pi OS of 32 bits": (["Linux", "armv7l"], "armv7l"),
    "RISC-V": (["Linux", "riscv64"], "riscv64"),
}


@pytest.mark.parametrize(("system", "word"), MACHINES.values(), ids=MACHINES)
def test_systems_without_a_file_for_them(machine: Machine, mirror: Mirror, system: list[str], word: str):
    refused(machine.system(*system), 12, word, *options(mirror))
    assert mirror.asked == []


@pytest.mark.parametrize("libc", ["glibc 2.31", "glibc 2.34", "glibc 2.5-hardened"])
def test_a_c_library_that_is_too_old(machine: Machine, mirror: Mirror, libc: str):
    refused(machine.system("Linux", "aarch64", libc=libc), 12, "glibc 2.35 or later", *options(mirror))


def test_musl(machine: Machine, mirror: Mirror):
    machine.system("Linux", "x86_64", libc="").fake("ldd", "echo 'musl libc (x86_64)' >&2; exit 1")
    refused(machine, 12, "musl", *options(mirror))


def test_a_32_bit_system_on_a_64_bit_kernel(machine: Machine, mirror: Mirror):
    refused(machine.system("Linux", "aarch64", bits=32), 12, "32-bit", *options(mirror))


def test_a_macos_that_is_too_old(machine: Machine, mirror: Mirror):
    machine.system("Darwin", "arm64").fake("sw_vers", "echo 14.7.1")
    refused(machine, 12, "macOS 15 or later: this is 14.7.1", *options(mirror))


def test_words_it_does_not_know(machine: Machine, mirror: Mirror):
    for words in (["--nonsense"], ["somewhere"], ["-x"], ["--slim=yes"]):
        refused(machine, 2, f"unknown option {words[0]}", *words)
    for option in ("--to", "--version", "--base-url"):
        refused(machine, 2, f"{option} needs a value", f"{option}=")
        assert machine.run(SH, option).returncode == 2
    refused(machine, 2, "is no version", *options(mirror, "--version", "../../etc"))
    assert mirror.asked == []


def test_a_copy_without_a_release_asks_for_one(machine: Machine, mirror: Mirror):
    refused(machine, 2, "--version", "--base-url", mirror.url)
    refused(machine, 2, "--base-url", "--version", VERSION)


def test_no_home_and_no_folder(machine: Machine, mirror: Mirror):
    for home in (None, ""):
        done = machine.run(SH, *options(mirror), HOME=home)
        assert (done.returncode, "--to DIR" in done.stderr) == (2, True)


def test_folders_that_cannot_be_written_to(machine: Machine, mirror: Mirror):
    (machine.home / "file").touch()
    (machine.home / "taken/mlxone").mkdir(parents=True)
    for folder in [machine.home / "file/sub", machine.home / "taken"]:
        before = everything(machine.home)
        done = machine.run(SH, *options(mirror, "--to", str(folder)))
        assert (done.returncode, "choose another" in done.stderr) == (9, True)
        assert everything(machine.home) == before
    assert mirror.asked == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that root may not write to either")
def test_a_folder_nobody_may_write_to(machine: Machine, mirror: Mirror):
    done = machine.run(SH, *options(mirror, "--to", "/proc"))
    assert (done.returncode, "/proc cannot be written to" in done.stderr) == (9, True)


# And where it goes on.

WELCOME = {
    "Linux, arm64": (["Linux", "aarch64"], "linux-arm64"),
    "macOS": (["Darwin", "arm64"], "macos-arm64"),
    "Linux, as FreeBSD spells it": (["Linux", "amd64"], "linux-x86_64"),
}


@pytest.mark.parametrize(("system", "platform"), WELCOME.values(), ids=WELCOME)
def test_each_platform_gets_its_file(machine: Machine, mirror: Mirror, system: list[str], platform: str):
    mirror.publish(VERSION, platform)
    assert machine.system(*system).run(SH, *options(mirror)).returncode == 0
    assert mirror.asked == [f"/v{VERSION}/SHA256SUMS", f"/v{VERSION}/mlxone-{VERSION}-{platform}"]


def test_a_shell_under_rosetta(machine: Machine, mirror: Mirror):
    mirror.publish(VERSION, "macos-arm64")
    machine.system("Darwin", "x86_64").fake(
        "sysctl", '[ "$*" = "-n sysctl.proc_translated" ] && echo 1'
    ).fake("sw_vers", "echo 15.1")
    assert machine.run(SH, *options(mirror)).returncode == 0


def test_a_linux_that_does_not_say_its_c_library(machine: Machine, mirror: Mirror):
    assert machine.system("Linux", "x86_64", libc="").run(SH, *options(mirror)).returncode == 0


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_help(machine: Machine, shell: list[str]):
    done = machine.run(shell, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--to", "--version", "--slim", "--base-url", "MLXONE_INSTALL_DIR", "MLXONE_DOWNLOAD_URL"):
        assert option in done.stdout


def test_a_script_that_was_cut_short_does_nothing(machine: Machine, mirror: Mirror):
    """At the end of every line, and at each of the last characters, where the call stands."""
    script = release.installer(VERSION, mirror.url)
    ends = [at for at, letter in enumerate(script) if letter == "\n"][:-1]
    ends += range(len(script) - 60, len(script.rstrip()))
    for end in ends:
        subprocess.run(
            SH,
            input=script[:end].encode(),
            env={"PATH": str(machine.bin), "HOME": str(machine.home)},
            capture_output=True,
            check=False,
            timeout=60,
            cwd=machine.home,
        )
        assert (everything(machine.home), mirror.asked) == ([], []), script[:end][-40:]


def test_it_is_stopped_half_way_and_leaves_nothing(machine: Machine, mirror: Mirror):
    """By a signal, while it fetches: the fetcher itself sends it."""
    machine.fake(FETCHERS[0], 'kill -TERM "$PPID"; exit 0')
    machine.without(*(name for name in FETCHERS[1:] if (machine.bin / name).exists()))
    done = machine.run(SH, *options(mirror, "--to", str(machine.home / "new/deep")))
    assert done.returncode == 143
    assert everything(machine.home) == []


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_shellcheck_has_nothing_to_say():
    scripts = [str(p) for p in (release.ROOT / "packaging").rglob("*.sh")]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert (done.stdout, len(scripts)) == ("", 4)


def test_the_scripts_can_be_started_and_parse():
    for script in (release.ROOT / "packaging").rglob("*.sh"):
        assert os.access(script, os.X_OK), script
        assert subprocess.run([*SH, "-n", str(script)], check=False).returncode == 0
