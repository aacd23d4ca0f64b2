"""Games on the host of other machines: the same pools of worker processes, on the nodes of a Ray cluster."""

from lsf_jax.envs.hosts.opening import spread as spread
