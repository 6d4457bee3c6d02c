"""Writes small GGUF files for tests: any metadata, any tensors, and every way to lie about them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
SCALARS = {
    "u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"), "i32": (5, "<i"),
    "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q"), "i64": (11, "<q"), "f64": (12, "<d"),
}  # fmt: skip


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, item: Any) -> bytes:
    """`kind` is a scalar's name, "str", or "[kind]" for an array."""
    if kind.startswith("["):
        inner = kind[1:-1]
        body = b"".join(value(inner, i)[4:] for i in item)
        return struct.pack("<IIQ", 9, type_code(inner), len(item)) + body
    if kind == "str":
        return struct.pack("<I", 8) + text(item)
    code, fmt = SCALARS[kind]
    return struct.pack("<I", code) + struct.pack(fmt, item)


def type_code(kind: str) -> int:
    return 9 if kind.startswith("[") else 8 if kind == "str" else SCALARS[kind][0]


def tensor_info(name: str | bytes, shape: Sequence[int], kind: int, offset: int) -> bytes:
    dims = list(reversed(shape))  # GGUF writes the fastest dimension first
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(
    metadata: Mapping[str, tuple[str, Any]],
    tensors: Mapping[str, tuple[Sequence[int], int, bytes]],
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """The bytes of a whole file; tensors are name -> (shape, ggml type, data)."""
    head = MAGIC + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, (kind, item) in metadata.items():
        head += text(key) + value(kind, item)
    data = b""
    for name, (shape, code, raw) in tensors.items():
        head += tensor_info(name, shape, code, len(data))
        data += raw + bytes(-len(raw) % alignment)
    return head + bytes(-len(head) % alignment) + data


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# A whole small llama.

BYTE_TOKENS = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174 else "" for b in range(256)]
BYTE_TOKENS = [t or chr(256 + BYTE_TOKENS[:b].count("")) for b, t in enumerate(BYTE_TOKENS)]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]
TOKENS = [*CONTROL, *BYTE_TOKENS, *(m.replace(" ", "") for m in MERGES), "<tool>"]
TYPES = [3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL) - 1) + [4]
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD, LAYERS = 64, 4, 2, 16, 96, 2

LLAMA: dict[str, tuple[str, Any]] = {
    "general.architecture": ("str", "llama"),
    "llama.block_count": ("u32", LAYERS),
    "llama.embedding_length": ("u32", HIDDEN),
    "llama.feed_forward_length": ("u32", FEED_FORWARD),
    "llama.attention.head_count": ("u32", HEADS),
    "llama.attention.head_count_kv": ("u32", KV_HEADS),
    "llama.attention.layer_norm_rms_epsilon": ("f32", 1e-5),
    "llama.rope.freq_base": ("f32", 100000.0),
    "llama.rope.dimension_count": ("u32", HEAD_DIM),
    "llama.context_length": ("u32", 512),
    "tokenizer.ggml.model": ("str", "gpt2"),
    "tokenizer.ggml.pre": ("str", "smollm"),
    "tokenizer.ggml.tokens": ("[str]", TOKENS),
    "tokenizer.ggml.token_type": ("[i32]", TYPES),
    "tokenizer.ggml.merges": ("[str]", MERGES),
    "tokenizer.ggml.bos_token_id": ("u32", 1),
    "tokenizer.ggml.eos_token_id": ("u32", 2),
    "tokenizer.ggml.unknown_token_id": ("u32", 0),
    "tokenizer.ggml.padding_token_id": ("u32", 2),
    "tokenizer.ggml.add_bos_token": ("bool", False),
    "tokenizer.chat_template": ("str", "{% for m in messages %}{{ m.content }}{% endfor %}"),
}


def shapes(*, tied: bool = True) -> dict[str, tuple[int, ...]]:
    keys = KV_HEADS * HEAD_DIM
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for i in range(LAYERS):
        layer: dict[str, tuple[int, ...]] = {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (keys, HIDDEN),
            "attn_v": (keys, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (FEED_FORWARD, HIDDEN),
            "ffn_up": (FEED_FORWARD, HIDDEN),
            "ffn_down": (HIDDEN, FEED_FORWARD),
            "attn_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
        }
        found |= {f"blk.{i}.{part}.weight": shape for part, shape in layer.items()}
    return found if tied else found | {"output.weight": (len(TOKENS), HIDDEN)}
