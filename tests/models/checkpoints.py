"""Tiny checkpoints, good and damaged, and a process apart in which the damaged ones are tried.

Run as a program it is that process: a folder a line comes in, what became of it goes out.
"""

from __future__ import annotations

import json
import math
import resource
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import mx, on_cpu, on_stream
from mlxone.core.errors import MlxoneError
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder

ROOT = Path(__file__).parents[2]
WORKER_MEMORY = 4 * 2**30
WORKER_SECONDS = 60  # for one folder; only a hang takes this long

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 32}
BYTES_OF = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1, "I32": 4, "F64": 8, "C64": 8, "BOOL": 1}
Packer = Callable[[str], tuple[int, int, str] | None]  # a matrix's path to (group size, bits, mode)


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors that a config asks for, written down apart from the loader."""
    hidden, inner, heads = (config[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = config.get("head_dim", hidden // heads)
    keys = config.get("num_key_value_heads", heads) * head
    matrices = {"self_attn.q_proj": (heads * head, hidden), "self_attn.o_proj": (hidden, heads * head)}
    matrices |= dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (keys, hidden))
    matrices |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (inner, hidden))
    matrices |= {"mlp.down_proj": (hidden, inner)}
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in (f"model.layers.{i}" for i in range(config["num_hidden_layers"])):
        found |= {f"{layer}.{name}.weight": shape for name, shape in matrices.items()}
        found |= dict.fromkeys(
            (f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight"), (hidden,)
        )
        if config["model_type"] == "qwen3":
            found |= {f"{layer}.self_attn.{n}_norm.weight": (head,) for n in "qk"}
        if config["model_type"] == "qwen2":
            sizes = {"q": heads * head, "k": keys, "v": keys}
            found |= {f"{layer}.self_attn.{n}_proj.bias": (size,) for n, size in sizes.items()}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


def tensors(config: Mapping[str, Any], dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    mx.random.seed(3)
    with on_stream():
        return {
            name: (mx.random.normal(shape) * (shape[-1] ** -0.5 if len(shape) == 2 else 1)).astype(dtype)
            for name, shape in shapes(config).items()
        }


def packed(arrays: Mapping[str, mx.array], packer: Packer) -> dict[str, mx.array]:
    """The matrices that the packer wants, quantized by MLX; the rest as it was."""
    found = dict(arrays)
    for name in (n for n in arrays if arrays[n].ndim == 2):
        path = name.removesuffix(".weight")
        if (how := packer(path)) is None:
            continue
        group, bits, mode = how
        with on_stream():
            parts = mx.quantize(arrays[name], group_size=group, bits=bits, mode=mode)
        found |= zip((name, f"{path}.scales", f"{path}.biases"), parts, strict=False)
    return found


def save(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, mx.array], *, shards: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), dict(arrays))
        return folder
    index = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(arrays)}
    for file in set(index.values()):
        mx.save_safetensors(str(folder / file), {n: a for n, a in arrays.items() if index[n] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def entries(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, Any]:
    """A good header: the tensors one behind the other."""
    header, start = {}, 0
    for name, shape in shapes.items():
        end = start + math.prod(shape) * BYTES_OF[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    return header


def data_bytes(header: Mapping[str, Any]) -> int:
    return max((e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"), default=0)


def write_safetensors(path: Path, header: Any, *, data: int | None = None) -> Path:
    """The header as given (a value or raw bytes), then `data` bytes of nothing: a hole in the file."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with path.open("rb+") as file:
        file.truncate(8 + len(raw) + (data_bytes(header) if data is None else data))
    return path


@contextmanager
def refused(kind: type[MlxoneError], *names: str) -> Iterator[None]:
    """The block raises exactly this class, in one short line that holds every name."""
    try:
        yield
    except MlxoneError as error:
        line = str(error)
        assert type(error) is kind, repr(error)
        assert "\n" not in line and len(line) < 700, line
        assert [n for n in names if n not in line] == [], line
    else:
        raise AssertionError(f"nothing was raised, {kind.__name__} was expected")


def logits(model: Decoder | Path, ids: tuple[int, ...] = (1, 5, 9, 2, 7, 3)) -> mx.array:
    """Of a prompt read at once, but for its last token: both shapes of step are taken."""
    decoder = load_decoder(model) if isinstance(model, Path) else model
    state = decoder.new_state()
    with on_stream():
        parts = [
            decoder.logits(decoder.hidden(mx.array([part]), state)) for part in (list(ids[:-1]), [ids[-1]])
        ]
        whole = mx.concatenate(parts, axis=1)
        mx.eval(whole)
    return whole


class Worker:
    """Loads folders and takes a step in a process of its own, which a native crash may end."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def try_out(self, folder: Path) -> dict[str, Any]:
        process = self.process = self.process or self._started()
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], WORKER_SECONDS)
        line = process.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        why = f"ended with {process.wait()}" if ready else f"said nothing for {WORKER_SECONDS} seconds"
        self.close()
        raise AssertionError(f"the process that tried {folder} {why}")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            with suppress(BrokenPipeError):
                self.process.communicate()
            self.process = None

    @staticmethod
    def _started() -> subprocess.Popen[str]:
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.models.checkpoints"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def tried(folder: Path) -> dict[str, Any]:
    try:
        logits(folder)
    except Exception as error:  # noqa: BLE001 - the other process asks what it was
        return {"ours": isinstance(error, MlxoneError), "kind": type(error).__name__, "text": str(error)}
    return {"ours": True, "kind": "", "text": ""}


def limit_memory() -> None:
    """On the CPU; a GPU's driver maps far more addresses than it has memory."""
    if sys.platform == "linux" and on_cpu():
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY, WORKER_MEMORY))


if __name__ == "__main__":
    limit_memory()
    for line in sys.stdin:
        print(json.dumps(tried(Path(line.removesuffix("\n")))), flush=True)
