"""Packs mlxone into one file; `--help` says how."""
