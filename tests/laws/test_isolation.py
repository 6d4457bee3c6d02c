"""No test touches the user's files or the network. (What makes it so is in tests/conftest.py.)"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PLACES = ("HOME", "MLXONE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "HF_HUB_CACHE")


def test_every_place_is_in_this_tests_home(home: Path, tmp_path: Path):
    assert all(Path(os.environ[name]).is_relative_to(home) for name in PLACES)
    assert Path.home() == home
    assert list(home.iterdir()) == list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("turn", [1, 2])
def test_what_a_test_leaves_in_the_environment_is_gone_after_it(turn: int):
    assert os.environ.get("MLXONE_MODEL") is None
    assert os.environ.get("NO_COLOR") is None
    assert os.environ.get("LEFT_BEHIND") is None
    os.environ.update(MLXONE_MODEL=str(turn), NO_COLOR="1", LEFT_BEHIND="1")


def test_child_processes_get_the_same_home(home: Path):
    code = "import pathlib; print(pathlib.Path.home())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(home)


def test_the_hub_client_is_offline():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE


def test_the_network_is_out_of_reach():
    with socket.socket() as outward, pytest.raises(OSError, match=r"tried to reach 192\.0\.2\.1"):
        outward.connect(("192.0.2.1", 80))  # an address set aside for examples


def test_this_machine_is_not():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        server.accept()[0].close()
