"""The memory contract: what a model needs, what a machine has, and how fast the two are together."""
