"""Weights to logits. Families are data (`families.py`) for one decoder (`decoder.py`)."""
