"""What could stand at the cursor: every verb, flag and choice of the table, and nothing that is hidden."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from mlxone.cli import completing
from mlxone.cli.completing import FILES, FOLDERS, PLAIN, complete
from mlxone.cli.completion_scripts import SCRIPTS
from mlxone.cli.group import HIDDEN, VERBS, group
from mlxone.cli.later_flags import LATER
from mlxone.core.settings import SERVE_SETTINGS, SETTINGS
from mlxone.core.train_settings import TRAIN_SETTINGS
from mlxone.hub.names import SHORT_NAMES
from mlxone.hub.registry import Registry
from tests.cli.shelf import cached


def texts(*words: str) -> list[str]:
    return list(complete(words).candidates)


def options(verb: str) -> list[click.Option]:
    command = group.get_command(click.Context(group), verb)
    assert command
    context = click.Context(command, help_option_names=["-h", "--help"])
    return [param for param in command.get_params(context) if isinstance(param, click.Option)]


def test_every_verb_with_its_summary():
    assert complete([""]).candidates == {name: verb.summary for name, verb in VERBS.items()}
    assert complete([]) == complete([""])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_by_its_beginning(verb):
    assert verb in texts(verb[:2]) and texts(verb) == [name for name in VERBS if name.startswith(verb)]


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_of_every_verb(verb):
    spelled = {name for option in options(verb) for name in option.opts}
    assert set(texts(verb, "--")) == {name for name in spelled if name.startswith("--")}
    assert set(texts(verb, "-")) == set(texts(verb, "--"))
    for name in spelled:
        assert name in texts(verb, name)


@pytest.mark.parametrize("verb", VERBS)
def test_every_value_of_every_flag(verb):
    """Each kind of value is completed by what it is, in both ways to write it."""
    for option in options(verb):
        if option.is_flag:
            assert complete([verb, f"{option.opts[0]}=", ""]) == complete([verb, ""])
            continue
        found = complete([verb, option.opts[0], ""])
        joined = complete([verb, f"{option.opts[0]}="])
        assert joined.kind == found.kind
        assert list(joined.candidates) == [f"{option.opts[0]}={text}" for text in found.candidates]
        places = {"FILE": FILES, "PATH": FILES, "DIR": FOLDERS, "[NAME=]DIR": FOLDERS}
        expected = places.get(option.metavar, PLAIN)
        assert found.kind == expected
        if isinstance(option.type, click.Choice):
            assert list(found.candidates) == list(option.type.choices)
        if option.metavar == "MODEL":
            assert "starter" in found.candidates


@pytest.mark.parametrize("setting", [s for s in TRAIN_SETTINGS if s.choices], ids=lambda s: s.name)
def test_every_choice_of_training(setting):
    for name in (setting.flag, *setting.aliases):
        assert texts("train", name, "") == list(setting.choices)


def test_data_and_adapters_are_places():
    assert complete(["train", "--data", ""]).kind == complete(["train", "--inspect", ""]).kind == FILES
    assert complete(["train", "--adapter-path", ""]).kind == complete(["train-watch", ""]).kind == FOLDERS
    for verb in ("fuse", "eval", "perplexity"):
        assert complete([verb, "--adapter", ""]).kind == FOLDERS
        assert "starter" in texts(verb, "")


@pytest.mark.parametrize(
    "setting", [s for s in (*SETTINGS, *SERVE_SETTINGS) if s.choices], ids=lambda s: s.name
)
def test_every_choice_of_the_settings_table(setting):
    assert texts("serve", setting.flag, "") == list(setting.choices)
    assert texts("serve", setting.flag, setting.choices[0]) == [setting.choices[0]]


def test_a_truth_is_one_of_two():
    assert texts("run", "--thinking", "") == ["true", "false"]
    assert texts("serve", "--thinking=f") == ["--thinking=false"]


def test_the_flags_of_the_program_itself():
    assert {"--help", "--version", "--verbose"} <= set(texts("--"))
    assert texts("-h") == ["-h"]
    assert "serve" in texts("--verbose", "")


def test_what_is_hidden_or_to_come_never_shows():
    hidden = {*HIDDEN, *LATER} - {name for option in options("fit") for name in option.opts}
    shown = {*texts(""), *texts("--"), *(text for verb in VERBS for text in texts(verb, "--"))}
    assert hidden and shown & hidden == set()
    for verb in HIDDEN:
        assert complete([verb[:3]]).candidates == complete([verb, "--"]).candidates == {}
    assert texts("serve", next(iter(LATER))) == []


def test_a_flag_is_not_offered_twice_unless_it_may_be_repeated():
    assert "--json" not in texts("ls", "--json", "--")
    assert "--temp" not in texts("run", "--temperature", "1", "--")
    assert "--model-dir" in texts("ls", "--model-dir", "x", "--")


def test_what_follows_a_flag_is_its_value_whatever_it_looks_like():
    assert texts("run", "--system", "--js") == []
    assert texts("run", "--system", "--json", "--js") == ["--json"]
    assert texts("run", "--system=x", "--js") == ["--json"]


def test_behind_two_dashes_there_are_only_words():
    assert texts("run", "--", "--js") == []
    assert "starter" in texts("run", "--", "")


@pytest.mark.parametrize("verb", ["run", "serve", "get", "ls", "show", "fit", "rm"])
def test_the_models_of_this_machine(verb):
    cached("org/tiny", "Qwen3.5-4B")
    Registry().scan()
    assert {"org/tiny", "starter"} <= set(texts(verb, ""))
    assert texts(verb, "org/t") == ["org/tiny"]


def test_only_the_first_word_is_the_model():
    assert texts("run", "starter", "") == texts("serve", "starter", "") == texts("rm", "starter", "") == []
    assert texts("run", "--model", "starter", "") == texts("run", "--model=starter", "") == []
    assert "starter" in texts("ls", "org", "")  # as many words as one likes


def test_words_that_nobody_can_guess():
    assert texts("search", "") == texts("run", "--prompt", "") == texts("serve", "--port", "") == []


@pytest.mark.parametrize("verb", ["get", "fit"])
def test_models_that_are_not_here_yet_by_their_short_names(verb):
    assert set(SHORT_NAMES) <= set(texts(verb, ""))
    assert complete([verb, "gemma4:12b"]).candidates == {"gemma4:12b": SHORT_NAMES["gemma4:12b"]}


@pytest.mark.parametrize("word", ["./", "/tmp/m", "~/models", "no-such-model"])
def test_a_model_that_is_no_name_may_be_a_path(word):
    assert complete(["run", word]) == completing.Answer(kind=FILES)


def test_the_shells():
    assert texts("completion", "") == list(SCRIPTS)
    assert texts("completion", "bash", "") == []


@pytest.mark.parametrize(
    "words", [["nonsense", "--x"], ["serve", "--nonsense=", "-"], ["--nonsense", "x", ""]]
)
def test_a_line_that_is_wrong_is_no_error(words):
    assert complete(words).kind == PLAIN


def asked(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlxone", *words]
    how = {**os.environ, "_MLXONE_COMPLETE": "bash", **environ}
    return subprocess.run(command, capture_output=True, text=True, env=how, timeout=60, check=False)


def test_the_answer_is_the_kind_and_a_line_for_each():
    done = asked("gc", "--y")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "plain\n--yes\tDelete; without it only the plan is shown.\n"


def test_a_model_costs_no_heavy_import():
    code = (
        "import sys; from mlxone.cli.main import main; main(['run', '']);"
        "heavy = {'mlx', 'rich', 'huggingface_hub', 'tokenizers', 'jinja2', 'asyncio', 'h11', 'msgspec'};"
        "sys.exit(', '.join(heavy & {name.partition('.')[0] for name in sys.modules}) or 0)"
    )
    environ = {**os.environ, "_MLXONE_COMPLETE": "zsh"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "plain\nstarter\t\n")


@pytest.mark.parametrize("trouble", [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_goes_wrong_nobody_sees_it(trouble, monkeypatch, mlxone):
    def fail(words):
        raise trouble

    monkeypatch.setattr(completing, "complete", fail)
    monkeypatch.setenv("_MLXONE_COMPLETE", "bash")
    result = mlxone("se")
    assert (result.code, result.out, result.err) == (1, "", "")


def test_a_reader_that_went_away_is_no_complaint():
    script = f"{sys.executable} -m mlxone run '' | true; exit ${{PIPESTATUS[0]}}"
    environ = {**os.environ, "_MLXONE_COMPLETE": "bash"}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert done.stderr == ""


def test_a_name_that_would_break_the_lines_is_left_out(monkeypatch, mlxone):
    monkeypatch.setattr(
        completing, "complete", lambda words: completing.Answer({"a\tb": "", "c\nd": "", "e": "two\nlines"})
    )
    monkeypatch.setenv("_MLXONE_COMPLETE", "bash")
    assert mlxone("").out == "plain\ne\ttwo lines\n"
