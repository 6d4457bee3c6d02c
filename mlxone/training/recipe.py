"""What is learned and how: the options of a run, checked, with the defaults that depend on one another.

A run keeps its recipe beside its weights, and going on asks for the same. The fields are the rows of
`core.train_settings.RECIPE_SETTINGS`, by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.settings import Setting, check_value
from mlxone.core.train_settings import EPOCHS, LEARNING_RATES, RECIPE_SETTINGS, WEIGHT_DECAY
from mlxone.training.schedule import Schedule

DECAYS = frozenset(("adamw", "muon", "adafactor", "sgd"))  # the optimizers that know weight decay
CORRECTS = frozenset(("adamw", "adam"))
LEAST_RANK = 2
FULL_BITS = 4  # at so many bits `by_bits` leaves the rank as it is
ONLY_LOW_RANK = ("rank", "scale", "dropout", "rs_lora", "lora_plus", "rank_scaling")

# What may be otherwise when a run goes on: no number of its training depends on it.
FREE = frozenset(
    ("iters", "epochs", "eval_every", "val_batches", "save_every", "steps_per_report")
    + ("sample_every", "sample_prompt", "test", "test_batches", "mask_prompt")
)


@dataclass(frozen=True, slots=True)
class Recipe:
    method: str = "sft"
    type: str = "lora"
    rank: int = 8
    scale: float = 2.0
    dropout: float = 0.0
    rs_lora: bool = False
    lora_plus: float = 1.0
    target_modules: tuple[str, ...] | None = None
    layers: int = -1
    rank_scaling: str = "constant"
    start_from: str | None = None
    iters: int | None = None
    epochs: float | None = None
    batch: int = 4
    grad_accum: int = 1
    lr: float | None = None
    schedule: str = "constant"
    lr_end: float = 0.0
    decay_steps: int | None = None
    warmup: int = 0
    warmup_start: float = 0.0
    weight_decay: float | None = None
    grad_clip: float = 0.0
    optimizer: str = "adamw"
    bias_correction: bool | None = None
    seed: int = 0
    max_seq_length: int = 2048
    val_size: float | None = None
    sft_scope: str = "full"
    mask_prompt: bool = False
    dpo_beta: float = 0.1
    orpo_lambda: float = 0.1
    pack: bool = False
    grad_checkpoint: bool = False
    checkpoint_every: int | None = None
    eval_every: int = 200
    val_batches: int = 25
    save_every: int = 100
    steps_per_report: int = 1
    sample_every: int = 0
    sample_prompt: str | None = None
    test: bool = False
    test_batches: int = -1

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Recipe:
        """Checked by name, kind and range; None is as good as not given."""
        values = _values(options)
        recipe = cls(**values)
        recipe._check_together({name for name in values if options.get(name) is not None})
        return recipe

    def _check_together(self, given: set[str]) -> None:
        if self.iters is not None and self.epochs is not None:
            raise UsageError("iters and epochs contradict each other", hint="give one of the two")
        if self.type == "full":
            _none_of(given, ONLY_LOW_RANK, "with type full there is nothing that low-rank")
        if self.method == "sft":
            _none_of(given, ("dpo_beta", "orpo_lambda"), "method sft has no use for")
        else:
            _none_of(given, ("sft_scope", "mask_prompt", "pack"), f"method {self.method} has no use for")
            other = "orpo_lambda" if self.method == "dpo" else "dpo_beta"
            _none_of(given, (other,), f"method {self.method} has no use for")
        if self.weight_decay and self.optimizer not in DECAYS:
            raise UsageError(f"{self.optimizer} has no weight_decay", hint="adamw has", param="weight_decay")
        if self.bias_correction is not None and self.optimizer not in CORRECTS:
            raise UsageError(f"{self.optimizer} has no bias_correction", param="bias_correction")
        if self.schedule == "constant":
            _none_of(given, ("lr_end", "decay_steps"), "the constant schedule has no use for")
        if not self.warmup:
            _none_of(given, ("warmup_start",), "without warmup there is no use for")
        if not self.sample_every:
            _none_of(given, ("sample_prompt",), "without sample_every there is no use for")
        for name in ("layers", "val_batches", "test_batches"):
            if getattr(self, name) == 0:
                raise UsageError(f"{name} must be at least 1, or -1 for all, not 0", param=name)

    # What follows from it ---------------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        return LEARNING_RATES[self.method] if self.lr is None else self.lr

    @property
    def decay(self) -> float:
        if self.weight_decay is not None:
            return self.weight_decay
        return WEIGHT_DECAY if self.optimizer in ("adamw", "muon") else 0.0

    @property
    def corrects_bias(self) -> bool:
        """As AdamW was published and is used elsewhere; `adam` is what mlx_lm.lora means by it."""
        return self.optimizer == "adamw" if self.bias_correction is None else self.bias_correction

    @property
    def adapter_scale(self) -> float:
        """What the additions are multiplied by in effect: alpha / rank, or alpha / sqrt(rank)."""
        return self.scale * math.sqrt(self.rank) if self.rs_lora else self.scale

    @property
    def segment(self) -> int:
        """Layers recomputed together; 0: none are."""
        if self.checkpoint_every is not None:
            return self.checkpoint_every
        return 1 if self.grad_checkpoint else 0

    @property
    def samples_per_step(self) -> int:
        return self.batch * self.grad_accum

    @property
    def last_layers(self) -> int | None:
        return None if self.layers == -1 else self.layers

    def ranks(self, bits: Mapping[str, int | None]) -> dict[str, int] | None:
        """The rank of each linear layer, given the bits of its weights (None: not packed)."""
        if self.rank_scaling == "constant" or self.type == "full":
            return None
        return {path: self._rank(found) for path, found in bits.items()}

    def _rank(self, bits: int | None) -> int:
        return self.rank if bits is None else max(LEAST_RANK, -(-self.rank * bits // FULL_BITS))

    def steps(self, per_epoch: int) -> int:
        if self.iters is not None:
            return self.iters
        epochs = EPOCHS[self.method] if self.epochs is None else self.epochs
        return max(1, math.ceil(round(epochs * per_epoch, 6)))  # 0.07 * 100 is a hair more than 7

    def pace(self, steps: int) -> Schedule:
        """The learning rate of each of so many steps."""
        return Schedule(
            kind=self.schedule,
            peak=self.learning_rate,
            end=self.lr_end,
            warmup=self.warmup,
            start=self.warmup_start,
            decay_steps=self.decay_steps or max(1, steps - self.warmup),
        )

    # Kept with the run ------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Only what differs from the defaults, so that options to come do not make old runs strange."""
        plain = Recipe()
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != getattr(plain, name)
        }

    def going_on(self, options: Mapping[str, Any]) -> Recipe:
        """The same with what was now asked for; what training depends on may not be otherwise."""
        given = _values(options)
        asked = Recipe(**given)  # what goes together is a question to the whole, below
        for name in given:
            mine, now = self._meant(name), asked._meant(name)
            if name not in FREE and mine != now:
                raise UsageError(
                    f"the run was made with {name} {_shown(mine)}, not {_shown(now)}",
                    hint="leave it out to go on, or begin a new run in another --adapter-path",
                    param=name,
                )
        mine = self.as_json()
        if "iters" in given or "epochs" in given:
            mine = {name: value for name, value in mine.items() if name not in ("iters", "epochs")}
        if given.get("sample_every") == 0:  # switched off, and its prompt with it
            mine.pop("sample_prompt", None)
        return Recipe.of(mine | {name: given[name] for name in given if name in FREE})

    def _meant(self, name: str) -> Any:
        derived = {"lr": "learning_rate", "weight_decay": "decay", "bias_correction": "corrects_bias"}
        return getattr(self, derived.get(name, name))


_BY_NAME: Mapping[str, Setting] = {s.name: s for s in RECIPE_SETTINGS}
NAMES: tuple[str, ...] = tuple(f.name for f in fields(Recipe))


def _values(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, each checked by itself."""
    unknown = sorted(set(options) - set(_BY_NAME))
    if unknown:
        raise UsageError(f"training has no option {unknown[0]}", param=unknown[0])
    given = {name: value for name, value in options.items() if value is not None}
    values = {name: _checked(_BY_NAME[name], value) for name, value in given.items()}
    if values.get("mask_prompt"):
        if values.get("sft_scope", "response") != "response":
            raise UsageError("mask_prompt and sft_scope full contradict each other", param="mask_prompt")
        values["sft_scope"] = "response"
    return values


def _checked(setting: Setting, value: Any) -> Any:
    if setting.many:
        return _names(setting, value)
    wanted, right = _KINDS[setting.kind]
    if not right(value):
        raise UsageError(f"{setting.name} must be {wanted}, not {str(value)[:60]!r}", param=setting.name)
    return check_value(setting, setting.kind(value))


def _names(setting: Setting, value: Any) -> tuple[str, ...]:
    """A text with commas between the names, or several such texts."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{setting.name} must be names, not {str(value)[:60]!r}", param=setting.name)
    names = tuple(dict.fromkeys(n.strip() for text in texts for n in text.split(",") if n.strip()))
    if not names:
        raise UsageError(f"{setting.name} names nothing", param=setting.name)
    return names


_KINDS: Mapping[Any, tuple[str, Any]] = {
    int: ("a whole number", lambda v: isinstance(v, Integral) and not isinstance(v, bool)),
    float: ("a number", lambda v: isinstance(v, Real) and not isinstance(v, bool)),
    str: ("a text", lambda v: isinstance(v, str)),
    bool: ("true or false", lambda v: isinstance(v, bool)),
}


def _none_of(given: set[str], names: Sequence[str], why: str) -> None:
    found = [name for name in names if name in given]
    if found:
        raise UsageError(f"{why}: {found[0]}", hint="leave it out", param=found[0])


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
