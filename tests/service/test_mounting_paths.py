"""Where adapters that clients mount may come from: under one folder, at whatever moment one looks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import AdapterMismatch, AdapterNotFound, NotPermitted, UsageError
from mlxone.service.adapters import AdapterManager
from mlxone.service.context import Context
from mlxone.service.mounting import folder_under
from tests.service.adapter_folders import write_adapter
from tests.service.clients import run, serving

pytestmark = pytest.mark.usefixtures("own_limits")


def test_paths_under_the_folder(tmp_path: Path):
    root = tmp_path / "root"
    (root / "runs" / "a").mkdir(parents=True)
    (root / "link").symlink_to(root / "runs" / "a")
    for path in ("runs/a", "./runs/../runs/a", "link", str(root / "runs" / "a"), "runs/a/"):
        assert folder_under(root, path) == root / "runs" / "a"
    (tmp_path / "door").symlink_to(root)
    assert folder_under(tmp_path / "door", "link") == root / "runs" / "a"


def test_paths_that_lead_elsewhere(tmp_path: Path):
    root, outside = tmp_path / "root", tmp_path / "root-but-not"
    for folder in (root / "a", outside):
        folder.mkdir(parents=True)
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    (outside / "weights").write_text("secret")
    (root / "a" / "adapters.safetensors").symlink_to(outside / "weights")
    for path in (
        "..",
        "../root-but-not",
        str(outside),
        "out",
        "up/root-but-not",
        "/",
        "/etc",
        "/no/such",
        "a",
    ):
        with pytest.raises(NotPermitted) as caught:
            folder_under(root, path)
        assert str(tmp_path) not in str(caught.value)  # nor whether it is there


def test_paths_to_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    for path in ("missing", "file", "loop", "file/more", "x" * 300, "\ud800"):
        with pytest.raises(AdapterNotFound) as caught:
            folder_under(tmp_path, path)
        assert caught.value.param == "path" and str(tmp_path) not in str(caught.value)
    for path in ("", "a\0b", "x" * 5_000):
        with pytest.raises(UsageError):
            folder_under(tmp_path, path)
    if os.geteuid():
        (tmp_path / "shut").mkdir(mode=0)
        with pytest.raises(AdapterNotFound):
            folder_under(tmp_path, "shut")


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_put_in_its_place_while_a_mount_is_on_its_way(
    folder: Path, shelf: Path, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
):
    """Neither between the first look and the reading nor while it is read does another folder get in."""
    read, found = AdapterManager.read, Context.found

    def swap() -> None:
        (shelf / "b").rename(tmp_path / "outside")
        (shelf / "b").symlink_to(tmp_path / "outside")

    async def finding(self: Context, name: str | None) -> Any:  # the first look has been
        swap()
        return await found(self, name)

    def reading(self: AdapterManager, *args: Any, **more: Any) -> Any:
        swap()
        return read(self, *args, **more)

    async def test() -> None:
        async with serving(folder, adapter_dir=shelf) as context:
            if when == "before":
                monkeypatch.setattr(Context, "found", finding)
            else:
                monkeypatch.setattr(AdapterManager, "read", reading)
            with pytest.raises(NotPermitted):
                await context.adapters.mount("b", "b")
            assert (shelf / "b").is_symlink() and context.mounted() == []

    run(test)


def test_what_a_client_is_told_names_no_place(folder: Path, shelf: Path, tmp_path: Path):
    root = tmp_path / "her own place"
    (root / "of runs").mkdir(parents=True)
    (tmp_path / "door").symlink_to(root)
    write_adapter(root / "of runs" / "wide", folder, widen=1)
    (root / "empty").mkdir()

    async def test() -> None:
        async with serving(folder, adapter_dir=tmp_path / "door") as context:
            for path, said in (
                ("of runs/wide", "of runs/wide: tensor "),
                (str(root / "of runs" / "wide"), "of runs/wide: tensor "),
                ("empty", "empty/adapter_config.json is missing"),
            ):
                with pytest.raises(AdapterMismatch) as caught:
                    await context.adapters.mount("x", path)
                assert str(caught.value).startswith(said) and "her own" not in str(caught.value)

    run(test)
