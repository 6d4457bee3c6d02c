"""A run followed from elsewhere, while it writes, after it ended, and across being cut back by a resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlxone.cli import train_watch
from mlxone.cli.train_rows import ENTRY, Row, Tail, is_held, rows_to, saved, standing
from mlxone.cli.train_view import Lines, Silent
from mlxone.cli.train_watch import Run, follow
from mlxone.core.errors import TrainingFailed, UsageError
from mlxone.training import checkpoints
from mlxone.training.events import Validated
from mlxone.training.folder import METRICS, RUN, STATE, RunFolder
from mlxone.training.metrics import Metrics
from mlxone.training.standing import Standing
from mlxone.training.tensor_file import write_file
from tests.cli.test_train_progress import stepped

ROOT = Path(__file__).parents[2]


def metrics(folder: Path, first: int, last: int, *, step: int | None = None) -> Metrics:
    """Of a run from one step to another; `step` is where it went on from."""
    found = Metrics(folder / METRICS, step=step)
    for number in range(first, last + 1):
        found.stepped(stepped(number, 3 / number))
    return found


def state(folder: Path, step: int, steps: int) -> None:
    entry = json.dumps({"step": step, "history": {"steps": steps}})
    write_file(folder / STATE, [], {checkpoints.ENTRY: entry}, lambda slot: memoryview(b""))


def test_the_name_of_the_entry_is_theirs():
    assert ENTRY == checkpoints.ENTRY


# The file ------------------------------------------------------------------------------------


def test_lines_as_they_come_and_only_whole_ones(tmp_path):
    path = tmp_path / METRICS
    tail = Tail(path)
    assert tail.read() == (False, [])
    path.write_text('{"step": 1}\n{"st')
    assert tail.read() == (True, [{"step": 1}])
    assert tail.read() == (False, [])
    with path.open("a") as file:
        file.write('ep": 2}\n\nnot ours\n{"step": "x"}\n[1]\n{"step": 3}\n')
    assert tail.read() == (False, [{"step": 2}, {"step": 3}])


def test_byte_by_byte(tmp_path):
    path, text = tmp_path / METRICS, "".join(f'{{"step": {n}, "train_loss": 1.5}}\n' for n in range(5))
    tail, found = Tail(path), []
    for at in range(len(text)):
        with path.open("a") as file:
            file.write(text[at])
        found += tail.read()[1]
    assert [row["step"] for row in found] == [0, 1, 2, 3, 4]


def test_a_file_in_the_place_of_another_is_read_from_its_start(tmp_path):
    tail = Tail(tmp_path / METRICS)
    metrics(tmp_path, 1, 9).close()
    assert len(tail.read()[1]) == 9
    with_more = metrics(tmp_path, 5, 6, step=4)
    anew, rows = tail.read()
    assert anew and [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    with_more.stepped(stepped(7))
    assert [row["step"] for row in tail.read()[1]] == [7]
    with_more.close()


def test_a_file_that_was_cut_where_it_lies_is_read_from_its_start(tmp_path):
    path, tail = tmp_path / METRICS, Tail(tmp_path / METRICS)
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail.read()
    with path.open("r+") as file:
        file.truncate(12)
    assert tail.read() == (True, [{"step": 1}])


def test_what_was_measured_up_to_a_step(tmp_path):
    metrics(tmp_path, 1, 9).close()
    assert [row["step"] for row in rows_to(tmp_path, 4)] == [1, 2, 3, 4]
    assert rows_to(tmp_path / "none", 4) == []


def test_who_writes_is_known_by_the_lock(tmp_path):
    assert not is_held(tmp_path) and not is_held(tmp_path / "none")
    with RunFolder(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    assert is_held(tmp_path) is False
    with RunFolder(tmp_path):  # a look takes nothing away from a run that begins
        pass


@pytest.mark.parametrize("damage", [b"", b"\x08", b"\x10" + b"\0" * 7 + b"not json at all!"])
def test_a_state_that_cannot_be_read_says_nothing(tmp_path, damage):
    assert saved(tmp_path) is None
    (tmp_path / STATE).write_bytes(damage)
    assert saved(tmp_path) is None
    state(tmp_path, 20, 60)
    assert saved(tmp_path) == (20, 60)


# The run -------------------------------------------------------------------------------------


class Script:
    """What happens elsewhere while the follower sleeps."""

    def __init__(self, *acts) -> None:
        self.acts = list(acts)

    def __call__(self, seconds: float) -> None:
        assert self.acts, "it waits for something that will not come"
        self.acts.pop(0)()


def test_from_before_its_beginning_to_its_end_across_a_resume(tmp_path):
    folder = tmp_path / "adapters"
    held: list[RunFolder] = []
    opened: list[Metrics] = []

    def begin() -> None:
        held.append(RunFolder(folder))

    def work() -> None:
        opened.append(metrics(folder, 1, 5))
        opened[-1].validated(Validated(5, 1.0))
        state(folder, 4, 10)

    def cut_back() -> None:
        opened.append(metrics(folder, 5, 10, step=4))
        state(folder, 10, 10)

    def end() -> None:
        held[0].close()

    run = Run(folder)
    said: list[str] = []
    told: list[Row] = []
    follow(
        run, Lines(said.append), told.append, Script(lambda: None, begin, lambda: None, work, cut_back, end)
    )
    for one in opened:
        one.close()
    assert [row["step"] for row in told] == [1, 2, 3, 4, 5, 5, *range(1, 11)]
    assert (run.progress.step, run.progress.steps, run.progress.state) == (10, 10, "done")
    assert [step for step, _ in run.progress.train.points] == list(range(1, 11))
    assert said[-1] == "the run is over: done after step 10"
    assert said[0].startswith("step 5/10: loss 0.6000") and said[1].startswith("step 5/10: valid loss 1.0000")


def test_a_run_that_is_over(tmp_path):
    metrics(tmp_path, 1, 6).close()
    state(tmp_path, 6, 10)
    run = Run(tmp_path)
    follow(run, Silent(), sleep=Script())
    assert run.over and (run.progress.state, run.progress.step, run.progress.saved) == ("asked", 6, 6)


def ended(folder: Path, status: str) -> None:
    """As a run leaves it at step 6 of 10."""
    own = Standing(folder / RUN, 10)
    own.running(4)
    if status in ("done", "asked"):
        own.over(6, status)  # type: ignore[arg-type]
    elif status == "failed":
        own.broken(6, TrainingFailed("the loss of step 7 is\nno number"))


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("done", "done after step 6"),
        ("asked", "stopped after step 6"),
        ("failed", "failed after step 6: the loss of step 7 is no number"),
        ("killed", "killed after step 5: --resume goes on after step 4"),
    ],
)
def test_why_it_is_over_is_what_the_run_says(tmp_path, status, end):
    metrics(tmp_path, 1, 5).close()
    state(tmp_path, 4, 10)
    ended(tmp_path, status)
    said: list[str] = []
    run = Run(tmp_path)
    follow(run, Lines(said.append), sleep=Script())
    assert said[-1] == f"the run is over: {end}"
    assert run.progress.steps == 10


def test_a_run_that_was_killed_before_its_first_save_has_nothing_to_go_on_with(tmp_path):
    ended(tmp_path, "killed")
    said: list[str] = []
    follow(Run(tmp_path), Lines(said.append), sleep=Script())
    assert said[-1] == "the run is over: killed after step 4: nothing was saved"


def test_a_run_that_says_that_it_runs_is_not_over_while_it_is_held(tmp_path):
    with RunFolder(tmp_path):
        ended(tmp_path, "killed")
        run = Run(tmp_path)
        assert run.look() == [] and run.begun and not run.over
    run.look()
    assert run.over and run.progress.state == "killed"


def test_one_that_begins_during_the_look_is_not_taken_for_killed(tmp_path, monkeypatch):
    ended(tmp_path, "killed")
    looks = iter([False, True])
    monkeypatch.setattr(train_watch, "is_held", lambda folder: next(looks))
    run = Run(tmp_path)
    run.look()
    assert run.begun and not run.over


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "null",
        '{"status": "done", "step": Infinity, "steps": 1, "reason": ""}',
        '{"status": "done", "step": "x"}',
    ],
)
def test_a_standing_that_cannot_be_read_says_nothing(tmp_path, damage):
    assert standing(tmp_path) is None
    (tmp_path / RUN).write_text(damage)
    assert standing(tmp_path) is None


def test_how_long_it_will_take_is_told_by_what_was_seen(tmp_path):
    now = 0.0
    with RunFolder(tmp_path):
        lines = metrics(tmp_path, 1, 10)
        state(tmp_path, 1, 100)
        run = Run(tmp_path, clock=lambda: now)
        run.look()
        assert run.progress.eta_s is None
        now = 20.0
        for number in range(11, 21):
            lines.stepped(stepped(number))
        run.look()
        assert run.progress.eta_s == pytest.approx(160.0)
        lines.close()


# The verb ------------------------------------------------------------------------------------


def test_once(mlxone, tmp_path):
    metrics(tmp_path, 1, 6).close()
    state(tmp_path, 6, 10)
    result = mlxone("train-watch", str(tmp_path), "--once")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("step 6/10: loss 0.5000, lr 1.00e-04, 99 tok/s")
    found = mlxone("train-watch", str(tmp_path), "--once", "--json")
    assert [json.loads(line)["step"] for line in found.out.splitlines()] == [1, 2, 3, 4, 5, 6]


def test_once_before_anything_is_measured(mlxone, tmp_path):
    with RunFolder(tmp_path):
        ended(tmp_path, "running")
        found = mlxone("train-watch", "--once", str(tmp_path)).out
    assert found == f"running in {tmp_path}: no step is measured yet\n"


@pytest.mark.parametrize(
    ("name", "says"), [(300 * "x", "is not a folder"), ("~no-such-user/x", "there is no run in")]
)
def test_a_folder_that_cannot_be(mlxone, name, says):
    result = mlxone("train-watch", "--once", name)
    assert result.code == UsageError.exit_code and says in result.err


def test_once_says_why_it_is_over(mlxone, tmp_path):
    metrics(tmp_path, 1, 5).close()
    ended(tmp_path, "failed")
    found = mlxone("train-watch", str(tmp_path), "--once").out.splitlines()
    assert found[0].startswith("step 6/10: loss 0.6000")
    assert found[1] == "the run is over: failed after step 6: the loss of step 7 is no number"
    (tmp_path / METRICS).unlink()  # before the first report, there is nothing else to tell
    assert mlxone("train-watch", str(tmp_path), "--once").out.splitlines() == found[1:]


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_who_waits_is_told_for_what(mlxone, tmp_path, monkeypatch, args):
    monkeypatch.setattr(train_watch, "follow", lambda *args: None)
    assert mlxone("train-watch", str(tmp_path / "x"), *args).err == f"waiting for a run in {tmp_path / 'x'}\n"
    ended(tmp_path, "done")
    assert mlxone("train-watch", str(tmp_path), *args).err == ""


def test_following_prints_to_stdout_what_a_script_wants(mlxone, tmp_path):
    metrics(tmp_path, 1, 3).close()
    found = mlxone("train-watch", str(tmp_path), "--json")
    assert found.out == (tmp_path / METRICS).read_text() and found.err == ""
    plain = mlxone("train-watch", str(tmp_path))
    assert plain.out.splitlines() == [
        "step 3: loss 1.0000, lr 1.00e-04, 99 tok/s, memory 1.0 GB", "the run is over: stopped after step 3",
    ]  # fmt: skip


def test_the_usual_folder(mlxone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters").mkdir()
    metrics(tmp_path / "adapters", 1, 3).close()
    assert mlxone("train-watch", "--once").out.startswith("step 3: loss")


def test_where_there_is_no_run(mlxone, tmp_path):
    (tmp_path / "file").write_text("")
    for name, words in (("file", "is not a folder"), ("none", "there is no run in")):
        result = mlxone("train-watch", "--once", str(tmp_path / name))
        assert result.code == UsageError.exit_code and words in result.err and result.out == ""


def test_it_needs_no_array_library(tmp_path):
    metrics(tmp_path, 1, 3).close()
    code = (
        "import sys\nfrom mlxone.cli.main import main\nmain(['train-watch', sys.argv[1], '--once'])\n"
        "sys.exit(bool({'mlx', 'numpy', 'huggingface_hub', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
