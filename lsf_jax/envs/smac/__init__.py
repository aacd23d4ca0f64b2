"""Real SMAC: oxwhirl's `smac` and Blizzard's StarCraft II in worker processes on the host."""

from lsf_jax.envs.smac.hosted import ENTRIES as ENTRIES
