"""`ChatRequest` to a stream of `Event`s. `run`, `serve` and the library all walk this road."""
