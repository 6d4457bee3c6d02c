"""`mlxone run` in this process: what reaches the model, and what comes out."""

from __future__ import annotations

import json
import sys

import pytest

from mlxone.core import errors
from mlxone.core.words import Message, Sampling


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def test_one_answer(mlxone, stage):
    result = mlxone("run", "scripted", "Capital of France?")
    assert (result.code, result.out, result.err) == (0, "Paris.\n", "")
    assert stage.loaded == [("scripted", None)]
    request = stage.asked[0]
    assert request.messages == user("Capital of France?")
    assert (request.text, request.max_tokens, request.stop, request.thinking) == (None, None, (), None)
    assert request.sampling == Sampling(temperature=0.7)
    assert stage.closed == 1


def test_what_the_model_computes_otherwise_is_said_once_and_beside_the_answer(mlxone, stage):
    stage.departures = ("sees all tokens where\x1b[2J others do not: differs",)
    result = mlxone("run", "scripted", "Hi")
    said = "mlxone: as in mlx-lm, scripted sees all tokens where\u241b[2J others do not: differs\n"
    assert (result.code, result.out, result.err) == (0, "Paris.\n", said)
    assert mlxone("run", "scripted", "Hi", "--quiet").err == ""
    in_json = mlxone("run", "scripted", "Hi", "--json")
    assert json.loads(in_json.out)["text"] == "Paris." and in_json.err == said


def test_the_default_model_answers_a_lone_prompt(mlxone, stage):
    mlxone("run", "hello there")
    assert stage.loaded == [("scripted", None)]
    assert stage.asked[0].messages == user("hello there")


def test_a_lone_model_reads_the_pipe(mlxone, stage):
    mlxone("run", "org/repo", stdin=b"hello\n")
    assert stage.loaded == [("org/repo", None)]
    assert stage.asked[0].messages == user("hello")


def test_the_pipe_follows_the_prompt_and_files_go_before(mlxone, stage, tmp_path):
    (tmp_path / "a").write_text("A\n")
    (tmp_path / "b").write_text("B")
    mlxone("run", "Sum:", "--file", f"{tmp_path}/a", "--file", f"{tmp_path}/b", stdin=b"piped\n")
    assert stage.asked[0].messages == user("A\n\nB\n\nSum:\n\npiped")


def test_a_file_alone_is_the_prompt(mlxone, stage, tmp_path):
    (tmp_path / "a").write_text("A")
    assert mlxone("run", "--file", f"{tmp_path}/a").code == 0
    assert stage.asked[0].messages == user("A")


def test_every_flag_arrives(mlxone, stage, tmp_path):
    line = (
        "--system Be-brief --ctx-size 100 --max-tokens 5 --temp 0.5 --top-p 0.9 --top-k 4 --min-p 0.1"
        " --seed 3 --repetition-penalty 1.1"
        " --presence-penalty 0.2 --frequency-penalty 0.3 --xtc-probability 0.4"
        " --xtc-threshold 0.2 --stop a --stop b --logit-bias 5=1 --logit-bias 6=-2 --thinking false"
        f" --prefill-step 16 --chat-template {tmp_path}/t --model m --prompt hi"
    )
    assert mlxone("run", *line.split()).code == 0
    request = stage.asked[0]
    assert request.messages == (Message("system", "Be-brief"), Message("user", "hi"))
    assert (request.context_size, request.max_tokens, request.prefill_step) == (100, 5, 16)
    assert (request.stop, request.thinking) == (("a", "b"), False)
    assert request.sampling == Sampling(
        temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, seed=3, repetition_penalty=1.1, presence_penalty=0.2,
        frequency_penalty=0.3, xtc_probability=0.4, xtc_threshold=0.2, logit_bias={5: 1.0, 6: -2.0},
    )  # fmt: skip
    assert stage.loaded == [("m", tmp_path / "t")]


def test_only_what_was_given_overrides_the_model(mlxone, stage):
    mlxone("run", "hi", "--top-p", "0")
    assert stage.flags == [{"top_p": 0.0}]


def test_raw(mlxone, stage):
    mlxone("run", "--raw", "Once upon")
    assert (stage.asked[0].text, stage.asked[0].messages) == ("Once upon", None)


def test_an_empty_system_message_is_sent(mlxone, stage):
    mlxone("run", "hi", "--system", "")
    assert stage.asked[0].messages == (Message("system", ""), *user("hi"))


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("a", "a\n"),
        ("a\n\n\n", "a\n"),
        ("\na\n\nb\n", "\na\n\nb\n"),
        ("", "\n"),
        ("\x1b[1m*x*", "\x1b[1m*x*\n"),
    ],
)
def test_piped_text_is_as_the_model_wrote_it_and_ends_in_one_newline(mlxone, stage, text, out):
    stage.answers = [text]
    assert mlxone("run", "hi").out == out


def test_json(mlxone, stage):
    stage.answers = ["Pa\n"]
    result = mlxone("run", "--json", "hi")
    found = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert result.err == ""
    stats = found.pop("stats")
    assert found == {"model": "scripted", "text": "Pa\n", "tokens": [0, 1, 2], "finish_reason": "stop"}
    assert (stats["prompt_tokens"], stats["decode_tps"]) == (7, 20.0)
    assert not {"cache_tokens", "finish_reason"} & set(stats)


def test_json_that_fails_prints_nothing(mlxone, stage):
    stage.answers = ["!too long"]
    result = mlxone("run", "--json", "hi")
    assert (result.code, result.out, result.err) == (7, "", "mlxone: too long (shorten it)\n")


def test_stats_go_to_stderr(mlxone):
    result = mlxone("run", "--stats", "hi")
    assert result.out == "Paris.\n"
    assert result.err == (
        "prompt 7 tokens, 100.0 tok/s · answer 3 tokens, 20.0 tok/s · peak memory 1.00 GB · ended by stop\n"
    )


def test_a_failure_in_the_middle_keeps_what_was_said_and_its_code(mlxone, stage, monkeypatch):
    def events():
        from mlxone.core.words import Failed, Token

        yield Token(0, 0, "half")
        yield Failed(errors.OutOfMemory("no memory"))

    monkeypatch.setattr(stage, "_events", lambda text: events())
    result = mlxone("run", "hi")
    assert (result.code, result.out, result.err) == (10, "half\n", "mlxone: no memory\n")


def test_ctrl_c_in_the_middle(mlxone, stage, monkeypatch):
    closed = []

    def events():
        from mlxone.core.words import Token

        try:
            yield Token(0, 0, "half")
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    monkeypatch.setattr(stage, "_events", lambda text: events())
    result = mlxone("run", "hi")
    assert (result.code, result.out, result.err, closed) == (130, "half\n", "", [True])


def test_an_answer_without_an_end_is_our_fault(mlxone, stage, monkeypatch):
    monkeypatch.setattr(stage, "_events", lambda text: iter(()))
    assert mlxone("run", "hi").code == 70


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), errors.DamagedModel("bad")])
def test_verbose_shows_the_traceback_and_nothing_else_does(mlxone, stage, error):
    stage.load_error = error
    quiet, verbose, before = (
        mlxone(*line.split()) for line in ("run hi", "run hi --verbose", "--verbose run hi")
    )
    assert quiet.err.count("\n") == 1
    for loud in (verbose, before):
        assert loud.err.startswith("Traceback")
        assert loud.err.endswith(quiet.err)
    assert quiet.code == verbose.code in (70, 6)


USAGE = [
    ("run", "no prompt (give one as an argument or on stdin; a chat needs a terminal)"),
    ("run --json", "no prompt"),
    ("run a b c", "3 words where MODEL and PROMPT are expected (put the prompt in quotes)"),
    ("run hi --top-p 2", "--top-p must be between 0 and 1, not 2.0"),
    ("run hi --temprature 1", "no such flag: --temprature (did you mean --temperature?)"),
    ("run hi --zzz", "no such flag: --zzz (`mlxone run --help` lists them)"),
    ("run -5", "no such flag: -5 (put -- before a prompt that begins with a dash)"),
    ("run hi --top-p", "--top-p needs a value"),
    ("run hi --json=1", "--json takes no value"),
    ("run hi --thinking maybe", "--thinking is true or false, not 'maybe'"),
    ("run hi --raw --system x", "--system has no effect with --raw (leave one of the two out)"),
    ("run hi --raw --thinking false", "--thinking has no effect with --raw"),
    ("run hi --stop=", "--stop needs a text, not an empty one"),
    ("run --prompt=", "the prompt is empty"),
    ("run hi --file /nowhere/x", "--file /nowhere/x: no such file"),
    ("run hi --logit-bias x", "--logit-bias takes ID=BIAS or a JSON object, not 'x'"),
    ("rnu hi", "no such verb: rnu (did you mean `mlxone run`?)"),
    ("frobnicate", "no such verb: frobnicate (`mlxone --help` lists the verbs)"),
    ("--zzz", "no such flag: --zzz"),
    ("get", "no model is named (give a path, ORG/REPO, short name or query)"),
]


@pytest.mark.parametrize(("line", "says"), USAGE)
def test_usage_errors_are_one_line_and_exit_2(mlxone, stage, line, says):
    result = mlxone(*line.split())
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"mlxone: {says}")
    assert result.err.count("\n") == 1
    assert stage.loaded == []


def test_a_prompt_in_the_verbs_place_is_understood(mlxone):
    assert 'mlxone run "' in mlxone("what is this?").err


def test_arguments_that_are_not_utf8(mlxone, stage):
    result = mlxone("run", "caf\udce9")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "UTF-8" in result.err


def test_a_prompt_after_two_dashes(mlxone, stage):
    mlxone("run", "--", "-5 + 3 = ?")
    assert stage.asked[0].messages == user("-5 + 3 = ?")


@pytest.mark.parametrize("line", ["", "--help", "run --help", "get -h", "--version"])
def test_help_goes_to_stdout(mlxone, line):
    result = mlxone(*line.split())
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("\n")


def test_bare_mlxone_shows_three_examples(mlxone):
    assert sum(" mlxone run" in line for line in mlxone().out.splitlines() if line.startswith("  ")) == 3


def test_a_stream_that_cannot_hold_a_character_does_not_end_the_answer(mlxone, stage, monkeypatch):
    import io

    stage.answers = ["né €"]
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding="ascii"))
    assert mlxone("run", "hi").code == 0
    assert mlxone("run", "--json", "hi").code == 0
    sys.stdout.flush()
    plain, as_json = held.getvalue().decode().splitlines()
    assert plain == "n? ?"
    assert json.loads(as_json)["text"] == "né €"
