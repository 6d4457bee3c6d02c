"""Measurements, each with its command line. `python -m bench` prints the tables of docs/benchmarks.md."""
