"""A model folder's tensors by name: headers at once, each tensor's bytes when it is first used."""

from __future__ import annotations

from pathlib import Path

from mlxone.backend.arrays import mx
from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel, UnsupportedModel
from mlxone.formats.safetensors import LOADABLE, TensorInfo, damaged, read_header
from mlxone.formats.shards import shard_paths


class Checkpoint:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._infos: dict[str, TensorInfo] = {}
        for path in shard_paths(folder):
            self._infos.update(read_header(path))
        self._taken: set[str] = set()
        self._open: dict[Path, dict[str, mx.array]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def find(self, name: str) -> TensorInfo | None:
        return self._infos.get(name)

    def info(self, name: str) -> TensorInfo:
        try:
            return self._infos[name]
        except KeyError:
            raise DamagedModel(f"{self.folder}: tensor {name!r} is missing", hint=DOWNLOAD_AGAIN) from None

    def take(self, name: str, shape: tuple[int, ...]) -> mx.array:
        """The tensor, not yet read from disk. Taking is also how a name becomes expected."""
        info = self.info(name)
        if info.shape != shape:
            raise DamagedModel(
                f"{info.file}: tensor {name!r} has shape {list(info.shape)}, "
                f"config.json asks for {list(shape)}"
            )
        if info.dtype not in LOADABLE:
            raise UnsupportedModel(
                f"{info.file}: tensor {name!r} has dtype {info.dtype}, which MLX cannot load"
            )
        self._taken.add(name)
        return self._shard(info.file)[name]

    def _shard(self, path: Path) -> dict[str, mx.array]:
        if path not in self._open:
            # The Hub's cache names files by hash, so the format has to be said.
            try:
                arrays = mx.load(str(path), format="safetensors")
            except (RuntimeError, ValueError) as error:  # MLX reads a header more strictly than we do
                reason = str(error).partition("\n")[0][:120]
                raise damaged(path, f"MLX cannot load it: {reason}") from None
            assert isinstance(arrays, dict)
            self._open[path] = arrays
        return self._open[path]

    def skip(self, name: str) -> None:
        """Marks a tensor as known and not needed."""
        self._taken.add(name)

    def leftover(self) -> list[str]:
        return sorted(self._infos.keys() - self._taken)

    def names(self) -> list[str]:
        return list(self._infos)
