"""The scripts, in the shells they are for. A shell that is not on this machine is skipped, bash never is."""

from __future__ import annotations

import os
import re
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
from tests.hub.shelves import model


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
. "$1"
COMP_LINE=$2 COMP_POINT=${#2}
_mlxone mlxone "$3"
(( ${#COMPREPLY[@]} )) && printf '%s\\n' "${COMPREPLY[@]}" || true
"""


def in_bash(place: Path, line: str, breaks: str = BREAKS) -> list[str]:
    """What is put in the place of the word that readline takes to be at the end of the line."""
    replaced = re.split(f"[{re.escape(breaks)}]", line)[-1]
    command = ["bash", "--norc", "-c", BASH, "bash", str(place.parent / "bash"), line, replaced]
    return shell(command, place).splitlines()


def test_bash_completes_verbs_but_none_that_is_hidden(place):
    assert in_bash(place, "mlxone ") == list(VERBS)
    assert in_bash(place, f"mlxone {next(iter(HIDDEN))}") == []


def test_bash_completes_flags_and_choices(place):
    assert in_bash(place, "mlxone gc --y") == ["--yes"]
    assert in_bash(place, "mlxone ls --sort re") == ["recent"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("get gemma4:12", ["12b"]),
        ("get gemma4:", ["12b", "26b", "31b", "e2b", "e4b"]),
        ("ls --sort=na", ["name"]),
        ("ls --sort=", ["context", "name", "params", "recent", "size"]),
        ("show org/a@b", ["b"]),
        ("serve --model=org/a@", ["b"]),
    ],
)
def test_bash_takes_words_apart_that_are_one_for_us(place, words, expected):
    cached("org/a@b", "Qwen3.5-4B")
    Registry().scan()
    assert sorted(in_bash(place, f"mlxone {words}")) == expected


def test_bash_may_have_been_told_not_to(place):
    assert in_bash(place, "mlxone get gemma4:12", breaks=" \t\n") == ["gemma4:12b"]


@pytest.mark.parametrize("before", ["run Summarise: ", "run x = ", "run '' @ ", "run 'a b:' ", "run a\\ b= "])
def test_only_words_that_touch_are_one(place, before):
    assert in_bash(place, f"mlxone {before}--js") == ["--json"]


def test_bash_starts_the_program_that_stands_on_the_line(place):
    assert in_bash(place, "../bin/mlxone ser") == ["serve"]
    assert in_bash(place, "no-such-program ser") == []


def test_bash_leaves_files_to_bash(place):
    assert in_bash(place, "mlxone run --file no") == []


def in_readline(place: Path, *lines: str) -> list[str]:
    """Each line after a TAB behind it, as a person would see it in an interactive bash. None is run."""
    import pty

    seen = place.parent / "seen"
    seen.touch()
    note = f"""_note() {{ printf '%s\\n' "$READLINE_LINE" >> '{seen}'; READLINE_LINE= READLINE_POINT=0; }}"""
    setup = f"""bind 'set enable-bracketed-paste off'; . '{place.parent / "bash"}'; {note}
bind -x '"\\C-]x": _note'
"""
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
        typed = "".join(f"{line}\t\x1dx" for line in lines)
        os.write(outer, f"{setup}{typed}\nexit\n".encode())
        try:
            while os.read(outer, 65536):
                pass
        except OSError:  # how a terminal says that the other end is gone
            pass
        watchdog.cancel()
    os.close(outer)
    return [line.rstrip() for line in seen.read_text().splitlines()]


def test_the_interactive_bash_completes_files_folders_and_models(place):
    lines = {
        "mlxone run --file no": "mlxone run --file notes.md",
        "mlxone run --file=no": "mlxone run --file=notes.md",
        "mlxone ls --model-dir a": "mlxone ls --model-dir a\\ folder/",
        "mlxone get gemma4:1": "mlxone get gemma4:12b",
        "mlxone run ./no": "mlxone run ./notes.md",
    }
    assert in_readline(place, *lines) == list(lines.values())


STRANGE = (
    "d$(touch pwned)",
    "e`touch pwned`",
    "f$HOME",
    "g'h",
    'i"j',
    "k l",
    "m!n",
    "o;p&q|r",
    "s*t",
    "u\\v",
)


@pytest.fixture
def strange_models(home: Path) -> None:
    for name in STRANGE:
        model(home / ".lmstudio" / "models" / "org" / name)
    Registry().scan()


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_what_is_put_into_the_line_is_a_name_and_runs_nothing(place, strange_models, quote):
    """Bash itself reads each completed line again: the word is the model's name, and that is all."""
    lines = in_readline(place, *(f"mlxone show {quote}org/{name[0]}" for name in STRANGE))
    assert len(lines) == len(STRANGE)
    for name, line in zip(STRANGE, lines, strict=True):
        assert line.startswith(f"mlxone show {quote}org/")
        script = f"mlxone() {{ printf '%s,' \"$@\"; }}; {line}"
        read = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=place, check=False)
        assert (read.stdout, read.stderr) == (f"show,org/{name},", ""), line
    assert not (place / "pwned").exists()


def test_in_quotes_only_what_they_leave_a_meaning_is_escaped(place, strange_models):
    lines = {
        'mlxone show "org/d': 'mlxone show "org/d\\$(touch pwned)"',
        'mlxone show "org/k l': 'mlxone show "org/k l"',
        'mlxone show "org/m': """mlxone show "org/m"'!'"n\"""",  # else a step of the history
        "mlxone show 'org/d": "mlxone show 'org/d$(touch pwned)'",
        "mlxone show 'org/g": "mlxone show 'org/g'\\''h'",
        'mlxone serve --model="org/e': 'mlxone serve --model="org/e\\`touch pwned\\`"',
        'mlxone show org/"d': 'mlxone show org/"d\\$(touch pwned)"',
        'mlxone get "gemma4:12': 'mlxone get "gemma4:12b"',
        'mlxone run "star': 'mlxone run "starter"',
    }
    assert in_readline(place, *lines) == list(lines.values())


def test_a_word_is_completed_as_the_shell_will_read_it(place, strange_models):
    lines = {
        "mlxone show org/k\\ ": "mlxone show org/k\\ l",
        "mlxone show org/k\\": "mlxone show org/k\\ l",
        "mlxone show org/g\\'": "mlxone show org/g\\'h",
        'mlxone show "org/i\\"': 'mlxone show "org/i\\"j"',
        'mlxone show "org/u\\\\': 'mlxone show "org/u\\\\v"',
        "mlxone show 'org/u\\": "mlxone show 'org/u\\v'",
        "mlxone get gemma4\\:12": "mlxone get gemma4:12b",
        "mlxone run org/k\\ l --js": "mlxone run org/k\\ l --json",
        "mlxone run Summarise: --js": "mlxone run Summarise: --json",
    }
    assert in_readline(place, *lines) == list(lines.values())


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
def test_fish_completes_a_word_as_it_will_read_it(place, home):
    model(home / ".lmstudio" / "models" / "org" / "k l")
    Registry().scan()
    for word in ("org/k\\\\ ", "org/k\\\\ l", '"org/k ', "--model=org/k\\\\ ", '--model="org/k'):
        assert in_fish(place, f"mlxone serve {word}") == [f"{'--model=' * word.startswith('--')}org/k l"]
    assert in_fish(place, 'mlxone run --file "n') == ["notes.md"]
    assert in_fish(place, "mlxone run --file a\\\\ fol") == ["a folder/"]


@needs("fish")
def test_fish_leaves_files_to_fish(place):
    assert in_fish(place, "mlxone run --file n") == ["notes.md"]
    assert in_fish(place, "mlxone run --file=n") == ["--file=notes.md"]
    assert [line.split("\t")[0] for line in in_fish(place, "mlxone ls --model-dir ")] == ["a folder/"]
