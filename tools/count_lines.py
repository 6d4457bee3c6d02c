"""Counts the lines that the families take here, beside mlx-lm's files of the same families.

python tools/count_lines.py           print the table
python tools/count_lines.py --write   and put it into docs/models.md
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- lines: written by tools/count_lines.py -->\n", "<!-- end -->\n"

SHARED = ("spec", "names", "block", "decoder", "building", "rope", "stacked")
# What mlx.nn brings to mlx-lm: layers, and their weights.
LIKE_NN = ("layers", "weights")
ABOUT = "about.py"  # words for people
THEIR_FAMILIES = (
    "cohere2", "deepseek_v2", "deepseek_v3", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3",
    "gemma3_text", "gemma4", "gemma4_text", "glm4", "glm4_moe", "gpt_oss", "granite", "granitemoe",
    "granitemoehybrid", "hunyuan_v1_dense", "lfm2", "lfm2_moe", "llama", "minicpm", "minicpm3",
    "ministral3", "mistral3",
    "mixtral", "nemotron_h", "olmo2", "olmo3", "olmoe", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_5",
    "qwen3_5_moe", "qwen3_moe", "qwen3_next", "seed_oss", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
THEIR_HELPERS = ("activations", "base", "gated_delta", "mla", "rope_utils", "ssm", "switch_layers")


def code_lines(file: Path) -> int:
    """Lines that something stands on, less comments and docstrings."""
    text = file.read_text(encoding="utf-8")
    statements = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr))
    constants = [node for node in statements if isinstance(node.value, ast.Constant)]
    words = {line for n in constants for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    stripped = [(at, line.strip()) for at, line in enumerate(text.splitlines(), 1)]
    return sum(1 for at, line in stripped if line and not line.startswith("#") and at not in words)


def all_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def ours() -> dict[str, list[Path]]:
    models = ROOT / "mlxone" / "models"
    return {
        "mlxone: the decoder and its parts": [
            *(models / f"{name}.py" for name in SHARED), *sorted((models / "parts").glob("*.py")),
        ],
        "mlxone: the rows": sorted(p for p in (models / "families").glob("*.py") if p.name != ABOUT),
        "mlxone: layers and weights, which mlx.nn is to mlx-lm": [models / f"{name}.py" for name in LIKE_NN],
    }  # fmt: skip


def theirs() -> dict[str, list[Path]]:
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("mlx-lm is not installed: it comes with the tests")
    models = Path(spec.submodule_search_locations[0]) / "models"
    return {
        "mlx-lm: a file a family": [models / f"{name}.py" for name in THEIR_FAMILIES],
        "mlx-lm: what they share": [models / f"{name}.py" for name in THEIR_HELPERS],
    }


def table() -> str:
    rows = [
        (what, len(files), sum(map(all_lines, files)), sum(map(code_lines, files)))
        for what, files in (ours() | theirs()).items()
    ]
    head = ["| what | files | lines | of code |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {what} | {n} | {a:,} | {c:,} |" for what, n, a, c in rows), ""])


def filled(page: str, table: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE} lacks the marks of this table")
    return before + begin + table + end + after


def main(arguments: Sequence[str]) -> int:
    if set(arguments) - {"--write"}:
        print(__doc__, file=sys.stderr)
        return 2
    found = table()
    print(found, end="")
    if "--write" in arguments:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
