"""Every case there is."""

from __future__ import annotations

from tests.oracle import configs_dense, configs_gemma, configs_sparse
from tests.oracle.case import Case

CASES: tuple[Case, ...] = configs_dense.CASES + configs_gemma.CASES + configs_sparse.CASES
