"""What every test gets: a throw-away home, no way out to the network, and the starter if it asks.

The environment is made harmless when this file is imported, so that wider fixtures and modules that
read it once are covered too; each test then gets a fresh home of its own.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# First of all that touches MLX, oracles included: it settles the BLAS, by MLXONE_CPU as it was given.
import mlxone.backend.arrays  # noqa: F401

# Runs under load, on two cores: a deadline would fail by chance, and so would drawing at random.
settings.register_profile("test", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=5_000, print_blob=True)
settings.load_profile("test")

STARTER_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_REAL_STARTER = "STARTER_FOR_TESTS"  # survives into pytest's worker processes, which see the cleared rest


def _remember_starter() -> None:
    """Where the user's starter is, by the environment as it was before any clearing."""
    home = os.environ.get("MLXONE_HOME") or Path.home() / ".cache" / "mlxone"
    os.environ.setdefault(_REAL_STARTER, str(Path(home, "starter").absolute()))


def _throw_away(home: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "MLXONE_HOME": str(home / "mlxone"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local" / "share"),
        "XDG_STATE_HOME": str(home / ".local" / "state"),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_CACHE": str(home / "huggingface" / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _is_personal(name: str) -> bool:
    """Variables that would let a developer's own settings decide a test.

    MLXONE_BINARY is no setting: it names the program that the process tests start.
    """
    prefixes = ("MLXONE_", "HF_", "HUGGING", "TRANSFORMERS_", "XDG_", "SSL_CERT_", "REQUESTS_CA")
    return (
        (name.startswith(prefixes) and name != "MLXONE_BINARY")
        or name.upper().endswith("_PROXY")
        or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    )


def _isolate(home: Path) -> None:
    for name in filter(_is_personal, list(os.environ)):
        del os.environ[name]
    os.environ.update(_throw_away(home))


_remember_starter()
_SESSION_HOME = tempfile.TemporaryDirectory(prefix="mlxone-tests-", ignore_cleanup_errors=True)
_isolate(Path(_SESSION_HOME.name))


def pytest_unconfigure() -> None:
    _SESSION_HOME.cleanup()


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh home, beside `tmp_path` and not in it; the environment is put back afterwards."""
    before = dict(os.environ)
    place = tmp_path_factory.mktemp("home")
    _isolate(place)
    yield place
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def home(_own_home: Path) -> Path:
    """The home this test was given. Apart from the one above: a test may override this name."""
    return _own_home


@pytest.fixture(autouse=True, scope="session")
def _stay_on_this_machine() -> Iterator[None]:
    """A test that reaches for the network fails here, not on the day the network is away."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if inet and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def starter_folder() -> Path:
    """The real starter. Missing is a failure and not a skip: the proofs stand on it."""
    folder = Path(os.environ[_REAL_STARTER])
    missing = [name for name in STARTER_FILES if not (folder / name).is_file()]
    if missing:
        pytest.fail(f"no {missing[0]} in {folder}: run `make starter` first", pytrace=False)
    return folder


@pytest.fixture
def starter_home(home: Path, starter_folder: Path) -> Path:
    """This test's MLXONE_HOME, with the real starter in it."""
    place = Path(os.environ["MLXONE_HOME"])
    place.mkdir()
    (place / "starter").symlink_to(starter_folder)
    return place
