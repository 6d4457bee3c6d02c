"""The scripts, in the shells they are for. A shell that is not on this machine is skipped, bash never is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlxone.cli.completion_scripts import SCRIPTS
from mlxone.cli.group import HIDDEN, VERBS
from mlxone.hub.registry import Registry
from tests.cli.shelf import cached


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A `mlxone` to be found on PATH, a folder to stand in, and the scripts as the program prints them."""
    program = tmp_path / "bin" / "mlxone"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlxone "$@"\n')
    program.chmod(0o755)
    here = tmp_path / "here"
    (here / "a folder").mkdir(parents=True)
    (here / "notes.md").touch()
    for shell in SCRIPTS:
        made = subprocess.run([program, "completion", shell], capture_output=True, text=True, check=True)
        (tmp_path / shell).write_text(made.stdout)
    return here


def shell(command: list[str], place: Path) -> str:
    environ = {
        **os.environ,
        "PATH": f"{place.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        command, capture_output=True, text=True, env=environ, cwd=place, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


# The verb.


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_on_stdout(mlxone, name):
    result = mlxone("completion", name)
    assert (result.code, result.out, result.err) == (0, SCRIPTS[name], "")


@pytest.mark.parametrize("mine", SCRIPTS)
def test_without_a_shell_ones_own_is_named(mlxone, monkeypatch, mine):
    monkeypatch.setenv("SHELL", f"/usr/bin/{mine}")
    result = mlxone("completion")
    assert (result.code, result.out) == (2, "")
    assert f"`mlxone completion {mine}`" in result.err and "$SHELL" in result.err


@pytest.mark.parametrize("mine", ["/bin/tcsh", ""])
def test_without_one_that_is_known_all_are(mlxone, monkeypatch, mine):
    monkeypatch.setenv("SHELL", mine)
    result = mlxone("completion")
    assert result.code == 2
    assert "bash, zsh and fish" in result.err


def test_another_shell_is_refused_with_those_there_are(mlxone):
    result = mlxone("completion", "tcsh")
    assert (result.code, result.out) == (2, "")
    assert result.err == "mlxone: no completion for tcsh (there is one for bash, zsh and fish)\n"


def test_the_help_installs_each_in_a_line(mlxone):
    lines = mlxone("completion", "--help").out.splitlines()
    for name in SCRIPTS:
        assert [
            line for line in lines if line.strip().startswith(f"{name}: ") and f"completion {name}" in line
        ]


@pytest.mark.parametrize(
    ("name", "check"), [pytest.param(name, [name, "-n"], marks=needs(name)) for name in SCRIPTS]
)
def test_the_script_is_a_script(place, name, check):
    assert shell([*check, str(place.parent / name)], place) == ""


# bash: what readline would set is set, and what it would read is read.

BREAKS = " \t\n\"'@><=;|&(:"
BASH = """
. "$1"; shift
COMP_WORDBREAKS=$1; shift
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_mlxone "$1"
(( ${#COMPREPLY[@]} )) && printf '%s\\n' "${COMPREPLY[@]}" || true
"""


def in_bash(place: Path, *words: str, breaks: str = BREAKS) -> list[str]:
    command = ["bash", "--norc", "-c", BASH, "bash", str(place.parent / "bash"), breaks, *words]
    return shell(command, place).splitlines()


def test_bash_completes_verbs_but_none_that_is_hidden(place):
    assert in_bash(place, "mlxone", "") == list(VERBS)
    assert in_bash(place, "mlxone", next(iter(HIDDEN))) == []


def test_bash_completes_flags_and_choices(place):
    assert in_bash(place, "mlxone", "gc", "--y") == ["--yes"]
    assert in_bash(place, "mlxone", "ls", "--sort", "re") == ["recent"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["get", "gemma4", ":", "12"], ["12b"]),
        (["get", "gemma4", ":"], ["12b", "26b", "31b", "e2b", "e4b"]),
        (["ls", "--sort", "=", "na"], ["name"]),
        (["ls", "--sort", "="], ["context", "name", "params", "recent", "size"]),
        (["show", "org/a", "@", "b"], ["b"]),
        (["serve", "--model", "=", "org/a", "@"], ["b"]),
    ],
)
def test_bash_takes_words_apart_that_are_one_for_us(place, words, expected):
    cached("org/a@b", "Qwen3.5-4B")
    Registry().scan()
    assert sorted(in_bash(place, "mlxone", *words)) == expected


def test_bash_may_have_been_told_not_to(place):
    assert in_bash(place, "mlxone", "get", "gemma4:12", breaks=" \t\n") == ["gemma4:12b"]


def test_bash_starts_the_program_that_stands_on_the_line(place):
    assert in_bash(place, "../bin/mlxone", "ser") == ["serve"]
    assert in_bash(place, "no-such-program", "ser") == []


def test_bash_leaves_files_to_bash(place):
    assert in_bash(place, "mlxone", "run", "--file", "no") == []


def test_bash_in_quotes(place):
    assert in_bash(place, "mlxone", "run", '"star') == ["starter"]
    assert in_bash(place, "mlxone", "get", '"gemma4:12') == ["gemma4:12b"]


def test_the_interactive_bash_completes_files_folders_and_models(place):
    """Through readline: TAB behind the words, then the line is printed and not run."""
    import pty

    lines = {
        "mlxone run --file no": "mlxone run --file notes.md",
        "mlxone run --file=no": "mlxone run --file=notes.md",
        "mlxone ls --model-dir a": "mlxone ls --model-dir a\\ folder/",
        "mlxone get gemma4:1": "mlxone get gemma4:12b",
        "mlxone run ./no": "mlxone run ./notes.md",
    }
    environ = {
        **os.environ,
        "PATH": f"{place.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TERM": "dumb",
    }
    outer, inner = pty.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=inner, stdout=inner, stderr=inner, env=environ, cwd=place, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(inner)
        watchdog = threading.Timer(60, process.kill)  # a shell that waits for an answer would wait for ever
        watchdog.start()
        typed = "".join(f"{line}\t\x01echo 'got: \x05'\n" for line in lines)
        setup = f"bind 'set enable-bracketed-paste off'; . '{place.parent / 'bash'}'\n"
        os.write(outer, f"{setup}{typed}exit\n".encode())
        said = b""
        try:
            while piece := os.read(outer, 65536):
                said += piece
        except OSError:  # how a terminal says that the other end is gone
            pass
        watchdog.cancel()
    os.close(outer)
    got = [
        line.removeprefix("got: ").strip() for line in said.decode().splitlines() if line.startswith("got: ")
    ]
    assert got == list(lines.values())


# zsh: the functions that draw are replaced by ones that print.

ZSH = """
compdef() { : }
_describe() { print -rl -- ${(P)3} }
_files() { print files $* }
. $1; shift
words=("$@") CURRENT=$# PREFIX=${@[-1]}
_mlxone
"""


def in_zsh(place: Path, *words: str) -> list[str]:
    return shell(["zsh", "-f", "-c", ZSH, "zsh", str(place.parent / "zsh"), *words], place).splitlines()


@needs("zsh")
def test_zsh_completes_verbs_flags_and_models(place):
    assert in_zsh(place, "mlxone", "ser") == [f"serve:{VERBS['serve'].summary}"]
    assert len(in_zsh(place, "mlxone", "")) == len(VERBS)
    assert in_zsh(place, "mlxone", "ls", "--sort", "re") == ["recent"]
    assert in_zsh(place, "mlxone", "rm", "st") == ["starter"]
    assert in_zsh(place, "mlxone", "get", "gemma4:1")[0].startswith("gemma4\\:12b:")
    assert in_zsh(place, "../bin/mlxone", "ser") == [f"serve:{VERBS['serve'].summary}"]
    assert in_zsh(place, "no-such-program", "ser") == []


@needs("zsh")
def test_zsh_leaves_files_to_zsh(place):
    assert in_zsh(place, "mlxone", "run", "--file", "no") == ["files"]
    assert in_zsh(place, "mlxone", "ls", "--model-dir", "a") == ["files -/"]


@needs("zsh")
def test_zsh_finds_it_among_its_functions(place):
    """As a file `_mlxone` in a folder of `fpath`."""
    functions = place.parent / "functions"
    functions.mkdir()
    (place.parent / "zsh").rename(functions / "_mlxone")
    script = (
        "fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D; print ${_comps[mlxone]};"
        "_describe() { print -rl -- ${(P)3} }; words=(mlxone rm st) CURRENT=3 PREFIX=st; _mlxone"
    )
    # The first call reads the file, and completes already.
    assert shell(["zsh", "-f", "-c", script, "zsh", str(functions)], place) == "_mlxone\nstarter\n"


# fish answers itself.


def in_fish(place: Path, line: str) -> list[str]:
    script = f"source {place.parent / 'fish'}; complete -C '{line}'"
    return shell(["fish", "--no-config", "-c", script], place).splitlines()


@needs("fish")
def test_fish_completes_verbs_flags_and_models(place):
    assert in_fish(place, "mlxone ser") == [f"serve\t{VERBS['serve'].summary}"]
    assert len(in_fish(place, "mlxone ")) == len(VERBS)
    assert in_fish(place, "mlxone ls --sort re") == ["recent"]
    assert in_fish(place, "mlxone ls --sort=re") == ["--sort=recent"]
    assert in_fish(place, "mlxone rm ") == ["starter"]
    assert in_fish(place, "mlxone get gemma4:1")[0].startswith("gemma4:12b\t")
    assert in_fish(place, "mlxone serve --port ") == []


@needs("fish")
def test_fish_leaves_files_to_fish(place):
    assert in_fish(place, "mlxone run --file n") == ["notes.md"]
    assert in_fish(place, "mlxone run --file=n") == ["--file=notes.md"]
    assert [line.split("\t")[0] for line in in_fish(place, "mlxone ls --model-dir ")] == ["a folder/"]
