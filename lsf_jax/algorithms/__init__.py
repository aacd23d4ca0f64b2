"""Algorithms: losses and bindings. `ALGORITHMS` is the only registry."""

from lsf_jax.algorithms import lsf_sac
from lsf_jax.algorithms.base import Entry

ALGORITHMS: dict[str, Entry] = {"lsf_sac": lsf_sac.ENTRY}
