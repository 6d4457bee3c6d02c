"""Shared words: values every room may import and that import no room. No I/O, no printing."""
