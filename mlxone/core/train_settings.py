"""Every knob of training once: its default, range and help.

`RECIPE_SETTINGS` decide what is learned and how: a run keeps them, and going on asks for the same.
`RUN_SETTINGS` say where the run happens and what is shown of it, `SHOWN_SETTINGS` what only a terminal
can show. The command line, the documentation and `training.recipe.Recipe` derive from these tables.
The aliases are the names that `mlx_lm.lora` gives to the same things.

A truth without a metavar is a switch. `run_default` says in words what holds where nothing is given.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlxone.core.settings import Setting

METHODS = ("sft", "dpo", "orpo")
KINDS = ("lora", "dora", "full")
OPTIMIZERS = ("adamw", "adam", "adafactor", "sgd", "muon")
SCHEDULES = ("constant", "cosine", "linear")
RANK_SCALINGS = ("constant", "by_bits")
SCOPES = ("full", "response")
EXPORTS = ("peft",)

LEARNING_RATES: Mapping[str, float] = {"sft": 2e-4, "dpo": 5e-5, "orpo": 1e-5}
EPOCHS: Mapping[str, float] = {"sft": 3.0, "dpo": 1.0, "orpo": 1.0}
WEIGHT_DECAY = 0.01  # of the optimizers that have it built in: adamw and muon
ADAPTER_PATH = "adapters"

_MANY = 10**9  # more steps than that is a slip of the finger

RECIPE_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "method",
        str,
        "What is learned from: examples (sft) or preferences (dpo, orpo).",
        "sft",
        "sft",
        choices=METHODS,
        metavar="METHOD",
    ),
    Setting(
        "type",
        str,
        "What is trained: low-rank additions (lora), the same with magnitudes (dora), or the weights (full).",
        "lora",
        "lora",
        choices=KINDS,
        metavar="TYPE",
        aliases=("--fine-tune-type",),
    ),
    Setting("rank", int, "Rank of the additions.", 8, "8", low=1, high=4096),
    Setting(
        "scale",
        float,
        "What the additions are multiplied by: alpha divided by rank.",
        2.0,
        "2, which is alpha 16 for rank 8",
        low=0,
        high=10_000,
    ),
    Setting(
        "dropout", float, "Share of an addition's inputs left out at random.", 0.0, "0", low=0, high=0.99
    ),
    Setting(
        "rs_lora", bool, "Multiply the scale by the square root of the rank: alpha / sqrt(rank).", False, "no"
    ),
    Setting(
        "lora_plus",
        float,
        "The learning rate of the second factor (lora_b) as a multiple of the first's; 16 is usual.",
        1.0,
        "1: the same",
        low=0.001,
        high=1_000,
        metavar="RATIO",
    ),
    Setting(
        "target_modules",
        str,
        "Which linear layers are trained, with commas between (q_proj,v_proj); may be repeated.",
        None,
        "all seven",
        many=True,
        metavar="NAMES",
    ),
    Setting(
        "layers",
        int,
        "Train the last so many layers; -1 trains all.",
        -1,
        "all",
        low=-1,
        high=100_000,
        aliases=("--num-layers",),
    ),
    Setting(
        "rank_scaling",
        str,
        "by_bits gives layers of fewer bits a lower rank: a quarter of rank times bits, at least 2.",
        "constant",
        "constant",
        choices=RANK_SCALINGS,
        metavar="WAY",
    ),
    Setting(
        "start_from",
        str,
        "An adapter whose weights are where training starts.",
        None,
        "none",
        metavar="DIR",
        aliases=("--resume-adapter-file",),
    ),
    Setting("iters", int, "Steps, an update of the weights each.", None, "see epochs", low=1, high=_MANY),
    Setting(
        "epochs",
        float,
        "Times through the data; not together with iters.",
        None,
        "3 for sft, 1 for preferences",
        low=0.0001,
        high=1_000_000,
    ),
    Setting(
        "batch", int, "Samples computed together.", 4, "4", low=1, high=1_000_000, aliases=("--batch-size",)
    ),
    Setting(
        "grad_accum",
        int,
        "Batches that make one step.",
        1,
        "1",
        low=1,
        high=1_000_000,
        aliases=("--grad-accumulation-steps",),
    ),
    Setting(
        "lr",
        float,
        "Learning rate.",
        None,
        "sft 2e-4, dpo 5e-5, orpo 1e-5",
        low=0,
        high=100,
        aliases=("--learning-rate",),
    ),
    Setting(
        "schedule",
        str,
        "How the learning rate goes on after the warmup.",
        "constant",
        "constant",
        choices=SCHEDULES,
        metavar="WAY",
    ),
    Setting("lr_end", float, "Where cosine and linear end.", 0.0, "0", low=0, high=100),
    Setting(
        "decay_steps",
        int,
        "Steps that cosine and linear take to their end, the warmup not counted.",
        None,
        "all of the run",
        low=1,
        high=_MANY,
    ),
    Setting("warmup", int, "Steps until the learning rate is reached.", 0, "0", low=0, high=_MANY),
    Setting(
        "warmup_start", float, "The learning rate that the warmup comes from.", 0.0, "0", low=0, high=100
    ),
    Setting(
        "weight_decay",
        float,
        "How much the optimizer pulls weights to zero.",
        None,
        "0.01 for adamw and muon, else 0",
        low=0,
        high=100,
    ),
    Setting(
        "grad_clip",
        float,
        "Shorten gradients whose norm over all parameters is larger; 0 is off.",
        0.0,
        "off",
        low=0,
        high=1_000_000,
    ),
    Setting(
        "optimizer",
        str,
        "What turns gradients into steps.",
        "adamw",
        "adamw",
        choices=OPTIMIZERS,
        metavar="NAME",
    ),
    Setting(
        "bias_correction",
        bool,
        "Whether adamw and adam correct the bias of their first steps.",
        None,
        "adamw does, adam does not",
        metavar="true|false",
    ),
    Setting("seed", int, "Of the start, the order and the dropout.", 0, "0", low=0, high=2**63 - 1),
    Setting(
        "max_seq_length",
        int,
        "Longest sample, in tokens; the rest is cut off, and counted.",
        2048,
        "2048",
        low=2,
        high=10_000_000,
    ),
    Setting(
        "val_size",
        float,
        "Share of the data kept for validation where it has no such part; 0 keeps none.",
        None,
        "0.1 of a single file or stream, nothing of a folder",
        low=0,
        high=0.9,
    ),
    Setting(
        "sft_scope",
        str,
        "What is learned of a conversation: all of it, or the last answer.",
        "full",
        "full",
        choices=SCOPES,
        metavar="WHAT",
    ),
    Setting("mask_prompt", bool, "Short for --sft-scope response.", False, "no"),
    Setting(
        "dpo_beta", float, "How closely dpo keeps to the model it began with.", 0.1, "0.1", low=0, high=100
    ),
    Setting("orpo_lambda", float, "Weight of the preference in orpo's loss.", 0.1, "0.1", low=0, high=100),
    Setting("pack", bool, "Fill each row of a batch with samples up to max_seq_length.", False, "no"),
    Setting(
        "grad_checkpoint",
        bool,
        "Compute layers again instead of keeping what they computed: less memory, more time.",
        False,
        "no",
    ),
    Setting(
        "checkpoint_every",
        int,
        "Layers computed again together; implies grad_checkpoint.",
        None,
        "1 with grad_checkpoint",
        low=1,
        high=100_000,
        metavar="LAYERS",
    ),
    Setting(
        "eval_every",
        int,
        "Validate every so many steps, and before the first and after the last.",
        200,
        "200",
        low=1,
        high=_MANY,
        aliases=("--steps-per-eval",),
    ),
    Setting("val_batches", int, "Batches of a validation; -1 is all.", 25, "25", low=-1, high=_MANY),
    Setting("save_every", int, "Save every so many steps.", 100, "100", low=1, high=_MANY),
    Setting("steps_per_report", int, "Steps between two reports.", 1, "1", low=1, high=_MANY),
    Setting(
        "sample_every",
        int,
        "Answer a fixed prompt every so many steps; 0 never.",
        0,
        "never",
        low=0,
        high=_MANY,
    ),
    Setting("sample_prompt", str, "That prompt.", None, "the first of the data", metavar="TEXT"),
    Setting("test", bool, "Measure the test set at the end.", False, "no"),
    Setting("test_batches", int, "Batches of the test; -1 is all.", -1, "all", low=-1, high=_MANY),
)

RUN_SETTINGS: tuple[Setting, ...] = (
    Setting("adapter_path", str, "Where the result goes.", ADAPTER_PATH, ADAPTER_PATH, metavar="DIR"),
    Setting("resume", bool, "Go on with the run in the adapter's folder, exactly.", False, "no"),
    Setting("overwrite", bool, "Replace the run that the adapter's folder holds.", False, "no"),
    Setting("skip_bad", bool, "Leave bad rows out, and count them.", False, "bad rows are an error"),
    Setting("dry_run", bool, "Only say what the run would need.", False, "no"),
    Setting(
        "export",
        str,
        "Also write the adapter for another program.",
        None,
        "none",
        choices=EXPORTS,
        metavar="FORMAT",
    ),
)

SHOWN_SETTINGS: tuple[Setting, ...] = (
    Setting("plot", str, "Draw the losses into this SVG file.", None, "none", metavar="FILE"),
)

TRAIN_SETTINGS: tuple[Setting, ...] = (*RECIPE_SETTINGS, *RUN_SETTINGS, *SHOWN_SETTINGS)
TRAIN_BY_NAME: Mapping[str, Setting] = {s.name: s for s in TRAIN_SETTINGS}
