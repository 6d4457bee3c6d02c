"""Processes that scan and list at once, each killed without warning: the registry stays right."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from mlxone.hub.registry import Registry
from tests.hub.shelves import afresh, repo, repo_folder, settle, without_times

KILLS, AT_ONCE = 20, 3
# Moves `main` about, so that every round has something to write; says so on its output.
CHILD = """
import random, sys
from mlxone.hub.registry import Registry
from tests.hub.shelves import repo_folder
draw = random.Random(int(sys.argv[1]))
while True:
    for _ in range(5):
        ref = repo_folder(f"org/m-{draw.randrange(12)}") / "refs" / "main"
        ref.write_text(draw.choice("ab") * 40)
    Registry().scan(full=draw.random() < 0.3)
    assert len(Registry().list()) == 12
    print(".", end="", flush=True)
"""


def start(seed: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", CHILD, str(seed)], stdout=subprocess.PIPE, cwd=root)


def test_processes_killed_at_random(home: Path, tmp_path: Path):
    for i in range(12):
        for commit in "ab":
            repo(f"org/m-{i}", commit * 40)
    draw = random.Random(7)
    running = [start(seed) for seed in range(AT_ONCE)]
    try:
        for kill in range(KILLS):
            child = running.pop(0)
            for _ in range(draw.randrange(1, 4)):
                assert child.stdout.read(1) == b"."  # it works, whatever the killed ones left behind
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
            registry = Registry()
            assert len(registry.list()) == 12
            assert registry.notices == []
            if kill < KILLS - AT_ONCE:
                running.append(start(AT_ONCE + kill))
    finally:
        for child in running:
            child.kill()
            child.wait()
            child.stdout.close()
    shutil.rmtree(repo_folder("org/m-3"))
    settle(home)
    registry = Registry()
    assert without_times(registry.list(all_revisions=True)) == afresh(tmp_path)
    assert registry.notices == []
    assert Registry().scan().read == 0
