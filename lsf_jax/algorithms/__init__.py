"""Algorithms: losses and bindings. `ALGORITHMS` is the only registry."""

from lsf_jax.algorithms import coma, dop, fop, lsf_sac, ndq, q_mixing, qtran, vdac, weighted_qmix
from lsf_jax.algorithms.base import Entry

ALGORITHMS: dict[str, Entry] = {
    "dop": dop.ENTRY,
    "fop": fop.ENTRY,
    **lsf_sac.ENTRIES,
    "ndq": ndq.ENTRY,
    **q_mixing.ENTRIES,
    **qtran.ENTRIES,
    "coma": coma.ENTRY,
    **vdac.ENTRIES,
    **weighted_qmix.ENTRIES,
}
"""Every algorithm by name: its config class, its traced numbers, and the factory that makes an `Algorithm`."""

COMMUNICATING: frozenset[str] = frozenset({"ndq"})
"""Algorithms whose agents exchange messages while they act: an action depends on what all agents see."""
