"""A model folder to a decoder: every tensor named, shaped and accounted for.

Nothing is read but headers: arrays stay promises until the decoder's first use.
"""

from __future__ import annotations

from pathlib import Path

from mlxone.backend import cpu
from mlxone.backend.arrays import mx, on_cpu, on_stream
from mlxone.core.errors import DamagedModel
from mlxone.formats.config import Config
from mlxone.formats.packing import packed_bits, parameters
from mlxone.formats.safetensors import FLOATS
from mlxone.models.checkpoint import Checkpoint
from mlxone.models.decoder import Attention, Block, Decoder, FeedForward, Gate, silu_gate
from mlxone.models.families import spec_of
from mlxone.models.layers import (
    Joined,
    Linear,
    Norm,
    PackedEmbedding,
    PackedLinear,
    Parallel,
    PlainEmbedding,
    PlainLinear,
    join,
)
from mlxone.models.quantization import Packing, Quantization
from mlxone.models.rope import make_rope
from mlxone.models.spec import DecoderSpec

# Tensors that some checkpoints carry and no decoder needs: they follow from the config.
NOT_NEEDED = (".rotary_emb.inv_freq",)


def load_decoder(folder: Path, *, config: Config | None = None) -> Decoder:
    config = config or Config.read(folder)
    spec = spec_of(config)
    checkpoint = Checkpoint(folder)
    with on_stream():
        source = WeightSource(checkpoint, config)
        decoder = _build(spec, source)
    _check_leftovers(checkpoint, spec)
    return decoder


class WeightSource:
    """Hands out layers by path, in the form the machine computes best in."""

    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        self.checkpoint, self.quantization = checkpoint, Quantization(config)
        self.form: cpu.WeightForm = "stored"
        if on_cpu():
            self.form = cpu.weight_form(
                wide_bytes(checkpoint, config), cpu.available_memory(),
                has_blas=cpu.blas() is not None, chosen=cpu.mode(),
            )  # fmt: skip

    def vector(self, name: str, dims: int) -> mx.array:
        return self._take_float(name, (dims,))

    def norm(self, path: str, dims: int, eps: float) -> Norm:
        return Norm(self.vector(f"{path}.weight", dims), eps, path=path)

    def linear(
        self, path: str, in_dims: int, out_dims: int, *, bias: bool = False
    ) -> PlainLinear | PackedLinear:
        packing, arrays = self._matrix(path, in_dims, out_dims)
        shift = self.vector(f"{path}.bias", out_dims) if bias else None
        if packing is None or len(arrays) == 1:
            return PlainLinear(arrays[0], shift, path=path, bits=packing.bits if packing else None)
        biases = arrays[2] if packing.has_biases else None
        return PackedLinear(arrays[0], arrays[1], biases, packing, shift, path=path)

    def embedding(self, path: str, count: int, dims: int) -> PlainEmbedding | PackedEmbedding:
        packing, arrays = self._matrix(path, dims, count)
        if packing is None or len(arrays) == 1:
            return PlainEmbedding(arrays[0])
        return PackedEmbedding(arrays[0], arrays[1], arrays[2] if packing.has_biases else None, packing)

    def _matrix(self, path: str, in_dims: int, out_dims: int) -> tuple[Packing | None, list[mx.array]]:
        """How the checkpoint packs it, and the weight alone (plain there, or widened here) or packed
        weight, scales and (affine only) biases."""
        packing = self.quantization.packing(self.checkpoint, path, in_dims)
        if packing is None:
            return None, [self._take_float(f"{path}.weight", (out_dims, in_dims))]
        groups = (out_dims, in_dims // packing.group_size)
        weight = self.checkpoint.take(f"{path}.weight", (out_dims, in_dims * packing.bits // 32))
        rest = [self.checkpoint.take(f"{path}.scales", groups)]
        if packing.has_biases:
            rest.append(self.checkpoint.take(f"{path}.biases", groups))
        if self.form == "wide":
            return packing, [_dequantize(weight, rest, packing)]
        if self.form == "packed" and packing.has_biases:
            rest = [a.astype(mx.float32) for a in rest]
        return packing, [weight, *rest]

    def _take_float(self, name: str, shape: tuple[int, ...]) -> mx.array:
        array = self.checkpoint.take(name, shape)
        info = self.checkpoint.info(name)
        if info.dtype not in FLOATS:
            raise DamagedModel(
                f"{info.file}: tensor {name!r} has dtype {info.dtype}, and no scales beside it"
            )
        return array if self.form == "stored" else array.astype(mx.float32)


def wide_bytes(checkpoint: Checkpoint, config: Config) -> int:
    """What all weights would take as float32."""
    infos = [checkpoint.info(name) for name in checkpoint.names()]
    return 4 * sum(parameters(info, packed_bits(config, info, checkpoint.find)) for info in infos)


def _dequantize(weight: mx.array, rest: list[mx.array], packing: Packing) -> mx.array:
    wide = mx.dequantize(
        weight, rest[0].astype(mx.float32) if packing.has_biases else rest[0],
        rest[1].astype(mx.float32) if packing.has_biases else None,
        group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
    )  # fmt: skip
    return wide.astype(mx.float32)


def _build(spec: DecoderSpec, source: WeightSource) -> Decoder:
    embedding = source.embedding("model.embed_tokens", spec.vocab_size, spec.hidden_size)
    gate = _gate()
    blocks = [_block(spec, i, source, gate) for i in range(len(spec.layers))]
    norm = source.norm("model.norm", spec.hidden_size, spec.norm_eps)
    head = embedding.head() if spec.tied_head else source.linear("lm_head", spec.hidden_size, spec.vocab_size)
    return Decoder(spec, embedding, blocks, norm, head, source.form)


def _block(spec: DecoderSpec, index: int, source: WeightSource, gate: Gate) -> Block:
    path = f"model.layers.{index}"
    hidden = spec.hidden_size
    return Block(
        _attention(spec, index, source),
        source.norm(f"{path}.input_layernorm", hidden, spec.norm_eps),
        _feed_forward(spec, f"{path}.mlp", source, gate),
        source.norm(f"{path}.post_attention_layernorm", hidden, spec.norm_eps),
    )


def _attention(spec: DecoderSpec, index: int, source: WeightSource) -> Attention:
    path, rope = f"model.layers.{index}.self_attn", spec.layers[index].rope
    hidden, queries, keys = spec.hidden_size, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    qkv = [source.linear(f"{path}.{name}", hidden, out, bias=spec.qkv_bias) for name, out in sizes.items()]
    norms = None
    if spec.qk_norm:
        norms = (
            source.norm(f"{path}.q_norm", spec.head_dim, spec.norm_eps),
            source.norm(f"{path}.k_norm", spec.head_dim, spec.norm_eps),
        )
    out = source.linear(f"{path}.o_proj", queries, hidden, bias=spec.out_bias)
    return Attention(spec, _together(qkv), out, make_rope(rope) if rope else None, norms)


def _feed_forward(spec: DecoderSpec, path: str, source: WeightSource, gate: Gate) -> FeedForward:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    pair = [
        source.linear(f"{path}.{name}", hidden, inner, bias=spec.mlp_bias)
        for name in ("gate_proj", "up_proj")
    ]
    return FeedForward(
        _together(pair), source.linear(f"{path}.down_proj", inner, hidden, bias=spec.mlp_bias), gate
    )


def _together(parts: list[PlainLinear | PackedLinear]) -> Joined | Parallel:
    """Joined on a GPU, where fewer, larger products win and stay bit-equal; apart on the CPU."""
    linears: list[Linear] = list(parts)
    return Parallel(linears) if on_cpu() else join(linears)


def _gate() -> Gate:
    """Fused by MLX's compiler on a GPU. On the CPU that would call a C++ compiler at run time."""
    return silu_gate if on_cpu() else mx.compile(silu_gate, shapeless=True)


def _check_leftovers(checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    for name in checkpoint.leftover():
        if name.endswith(NOT_NEEDED) or (spec.tied_head and name.startswith("lm_head.")):
            checkpoint.skip(name)
    left = checkpoint.leftover()
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise DamagedModel(
            f"{checkpoint.folder}: unexpected tensor {left[0][:120]!r}{more}",
            hint=f"config.json describes a {spec.family} model without it",
        )
