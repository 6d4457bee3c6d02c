"""An adapter's folder as a value: what it changes, and that it fits a model, before anything is changed.

All of it is read into memory at once, so that what becomes of the files later does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import (
    AdapterMismatch,
    AdapterNotFound,
    DamagedModel,
    StorageError,
    UnsupportedModel,
)
from mlxone.formats.adapters import (
    CONFIG_FILE,
    OWN_SECTION,
    TENSOR_FILES,
    AdapterConfig,
    Format,
    Kind,
    Role,
    read_config,
    tensor_role,
)
from mlxone.formats.config import read_json
from mlxone.formats.safetensors import FLOATS, read_header
from mlxone.models.changed import leaves_of, norms_of
from mlxone.models.changes import Change, Changes, Dora, LowRank, Replaced
from mlxone.models.decoder import Decoder
from mlxone.models.layers import AnyNorm, Linear

# A part of the path of a text model inside one that sees or hears; one of the two may lack it.
INNER = "language_model"


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One tensor, in mlx-lm's orientation."""

    name: str  # in the file
    role: Role
    array: mx.array
    shape: tuple[int, ...]  # in the file


class Adapter:
    def __init__(self, folder: Path, config: AdapterConfig, pieces: Mapping[str, list[Piece]]) -> None:
        """`pieces` by the path that the adapter gives."""
        self.folder, self.config, self._pieces = folder, config, pieces

    @classmethod
    def read(cls, folder: str | Path) -> Adapter:
        folder = Path(folder)
        try:
            if not folder.is_dir():
                raise AdapterNotFound(f"{folder} is not a folder", hint="an adapter is a folder of two files")
            config = read_config(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
            with lock, on_stream():
                pieces = _pieces(_tensor_file(folder, config.format), config)
        except (DamagedModel, UnsupportedModel) as error:
            raise AdapterMismatch(error.message) from None
        except OSError as error:
            raise StorageError(f"{folder} cannot be read: {error.strerror or error}") from None
        return cls(folder, config, pieces)

    @property
    def kind(self) -> Kind:
        return self.config.kind

    @property
    def format(self) -> Format:
        return self.config.format

    @property
    def scale(self) -> float:
        return self.config.scale

    @property
    def rank(self) -> int:
        """The largest; 0 for a full fine-tuning."""
        return max((p.array.shape[1] for p in self._all() if p.role == "a"), default=0)

    @property
    def size_bytes(self) -> int:
        return sum(piece.array.nbytes for piece in self._all())

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._pieces)

    def changes(self, decoder: Decoder) -> Changes:
        """For `changed_decoder`. All of it fits, or the first tensor that does not is named."""
        places = self._places(decoder)
        with lock, on_stream():
            return {
                places[path][0]: (self._change(path, _by_role(pieces), decoder, places[path][1]),)
                for path, pieces in self._pieces.items()
            }

    def params(self, decoder: Decoder) -> dict[str, mx.array]:
        """To go on training from: float32, by mlx-lm's names, at `scale` and without padding."""
        places = self._places(decoder)
        found: dict[str, mx.array] = {}
        with lock, on_stream():
            for path, pieces in self._pieces.items():
                arrays = {role: p.array.astype(mx.float32) for role, p in _by_role(pieces).items()}
                if "b" in arrays:
                    rank = self.config.ranks.get(path)
                    arrays["a"], arrays["b"] = arrays["a"][:, :rank], arrays["b"][:rank] * self._share(path)
                names = {"a": "lora_a", "b": "lora_b"}
                found |= {f"{places[path][0]}.{names.get(role, role)}": a for role, a in arrays.items()}
        return found

    def _share(self, path: str) -> float:
        """What a second half has to carry where its linear has a scale of its own."""
        own = self.config.scale_of(path)
        if own == self.scale:
            return 1.0
        if not self.scale:
            raise AdapterMismatch(
                f"{self.folder}: with a scale of 0, and others for some linears, it cannot be trained on"
            )
        return own / self.scale

    def _all(self) -> Iterator[Piece]:
        return (piece for pieces in self._pieces.values() for piece in pieces)

    def _places(self, decoder: Decoder) -> dict[str, tuple[str, Linear | AnyNorm]]:
        """The model's own path and its part for each of the adapter's paths, every tensor checked."""
        parts: dict[str, Linear | AnyNorm] = {**leaves_of(decoder)}
        if self.kind == "full":
            parts |= norms_of(decoder)
        inner = _without_inner(parts)
        places: dict[str, tuple[str, Linear | AnyNorm]] = {}
        taken: set[str] = set()
        for path, pieces in self._pieces.items():
            own = path if path in parts else inner.get(_outer(path), "")
            if own not in parts or own in taken:
                raise self._misfit(pieces[0], f"the model has no linear {path[:120]!r} for it")
            taken.add(own)
            self._check(path, pieces, parts[own])
            places[path] = (own, parts[own])
        return places

    def _check(self, path: str, pieces: list[Piece], part: Linear | AnyNorm) -> None:
        for piece in pieces:
            shape = _expected(piece, part)
            if shape is None:
                raise self._misfit(piece, f"the model's {path} has no {piece.role}")
            if piece.array.shape != shape:
                wanted = shape[::-1] if self.format == "peft" else shape
                raise self._misfit(piece, f"the model needs {list(wanted)}")

    def _change(
        self, path: str, pieces: Mapping[Role, Piece], decoder: Decoder, part: Linear | AnyNorm
    ) -> Change:
        if self.kind == "full":
            dtype = _stored(part).dtype
            weight = pieces["weight"].array.astype(dtype) if "weight" in pieces else _stored(part)
            bias = pieces["bias"].array.astype(dtype) if "bias" in pieces else None
            return Replaced(weight, bias)
        a, b, scale = pieces["a"].array, pieces["b"].array, self.config.scale_of(path)
        return Dora(a, b, pieces["m"].array, scale) if self.kind == "dora" else LowRank(a, b, scale)

    def _misfit(self, piece: Piece, why: str) -> AdapterMismatch:
        return AdapterMismatch(
            f"{self.folder}: tensor {piece.name[:160]!r} of shape {list(piece.shape)} does not fit: {why}",
            hint="is this an adapter of another model?",
        )


def _stored(part: Linear | AnyNorm) -> mx.array:
    """As a checkpoint has it."""
    return part.stored if isinstance(part, AnyNorm) else part.dense()


def _expected(piece: Piece, part: Linear | AnyNorm) -> tuple[int, ...] | None:
    """None: the part has no such thing."""
    if isinstance(part, AnyNorm):
        return part.stored.shape if piece.role == "weight" else None
    rank = piece.array.shape[1 if piece.role == "a" else 0] if piece.array.ndim == 2 else -1
    shapes: dict[Role, tuple[int, ...]] = {
        "a": (part.in_dims, rank),
        "b": (rank, part.out_dims),
        "m": (part.out_dims,),
        "weight": (part.out_dims, part.in_dims),
        "bias": (part.out_dims,),
    }
    return None if piece.role == "bias" and part.bias is None else shapes[piece.role]


def _by_role(pieces: list[Piece]) -> dict[Role, Piece]:
    return {piece.role: piece for piece in pieces}


def _outer(path: str) -> str:
    return ".".join(word for word in path.split(".") if word != INNER)


def _without_inner(paths: Mapping[str, object]) -> dict[str, str]:
    return {_outer(path): path for path in paths}


def _tensor_file(folder: Path, form: Format) -> Path:
    file = folder / TENSOR_FILES[form]
    if not file.exists() and file.with_name("adapter_model.bin").exists():
        raise AdapterMismatch(
            f"{folder} holds adapter_model.bin, which is not read: loading it can run what is in it",
            hint="save the adapter with safe_serialization=True, as adapter_model.safetensors",
        )
    if not file.exists():
        raise AdapterMismatch(f"{file} is missing")
    return file


def _pieces(file: Path, config: AdapterConfig) -> dict[str, list[Piece]]:
    """By path; complete, of one rank each, and every number finite."""
    header = read_header(file)
    roles = {name: tensor_role(name, config) for name in header}
    for name, info in header.items():
        if info.dtype not in FLOATS:
            raise AdapterMismatch(f"{file}: tensor {name[:160]!r} has dtype {info.dtype}, not a float's")
    if not header:
        raise AdapterMismatch(f"{file} holds no tensors")
    arrays = _load(file, config)
    if arrays.keys() != header.keys():
        raise AdapterMismatch(f"{file} was written anew while it was read", hint="try again when it is whole")
    found: dict[str, list[Piece]] = {}
    for name, (path, role) in roles.items():
        array = arrays[name]
        turned = config.format == "peft" and role in ("a", "b")
        found.setdefault(path, []).append(Piece(name, role, array.T if turned else array, tuple(array.shape)))
    for path, pieces in found.items():
        _check_complete(file, path, pieces, config)
    return found


def _load(file: Path, config: AdapterConfig) -> dict[str, mx.array]:
    try:
        loaded = mx.load(str(file), format="safetensors", return_metadata=True)
        assert isinstance(loaded, tuple)
        arrays, metadata = loaded
        assert isinstance(arrays, dict)
        mx.eval(list(arrays.values()))
    except (RuntimeError, ValueError) as error:
        raise AdapterMismatch(f"{file} cannot be loaded: {str(error).partition(chr(10))[0][:120]}") from None
    _check_same_save(file, config, metadata.get(OWN_SECTION) if isinstance(metadata, dict) else None)
    finite = {name: mx.isfinite(array).all() for name, array in arrays.items()}
    mx.eval(list(finite.values()))
    for name, good in finite.items():
        if not good.item():
            raise AdapterMismatch(f"{file}: tensor {name[:160]!r} holds numbers that are not finite")
    return arrays


def _check_same_save(file: Path, config: AdapterConfig, noted: str | None) -> None:
    if noted is not None and noted != config.essentials:
        raise AdapterMismatch(
            f"{config.source} and {file.name} are of different saves",
            hint=f"the tensors were saved with {noted[:120]}",
        )


def _check_complete(file: Path, path: str, pieces: list[Piece], config: AdapterConfig) -> None:
    if config.kind == "full":
        return
    needed: dict[Role, str] = {"a": "first", "b": "second"}
    by_role = _by_role(pieces)
    if len(by_role) < len(pieces):
        names = " and ".join(
            repr(piece.name[:160]) for piece in pieces if by_role[piece.role].name != piece.name
        )
        raise AdapterMismatch(f"{file}: tensor {names} is there a second time, by another name")
    for role, half in needed.items():
        if role not in by_role:
            raise AdapterMismatch(f"{file}: {pieces[0].name[:160]!r} is there without the {half} of its pair")
    if ("m" in by_role) != (config.kind == "dora"):
        state = "a magnitude, which only DoRA has" if "m" in by_role else "no magnitude, which DoRA needs"
        raise AdapterMismatch(f"{file}: {path} has {state}; {config.source} says {config.kind}")
    ranks = [by_role["a"].array.shape[-1:], by_role["b"].array.shape[:1], (config.rank_of(path),)]
    a = by_role["a"]
    if a.array.ndim != 2 or by_role["b"].array.ndim != 2 or len(set(ranks)) > 1:
        raise AdapterMismatch(
            f"{file}: tensors {a.name[:160]!r} of shape {list(a.shape)} and {by_role['b'].name[:160]!r} of "
            f"shape {list(by_role['b'].shape)} are no pair of rank {config.rank_of(path)}"
        )
