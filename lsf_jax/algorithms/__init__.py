"""Algorithms: losses and bindings, one file a family."""

from lsf_jax.algorithms import q_learning
from lsf_jax.registry import ALGO, TABLES, Entry, collect, plugins

ALGORITHMS: dict[str, Entry] = TABLES[ALGO]
"""Every algorithm by name; those of plug-ins once they are loaded."""
ALGORITHMS.update(collect(__name__, __path__))
plugins.ADAPTERS[plugins.MIXING] = q_learning.mixing_entry
