"""Algorithms: losses and bindings, one file a family."""

from lsf_jax.registry import Entry, collect

ALGORITHMS: dict[str, Entry] = collect(__name__, __path__)
"""Every algorithm by name."""
