from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import mlxone
from mlxone.core.errors import StorageError, UsageError
from mlxone.hub import config, places, sources
from mlxone.hub.names import SHORT_NAMES, repo_of
from mlxone.hub.registry import Registry


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch):
    for name in ("MLXONE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/somebody")


def test_without_settings():
    assert places.home() == Path("/somebody/.cache/mlxone")
    assert places.starter_folder() == Path("/somebody/.cache/mlxone/starter")
    assert places.config_file() == Path("/somebody/.config/mlxone/config.toml")
    assert places.hf_cache() == Path("/somebody/.cache/huggingface/hub")


def test_the_environment_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLXONE_HOME", "~/elsewhere")
    assert places.home() == Path("/somebody/elsewhere")
    monkeypatch.setenv("MLXONE_HOME", "/again")
    assert places.starter_folder() == Path("/again/starter")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/conf")
    assert places.config_file() == Path("/conf/mlxone/config.toml")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("~", "/somebody"),
        ("~/a b/ü", "/somebody/a b/ü"),
        ("$HOME/x", "$HOME/x"),  # the launcher could not expand it
        ("~root/x", "~root/x"),
        ("/x/~/y", "/x/~/y"),
        ("", "/somebody/.cache/mlxone"),
    ],
)
def test_our_home_is_read_as_the_launcher_reads_it(
    value: str, expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLXONE_HOME", value)
    assert places.home() == Path(expected)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither HOME nor an entry in the password database; the place that is used then."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / f"mlxone-{os.geteuid()}"


def test_without_a_home_every_place_is_in_one_private_folder(nobody: Path, monkeypatch: pytest.MonkeyPatch):
    assert os.path.expanduser("~") == "~"  # what the library would make a folder of
    assert places.home() == nobody  # as the launcher has it
    assert places.config_file() == nobody / ".config/mlxone/config.toml"
    assert places.hf_cache() == nobody / ".cache/huggingface/hub"
    assert stat.S_IMODE(nobody.stat().st_mode) == 0o700
    for variable, place in (
        ("MLXONE_HOME", places.home),
        ("HF_HUB_CACHE", places.hf_cache),
    ):
        monkeypatch.setenv(variable, "~/x")
        assert place() == nobody / "x"
    found = {source.folder for source in sources.sources()}
    assert all(folder.is_absolute() and "~" not in str(folder) for folder in found)
    with Registry() as registry:
        registry.refresh()
    assert [path.name for path in nobody.parent.iterdir()] == [nobody.name]


def test_an_empty_home_is_none(nobody: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "")
    assert places.home() == nobody


def test_the_password_database_knows_a_home(nobody: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir="/known"))
    assert places.home() == Path("/known/.cache/mlxone")
    assert not nobody.exists()


def _by_others(place: Path) -> None:
    place.mkdir()
    place.chmod(0o755)  # whatever the umask says


@pytest.mark.parametrize(
    "occupy",
    [
        Path.touch,
        lambda place: place.symlink_to("elsewhere"),
        lambda place: place.symlink_to("."),
        _by_others,
    ],
    ids=["a file", "a dead link", "a link", "open to others"],
)
def test_a_folder_that_is_not_private_is_not_used(nobody: Path, occupy: Callable[[Path], None]):
    occupy(nobody)
    with pytest.raises(StorageError, match="is not a private folder of this user") as e:
        places.home()
    assert "MLXONE_HOME" in e.value.hint


def test_the_folder_of_somebody_else_is_not_used(nobody: Path, monkeypatch: pytest.MonkeyPatch):
    places.home()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    place = nobody.with_name(f"mlxone-{os.getuid() + 1}")
    nobody.rename(place)
    with pytest.raises(StorageError, match=str(place)):
        places.home()


def test_temporary_files_that_cannot_be_written(nobody: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", "/proc/nowhere")
    assert places.home() == Path(f"/proc/nowhere/{nobody.name}")  # who writes there will say it


def test_the_starter_of_the_program_lies_beside_the_package():
    assert places.bundled_starter() == Path(mlxone.__file__).parent.parent / "mlxone_starter"


def test_the_hub_cache_follows_the_hub_s_rules(monkeypatch: pytest.MonkeyPatch):
    for name, value, expected in (
        ("XDG_CACHE_HOME", "/xdg", "/xdg/huggingface/hub"),
        ("HF_HOME", "/hf", "/hf/hub"),
        ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
        ("HF_HUB_CACHE", "/new", "/new"),
    ):
        monkeypatch.setenv(name, value)
        assert places.hf_cache() == Path(expected)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    places.config_file().parent.mkdir()
    return places.config_file()


def test_no_config_is_an_empty_one(file: Path):
    assert config.load_config() == {}
    assert config.text_setting("model") is None


def test_a_config(file: Path):
    file.write_text('model = "org/m"\nmodel_dirs = []\n[serve]\nport = 1\n')
    assert config.load_config() == {"model": "org/m", "model_dirs": [], "serve": {"port": 1}}
    assert config.text_setting("model") == "org/m"


@pytest.mark.parametrize(
    ("content", "name", "hint"),
    [
        ('[server]\napi_key = "sk-1"\n', "server", "did you mean serve?"),
        ("[serv]\n", "serv", "did you mean serve?"),
        ('modle = "m"', "modle", "did you mean model?"),
        ("model-dirs = []", "model-dirs", "did you mean model_dirs?"),
        ('api_key = "sk-1"', "api_key", "what the server is set to stands under [serve]"),
        ("zzz = 1", "zzz", ""),
    ],
)
def test_a_name_that_nobody_reads_is_refused(file: Path, content: str, name: str, hint: str):
    file.write_text(content)
    with pytest.raises(UsageError) as e:
        config.text_setting("model")
    assert e.value.message == f"{file}: there is no {name!r}, only model, model_dirs and the table [serve]"
    assert e.value.hint == hint


@pytest.mark.parametrize("content", [b"model = ", b"= 3", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_damaged_config_is_named(file: Path, content: bytes):
    file.write_bytes(content)
    with pytest.raises(UsageError) as e:
        config.load_config()
    assert str(file) in e.value.message
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", ["model = 3", 'model = ""', 'model = ["a"]'])
def test_a_setting_of_the_wrong_kind_is_named(file: Path, content: str):
    file.write_text(content)
    with pytest.raises(UsageError, match="model must be a text"):
        config.text_setting("model")


def test_a_config_that_is_a_folder(file: Path):
    file.mkdir()
    with pytest.raises(StorageError, match="config.toml: cannot be read"):
        config.load_config()


def test_a_table_of_the_config(file: Path):
    assert config.table_setting("serve") == {}
    file.write_text('model = "m"\n[serve]\nport = 1\nkeys = ["a"]\n')
    assert config.table_setting("serve") == {"port": 1, "keys": ["a"]}
    with pytest.raises(
        UsageError, match=r"config\.toml: model must be a table, as under \[model\], not 'm'$"
    ):
        config.table_setting("model")


def test_short_names_are_lower_case_and_mean_repos():
    assert all(name == name.lower() and repo.count("/") == 1 for name, repo in SHORT_NAMES.items())
    for name, repo in SHORT_NAMES.items():
        family = name.partition(":")[0]
        if family == "smollm2":  # bare, it is the starter's own name
            continue
        assert family in SHORT_NAMES, f"{name} without a bare {family}"
        if name == family:
            assert repo in [r for n, r in SHORT_NAMES.items() if n.startswith(f"{family}:")]
    assert repo_of(" Gemma4:E4B ") == SHORT_NAMES["gemma4"]
    assert repo_of("gemma4:99b") is None
