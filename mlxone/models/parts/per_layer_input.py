"""A small second embedding of each token for each layer, mixed in where the layer ends.

B: rows, L: new tokens, D: hidden size, N: layers, E: dimensions of the second embedding.
"""

from __future__ import annotations

from mlxone.backend.arrays import mx
from mlxone.models.layers import AnyNorm, Linear, PackedEmbedding, PlainEmbedding
from mlxone.models.parts.activations import Gate, gate_of
from mlxone.models.spec import DecoderSpec, PerLayerInputSpec
from mlxone.models.weights import WeightSource


class PerLayerInputs:
    """What all layers get of a pass, at once: from the ids, and from what the first layer gets."""

    __slots__ = ("embedding", "norm", "project", "scales", "shape")

    def __init__(
        self,
        spec: PerLayerInputSpec,
        model: DecoderSpec,
        embedding: PlainEmbedding | PackedEmbedding,
        project: Linear,
        norm: AnyNorm,
    ) -> None:
        self.embedding, self.project, self.norm = embedding, project, norm
        self.scales = spec.dims**0.5, model.hidden_size**-0.5, 2.0**-0.5
        self.shape = len(model.layers), spec.dims

    def __call__(self, ids: mx.array, x: mx.array) -> list[mx.array]:
        """[B, L], [B, L, D] to N of [B, L, E]."""
        of_ids, of_x, of_both = self.scales
        looked_up = mx.unflatten(self.embedding(ids) * of_ids, -1, self.shape)
        projected = self.norm(mx.unflatten(self.project(x) * of_x, -1, self.shape))
        mixed = (projected + looked_up) * of_both
        return [mixed[:, :, layer, :] for layer in range(self.shape[0])]

    def arrays(self) -> list[mx.array]:
        return [*self.embedding.arrays(), *self.project.arrays(), *self.norm.arrays()]


class PerLayerInput:
    """One layer's end: its share of the inputs, gated by what the layer computed."""

    __slots__ = ("gate", "gate_in", "norm", "project")

    def __init__(self, gate_in: Linear, project: Linear, norm: AnyNorm, gate: Gate) -> None:
        self.gate_in, self.project, self.norm, self.gate = gate_in, project, norm, gate

    def __call__(self, x: mx.array, own: mx.array) -> mx.array:
        return x + self.norm(self.project(self.gate(self.gate_in(x), own)))

    def arrays(self) -> list[mx.array]:
        return [*self.gate_in.arrays(), *self.project.arrays(), *self.norm.arrays()]


def build_inputs(spec: PerLayerInputSpec, model: DecoderSpec, source: WeightSource) -> PerLayerInputs:
    dims = len(model.layers) * spec.dims
    embedding = source.embedding(model.path("per_layer_embedding"), spec.vocab_size, dims)
    project = source.linear(model.path("per_layer_model_projection"), model.hidden_size, dims)
    norm = source.norm(model.path("per_layer_projection_norm"), spec.dims, model.norm)
    return PerLayerInputs(spec, model, embedding, project, norm)


def build(spec: PerLayerInputSpec, model: DecoderSpec, source: WeightSource, path: str) -> PerLayerInput:
    hidden = model.hidden_size
    return PerLayerInput(
        source.linear(f"{path}.per_layer_input_gate", hidden, spec.dims),
        source.linear(f"{path}.per_layer_projection", spec.dims, hidden),
        source.norm(f"{path}.post_per_layer_input_norm", hidden, model.norm),
        gate_of("gelu_approx"),
    )
