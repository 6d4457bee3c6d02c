"""The mixtures of experts of mlx-lm, small, each with the spec of ours that computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlxone.backend.arrays import mx  # before mlx.nn: it brings the BLAS

# isort: split
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models import (
    deepseek_v2,
    deepseek_v3,
    gemma4_text,
    glm4_moe,
    gpt_oss,
    granitemoe,
    granitemoehybrid,
    lfm2_moe,
    mixtral,
    nemotron_h,
    olmoe,
    qwen2_moe,
    qwen3_moe,
    qwen3_next,
)

from mlxone.formats.config import Config
from mlxone.models.checkpoint import Checkpoint
from mlxone.models.names import Placement
from mlxone.models.spec import (
    DecoderSpec,
    DenseAndExpertsSpec,
    DenseSpec,
    ExpertsSpec,
    NormSpec,
    RouterSpec,
)
from mlxone.models.weights import WeightSource

HIDDEN, INNER, SHARED, EXPERTS, CHOSEN = 64, 96, 32, 8, 3
LAYER = "model.layers.0"
KEPT_WIDE = ("e_score_correction_bias", "expert_bias")  # float32 in a bf16 checkpoint


class GraniteHybrid(nn.Module):
    """The two parts of a layer that lie beside each other."""

    def __init__(self, args: Any) -> None:
        super().__init__()
        self.block_sparse_moe = granitemoehybrid.GraniteMoeHybridMoE(args)
        self.shared_mlp = granitemoehybrid.GraniteMoeHybridSharedMLP(args)

    def __call__(self, x: mx.array) -> mx.array:
        return self.block_sparse_moe(x) + self.shared_mlp(x)


class Gemma4(nn.Module):
    """What a layer of Gemma 4 does behind its attention, before it adds it to what it began with."""

    def __init__(self, args: Any) -> None:
        super().__init__()
        self.mlp, self.router = gemma4_text.MLP(args), gemma4_text.Router(args)
        self.experts = gemma4_text.Experts(args)
        for name in ("pre_feedforward_layernorm", "pre_feedforward_layernorm_2",
                     "post_feedforward_layernorm_1", "post_feedforward_layernorm_2"):  # fmt: skip
            setattr(self, name, nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps))

    def __call__(self, x: mx.array) -> mx.array:
        dense = self.post_feedforward_layernorm_1(self.mlp(self.pre_feedforward_layernorm(x)))
        chosen = self.experts(self.pre_feedforward_layernorm_2(x), *self.router(x))
        return dense + self.post_feedforward_layernorm_2(chosen)


@dataclass(frozen=True)
class Mixture:
    theirs: Callable[[Any], nn.Module]
    spec: ExpertsSpec | DenseAndExpertsSpec
    args: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    path: str = f"{LAYER}.mlp"  # of our part
    their_path: str | None = None  # of their module, where it is another

    def module(self, dtype: mx.Dtype = mx.float32, *, seed: int = 0) -> nn.Module:
        common = {
            "hidden_size": HIDDEN, "intermediate_size": INNER, "moe_intermediate_size": INNER,
            "num_experts": EXPERTS, "num_local_experts": EXPERTS, "n_routed_experts": EXPERTS,
            "num_experts_per_tok": CHOSEN, "shared_expert_intermediate_size": SHARED,
            "shared_intermediate_size": SHARED, "norm_topk_prob": True, "n_shared_experts": None,
            "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "rms_norm_eps": 1e-6,
            "topk_method": "noaux_tc", "mlp_bias": False,
        }  # fmt: skip
        module = self.theirs(SimpleNamespace(**common | dict(self.args)))
        mx.random.seed(seed)

        def drawn(name: str, old: mx.array) -> mx.array:
            values = mx.random.normal(old.shape) * (0.3 if old.ndim == 1 else old.shape[-1] ** -0.5)
            return values if name.endswith(KEPT_WIDE) else values.astype(dtype)

        module.update(tree_map_with_path(drawn, module.parameters()))
        return module

    def model(self) -> DecoderSpec:
        norm = NormSpec(1e-6)
        placement: Placement = "around" if isinstance(self.spec, DenseAndExpertsSpec) else "before"
        return DecoderSpec(
            "some family", 96, HIDDEN, norm, (), tied_head=True, context_length=None, names=self.names,
            placement=placement,
        )  # fmt: skip

    def source(self, folder: Path, module: nn.Module) -> WeightSource:
        """What is left of the module once saved."""
        path = self.path if self.their_path is None else self.their_path
        parameters: Any = tree_flatten(module.parameters())
        weights = {f"{path}.{name}": array for name, array in parameters}
        mx.save_safetensors(str(folder / "model.safetensors"), weights)
        settings = {"quantization": {"group_size": 32, "bits": 4}}
        return WeightSource(Checkpoint(folder), Config(settings))


def router(scoring: Any, **more: Any) -> RouterSpec:
    return RouterSpec(EXPERTS, CHOSEN, scoring, **more)


def corrected(correction: str = "gate.e_score_correction_bias", **more: Any) -> RouterSpec:
    return router("sigmoid", correction=correction, lowest_first=True, normalised=True, **more)


GROUPS = {"n_group": 4, "topk_group": 2}
GROUPED: dict[str, Any] = {"groups": 4, "chosen_groups": 2}
SHARED_EXPERTS = {"shared": "shared_experts"}
FC = {"expert_up": "fc1", "expert_down": "fc2"}

MIXTURES: Mapping[str, Mixture] = {
    "mixtral": Mixture(
        mixtral.MixtralSparseMoeBlock, ExpertsSpec(router("chosen_softmax", lowest_first=True), INNER)
    ),
    "qwen3_moe": Mixture(
        qwen3_moe.Qwen3MoeSparseMoeBlock,
        ExpertsSpec(router("softmax", normalised=True), INNER, as_input=True),
    ),
    "qwen3_moe, scores as they are": Mixture(
        qwen3_moe.Qwen3MoeSparseMoeBlock,
        ExpertsSpec(router("softmax"), INNER, as_input=True),
        {"norm_topk_prob": False},
    ),
    "qwen2_moe": Mixture(
        qwen2_moe.Qwen2MoeSparseMoeBlock,
        ExpertsSpec(router("softmax", lowest_first=True), INNER, shared=DenseSpec(SHARED), shared_gate=True),
    ),
    "qwen3_next": Mixture(
        qwen3_next.Qwen3NextSparseMoeBlock,
        ExpertsSpec(router("softmax", normalised=True), INNER, shared=DenseSpec(SHARED), shared_gate=True),
    ),
    "olmoe": Mixture(
        olmoe.OlmoeSparseMoeBlock,
        ExpertsSpec(router("softmax", normalised=True, lowest_first=True), INNER, bias=True),
        {"mlp_bias": True},
    ),
    "gpt_oss": Mixture(
        gpt_oss.MLPBlock,
        ExpertsSpec(router("chosen_softmax", bias=True), INNER, "clipped_silu", bias=True),
        names={"router": "router", "stacked": "experts"},
    ),
    "granitemoe": Mixture(
        granitemoe.GraniteMoeMoE,
        ExpertsSpec(router("chosen_softmax", wide=True), INNER, as_input=True),
        names={"router": "router.layer"},
    ),
    "granitemoehybrid": Mixture(
        GraniteHybrid,
        ExpertsSpec(
            router("chosen_softmax"), INNER, shared=DenseSpec(SHARED, fused=True), shared_beside=True
        ),
        names={"router": "router.layer", "shared": "shared_mlp", "gate_up_proj": "input_linear",
               "down_proj": "output_linear"},
        path=f"{LAYER}.block_sparse_moe",
        their_path=LAYER,
    ),
    "deepseek_v2": Mixture(
        deepseek_v2.DeepseekV2MoE,
        ExpertsSpec(router("softmax", lowest_first=True, factor=2.5), INNER, shared=DenseSpec(2 * INNER)),
        {"topk_method": "greedy", "n_shared_experts": 2, "routed_scaling_factor": 2.5},
        SHARED_EXPERTS,
    ),
    "deepseek_v2, groups": Mixture(
        deepseek_v2.DeepseekV2MoE,
        ExpertsSpec(router("softmax", lowest_first=True, **GROUPED), INNER),
        {"topk_method": "group_limited_greedy", **GROUPS},
    ),
    "deepseek_v3": Mixture(
        deepseek_v3.DeepseekV3MoE,
        ExpertsSpec(corrected(factor=2.5, **GROUPED), INNER, shared=DenseSpec(INNER), as_input=True),
        {"n_shared_experts": 1, "routed_scaling_factor": 2.5, **GROUPS},
        SHARED_EXPERTS,
    ),
    "glm4_moe": Mixture(
        glm4_moe.MoE,
        ExpertsSpec(corrected(), INNER, shared=DenseSpec(INNER), as_input=True),
        {"n_shared_experts": 1},
        SHARED_EXPERTS,
    ),
    "nemotron_h": Mixture(
        nemotron_h.NemotronHMoE,
        ExpertsSpec(
            corrected(normal_eps=1e-20, factor=2.5), INNER, "relu2", gated=False, as_input=True,
            shared=DenseSpec(SHARED, "relu2", gated=False),
        ),
        {"n_shared_experts": 1, "moe_latent_size": None, "moe_shared_expert_intermediate_size": SHARED,
         "routed_scaling_factor": 2.5},
        SHARED_EXPERTS | FC,
    ),
    "nemotron_h, latent": Mixture(
        nemotron_h.NemotronHMoE,
        ExpertsSpec(
            corrected(normal_eps=1e-20), INNER, "relu2", gated=False, latent=32, latent_bias=True,
            as_input=True,
        ),
        {"moe_latent_size": 32, "mlp_bias": True},
        SHARED_EXPERTS | FC,
    ),
    "lfm2_moe": Mixture(
        lfm2_moe.Lfm2MoeSparseMoeBlock,
        ExpertsSpec(
            router("sigmoid", precise=False, correction="expert_bias", normalised=True, normal_eps=1e-6,
                   factor=1.5),
            INNER,
        ),
        {"use_expert_bias": True, "routed_scaling_factor": 1.5},
    ),
    "lfm2_moe, uncorrected": Mixture(
        lfm2_moe.Lfm2MoeSparseMoeBlock,
        ExpertsSpec(router("sigmoid", precise=False, normalised=True, normal_eps=1e-6), INNER),
        {"use_expert_bias": False},
    ),
    "gemma4": Mixture(
        Gemma4,
        DenseAndExpertsSpec(
            DenseSpec(INNER, "gelu_approx"),
            ExpertsSpec(
                router("chosen_softmax", precise=False, own_norm=NormSpec(1e-6)), INNER, "gelu_approx"
            ),
        ),
        {"num_hidden_layers": 2, "num_kv_shared_layers": 0, "use_double_wide_mlp": False,
         "top_k_experts": CHOSEN},
        {"router": "router", "stacked": "experts.switch_glu"},
        path=LAYER,
    ),
}  # fmt: skip
