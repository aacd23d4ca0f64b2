"""Games of others on the host: PettingZoo's parallel interface, and Gymnasium's with several agents."""

from lsf_jax.envs.parallel.hosted import ENTRIES as ENTRIES
