"""LSF-SAC and its ablations: settings, networks, the losses of the paper, and the binding."""

from lsf_jax.algorithms.lsf_sac.losses import ENTRIES as ENTRIES
