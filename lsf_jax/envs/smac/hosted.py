"""Real SMAC as one of our environments: its sizes on the device, its games on the host."""

import dataclasses
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array

from lsf_jax.envs.host import Hosted, hosted_env
from lsf_jax.envs.hosts import spread
from lsf_jax.envs.smac.config import SmacConfig, spec_of
from lsf_jax.envs.smac.game import INFO
from lsf_jax.envs.smac.maps import MAPS
from lsf_jax.envs.smac.pool import SmacPool, check_smac
from lsf_jax.envs.smac.requirements import examine, smac_versions
from lsf_jax.envs.workers.process import as_on_a_node
from lsf_jax.registry import Entry
from lsf_jax.types import Env, EpisodeStats

OUR_VERSION = "1"
"""Another one whenever the bridge changes observations, rewards or the end of episodes."""


def make_smac(cfg: SmacConfig) -> Env:
    """Sizes, unpacking and success of one of the ten maps; nothing is launched, and the game need not be there.

    `success` means won. `max_return` is `reward_scale_rate`, which shields and health that recover can exceed.

    Raises:
      ConfigError: for settings out of range.
    """
    game = f", StarCraft II {cfg.game_version}" if cfg.game_version else ""
    best = cfg.reward_scale_rate if cfg.reward_scale else float("inf")
    return hosted_env(
        spec_of(cfg),
        success=_won,
        max_return=1.0 if cfg.reward_sparse else best,
        version=f"{OUR_VERSION}, oxwhirl/smac{game}",
    )


def host_smac(cfg: SmacConfig) -> Hosted:
    """How to open the games of one of the ten maps, here or on the nodes of `env.hosts`."""
    there = dataclasses.replace(cfg, hosts="", factory=as_on_a_node("env.factory", cfg.factory))
    return spread(_host_here(cfg), cfg, partial(spec_of, cfg), partial(_host_here, there))


def _host_here(cfg: SmacConfig) -> Hosted:
    return Hosted(
        info=INFO,
        store=cfg.store,
        overlap=cfg.overlap,
        min_ready=cfg.min_ready,
        check=partial(check_smac, cfg),
        open=lambda n_workers, seed: SmacPool(cfg, n_workers, seed),
        examine=partial(examine, cfg, MAPS),
        versions=partial(smac_versions, cfg),
        title="StarCraft II, for --env smac/3m and so on",
    )


def _won(stats: EpisodeStats) -> Array:
    return jnp.asarray(stats.info["battle_won"]) > 0


ENTRIES = (
    Entry(
        name="smac",
        config=SmacConfig,
        factory=make_smac,
        doc="Real SMAC (oxwhirl/smac with StarCraft II): ten maps in smac/; this one is oxwhirl's default, 8m",
        hosted=host_smac,
    ),
)
