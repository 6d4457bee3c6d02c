"""The parts that layers are made of: one module for each computation."""
