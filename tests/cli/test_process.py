"""The command line as a process: what it imports, broken pipes, full disks, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "mlx",
    "huggingface_hub",
    "rich",
    "jinja2",
    "tokenizers",
    "numpy",
    "msgspec",
    "markdown_it",
    "readline",
    "h11",
}
ROOT = Path(__file__).parents[2]


def third_party(command: str) -> set[str]:
    """The packages from outside that the command makes Python load."""
    return {name.partition(".")[0] for name in modules(command)} - sys.stdlib_module_names


def modules(command: str) -> set[str]:
    code = f"""
import sys
before = set(sys.modules)
try:
    {command}
except SystemExit:
    pass
print("loaded:", *(set(sys.modules) - before), file=sys.stderr)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(child.stderr.split("loaded:")[1].split())


def test_the_library_imports_nothing_at_first():
    assert third_party("import mlxone") == {"mlxone"}


@pytest.mark.parametrize("args", [["--version"], ["--help"], []])
def test_version_and_help_import_click_only(args):
    assert third_party(f"from mlxone.cli.main import main; main({args})") == {"mlxone", "click"}


@pytest.mark.parametrize(
    "args",
    [
        *(["run", "--help"], ["get", "--help"], ["serve", "--help"], ["doctor", "--help"]),
        *(["run", "--nonsense"], ["rnu"], ["serve", "--port", "x"], ["serve", "--batch", "4"]),
    ],
)
def test_help_of_a_verb_and_usage_errors_import_nothing_heavy(args):
    assert third_party(f"from mlxone.cli.main import main; main({args})") & HEAVY == set()


@pytest.mark.parametrize(
    "args", [["--help"], ["ls"], ["show", "nothing"], ["run", "--help"], ["serve", "--help"]]
)
def test_only_a_server_loads_the_server(args):
    loaded = modules(f"from mlxone.cli.main import main; main({args})")
    assert [name for name in loaded if name.startswith(("mlxone.server", "mlxone.service.context"))] == []


def test_python_m_mlxone():
    child = subprocess.run(
        [sys.executable, "-m", "mlxone", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.startswith("mlxone ")


# From here on with the scripted model.

STAGED = [sys.executable, "-m", "tests.cli.stage"]


@pytest.fixture
def staged(tmp_path: Path):
    """Starts `mlxone` with a scripted model."""
    children = []

    def start(*args: str, script: dict | None = None, **how) -> subprocess.Popen[bytes]:
        path = tmp_path / "script.json"
        path.write_text(json.dumps(script or {}))
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        # Buffered, as users have it: what is only flushed at the end must not fail unseen.
        env = {**os.environ, "SCRIPT": str(path), "PYTHONUNBUFFERED": ""}
        children.append(subprocess.Popen([*STAGED, *args], env=env, cwd=ROOT, **how))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_a_reader_that_goes_away_is_no_error(staged):
    child = staged("run", "hi", script={"answers": ["word " * 40_000], "piece": 500})
    assert child.stdout.read(1) == b"w"
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait(30) == 141


def test_a_reader_that_went_away_before_the_first_word(staged):
    ours, theirs = os.pipe()
    os.close(ours)
    child = staged("--help", stdout=theirs)
    os.close(theirs)
    assert child.stderr.read() == b""
    assert child.wait(30) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("args", [["run", "hi"], ["run", "--json", "hi"], ["--help"]])
def test_a_full_disk_is_one_line(staged, args):
    with open("/dev/full", "wb") as full:
        child = staged(*args, stdout=full)
        error = child.stderr.read().decode()
    assert child.wait(30) == 9
    assert (
        error == "mlxone: cannot write the output: No space left on device (free some space and try again)\n"
    )


def test_ctrl_c_ends_a_run_with_130_and_a_newline(staged):
    child = staged("run", "hi", script={"answers": ["Well, …"]})
    assert child.stdout.read(6) == b"Well, "
    child.send_signal(signal.SIGINT)
    assert child.stdout.read() == b"\n"
    assert child.stderr.read() == b""
    assert child.wait(30) == 130


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_stream_closed_by_the_parent_is_no_crash(staged, stream):
    number = {"stdin": 0, "stdout": 1, "stderr": 2}[stream]
    child = staged("run", "hi", preexec_fn=lambda: os.close(number))
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0
    assert err == b""
    assert out == (b"" if stream == "stdout" else b"Paris.\n")


def test_an_error_with_no_stderr_to_say_it_on(staged):
    child = staged("rnu", preexec_fn=lambda: os.close(2))
    assert child.stdout.read() == b""
    assert child.wait(30) == 2


def test_nothing_on_stdin_and_no_prompt(staged):
    child = staged("run")
    assert b"no prompt" in child.stderr.read()
    assert child.wait(30) == 2
