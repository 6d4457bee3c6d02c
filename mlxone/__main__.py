"""`python -m mlxone`: the same command line as `mlxone`."""

from __future__ import annotations

import sys

from mlxone.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
