"""Which architectures are known, and how a config becomes a spec. Imports no MLX."""
