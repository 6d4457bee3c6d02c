"""A spec and a source of weights to a decoder: each kind of part is built by its own module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mlxone.models.block import AnyBlock, Block, ParallelBlock
from mlxone.models.decoder import Decoder
from mlxone.models.layers import AnyNorm
from mlxone.models.parts import (
    attention,
    dense_and_experts,
    experts,
    feed_forward,
    gated_delta,
    latent,
    mamba2,
    per_layer_input,
    short_conv,
)
from mlxone.models.spec import (
    AttentionSpec,
    DecoderSpec,
    DenseAndExpertsSpec,
    DenseSpec,
    ExpertsSpec,
    GatedDeltaSpec,
    LatentSpec,
    LayerSpec,
    Mamba2Spec,
    ShortConvSpec,
)
from mlxone.models.weights import WeightSource

# What a spec describes: its role among the names, and how it is built.
PARTS: Mapping[type, tuple[str, Callable[..., Any]]] = {
    AttentionSpec: ("attention", attention.build),
    LatentSpec: ("latent", latent.build),
    GatedDeltaSpec: ("gated_delta", gated_delta.build),
    Mamba2Spec: ("mamba2", mamba2.build),
    ShortConvSpec: ("short_conv", short_conv.build),
    DenseSpec: ("dense", feed_forward.build),
    ExpertsSpec: ("experts", experts.build),
    DenseAndExpertsSpec: ("dense_and_experts", dense_and_experts.build),
}


def build_decoder(spec: DecoderSpec, source: WeightSource) -> Decoder:
    if spec.tied_head is None:
        spec = replace(spec, tied_head=f"{spec.path('head')}.weight" not in source)
    embedding = source.embedding(spec.path("embedding"), spec.vocab_size, spec.hidden_size)
    blocks = [_block(layer, spec, source, index) for index, layer in enumerate(spec.layers)]
    norm = source.norm(spec.path("final_norm"), spec.hidden_size, spec.norm)
    head = (
        embedding.head()
        if spec.tied_head
        else source.linear(spec.path("head"), spec.hidden_size, spec.vocab_size)
    )
    decoder = Decoder(spec, embedding, blocks, norm, head, source.form)
    if spec.per_layer_input is not None:
        decoder.per_layer_inputs = per_layer_input.build_inputs(spec.per_layer_input, spec, source)
    return decoder


def _block(layer: LayerSpec, spec: DecoderSpec, source: WeightSource, index: int) -> AnyBlock:
    path = spec.layer_path(index)
    mixer, fed = (_part(part, spec, source, path) for part in (layer.mixer, layer.feed_forward))
    norms = _norms(layer, spec, source, path)
    if spec.placement in ("parallel", "parallel_parts_first"):
        first = spec.placement == "parallel_parts_first"
        return ParallelBlock(mixer, fed, norms["mixer_norm"], parts_first=first)
    block = Block(
        mixer, fed, norms, residual_scale=spec.residual_scale, clipped=spec.clipped_residual
    )  # fmt: skip
    if spec.per_layer_input is not None:
        block.per_layer_input = per_layer_input.build(spec.per_layer_input, spec, source, path)
    if spec.layer_scale:
        block.factor = source.vector(f"{path}.{spec.name('layer_scale')}", 1)
    return block


def _part(part: Any, spec: DecoderSpec, source: WeightSource, layer: str) -> Any:
    if part is None:
        return None
    role, build = PARTS[type(part)]
    name = spec.name(role)
    return build(part, spec, source, f"{layer}.{name}" if name else layer)


def _norms(layer: LayerSpec, spec: DecoderSpec, source: WeightSource, path: str) -> dict[str, AnyNorm]:
    roles = []
    if spec.placement != "after":
        roles += ["mixer_norm"] if layer.mixer is not None else []
        own = layer.feed_forward is not None and not isinstance(layer.feed_forward, DenseAndExpertsSpec)
        roles += ["feed_forward_norm"] if own and not spec.placement.startswith("parallel") else []
    if spec.placement in ("after", "around"):
        roles += ["after_mixer_norm", "after_feed_forward_norm"]
    return {
        role: source.norm(f"{path}.{spec.name(role)}", spec.hidden_size, spec.norm) for role in roles
    }  # fmt: skip
