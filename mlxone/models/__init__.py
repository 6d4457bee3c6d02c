"""Weights to logits. Families are data (`families`) for one decoder (`decoder.py`)."""
