"""Logits against those of transformers, for every family, in float32 and within 1e-4.

A distance is the largest difference divided by the largest magnitude of transformers' logits. Where a case
has a `read_as`, mlx-lm does not compute what the published config says: it equals transformers under another
config, and mlxone equals mlx-lm. Both halves are asserted, so that such a note goes when mlx-lm is put right.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mlxone.models.families.table import BY_MODEL_TYPE
from tests.oracle import harness
from tests.oracle.case import VOCAB, Case
from tests.oracle.configs import CASES
from tests.parity.harness import logits_of_ours

pytestmark = pytest.mark.filterwarnings("default")  # those of torch and transformers are theirs

TOLERANCE = 1e-4
PROMPT, STEPS = 48, 8
IDS = [int(i) for i in np.random.default_rng(0).integers(1, VOCAB, PROMPT)]
WITHOUT_TRANSFORMERS = {"kimi_k2", "minicpm"}  # come with code of their own


@dataclass(frozen=True, slots=True)
class Trial:
    case: Case
    folder: Path  # in mlx-lm's form
    respelled: Path  # the same with the config as transformers 5 writes it
    published: np.ndarray  # transformers, by the config as it is
    as_read: np.ndarray  # transformers, by the config as mlx-lm reads it


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    case: Case = request.param
    root = tmp_path_factory.mktemp(case.name)
    saved, folder, respelled = root / "saved", root / "mlx", root / "respelled"
    model = harness.build(case, saved)
    published = as_read = harness.logits_of_transformers(model, IDS)
    if case.read_as:
        as_read = harness.logits_of_transformers(harness.told(model, case.as_read), IDS)
    harness.convert(saved, folder)
    respelled.mkdir()
    (respelled / "model.safetensors").symlink_to(folder / "model.safetensors")
    (respelled / "config.json").write_text(json.dumps(harness.in_new_spelling(saved, folder)))
    return Trial(case, folder, respelled, published, as_read)


def ours(folder: Path, prompt: int) -> np.ndarray:
    """All logits: of `prompt` tokens as a whole, and of the rest one by one."""
    return np.concatenate([np.array(part)[0] for part in logits_of_ours(folder, IDS, [prompt])])


def test_mlx_lm(trial: Trial):
    theirs = harness.logits_of_mlx_lm(trial.folder, IDS)
    near = harness.distance(theirs, trial.as_read)
    assert near <= TOLERANCE
    if trial.case.read_as:
        assert harness.distance(theirs, trial.published) > 10 * near


def test_ours(trial: Trial):
    assert harness.distance(ours(trial.folder, PROMPT), trial.as_read) <= TOLERANCE


def test_ours_by_steps(trial: Trial):
    if trial.case.by_steps:
        assert harness.distance(ours(trial.folder, PROMPT - STEPS), trial.as_read) <= TOLERANCE


def test_ours_by_the_config_that_transformers_writes(trial: Trial):
    """Its version 5 spells settings in another way and states more: nothing may be lost unsaid."""
    logits = ours(trial.respelled, PROMPT)
    assert min(harness.distance(logits, r) for r in (trial.as_read, trial.published)) <= TOLERANCE


def test_every_family_has_a_case():
    tested = {section["model_type"] for case in CASES for section in (case.config, _text(case.config))}
    assert set(BY_MODEL_TYPE) - tested == WITHOUT_TRANSFORMERS


def _text(config: dict) -> dict:
    return config.get("text_config", config)
