"""The paper's matrix game as a batch of its nine cells: uniform data without chance, for tests of what is learned."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.algorithms import ALGORITHMS, q_learning
from lsf_jax.engine.packing import observe_rows
from lsf_jax.envs.matrix_game import PAPER, MatrixGameConfig, make_matrix_game
from lsf_jax.networks.mixers import duplex_mixer, monotonic_mixer, sum_mixer
from lsf_jax.types import Clock, Episode

ENV = make_matrix_game(MatrixGameConfig())
PAYOFF = np.array(PAPER)
FIRST = jax.jit(ENV.reset)(jax.random.key(0))[1]
CLOCK = Clock(env_steps=jnp.int32(0), episodes=jnp.int32(0), updates=jnp.int32(0))
MIXERS = {
    "iql": lambda spec, cfg: None,
    "vdn": lambda spec, cfg: sum_mixer(spec),
    "qmix": lambda spec, cfg: monotonic_mixer(spec, embed=cfg.mixer_embed, hyper_hidden=cfg.hyper_hidden),
    "qplex": lambda spec, cfg: duplex_mixer(spec, heads=cfg.heads, layers=cfg.adv_layers, hidden=cfg.hyper_hidden),
}

observe = partial(observe_rows, ENV)


def networks(spec, name, cfg):
    """An agent network with the mixer that a name stands for."""
    return q_learning.Networks(agent=q_learning.make_agent(spec, cfg), mixer=MIXERS[name](spec, cfg))


def nine_cells():
    """One episode for each joint action."""
    state, _ = jax.jit(ENV.reset)(jax.random.key(0))
    start = ENV.snapshot(state)
    end = ENV.snapshot(ENV.step(jax.random.key(0), state, jnp.zeros(2, jnp.int32))[0])
    joint = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), axis=-1).reshape(9, 1, 2)
    return Episode(
        world=jax.tree.map(lambda a, b: jnp.tile(jnp.stack([a, b]), (9, 1)), start, end),
        action=jnp.asarray(joint, jnp.uint8),
        reward=jnp.asarray(PAYOFF.reshape(9, 1), jnp.float32),
        terminal=jnp.ones((9, 1), bool),
        valid=jnp.ones((9, 1), bool),
        info={},
    )


def trained(name, cfg, steps, seeds, start=lambda params: params):
    """Q_tot [seeds, 3, 3] and greedy policies after full-batch updates; targets are copied after every one.

    `start` changes the first parameters of the group "q".
    """
    algorithm = ALGORITHMS[name].factory(ENV.spec, cfg, observe)
    cells = nine_cells()

    def step(agent, key):
        agent, _ = algorithm.update(agent, cells, key, CLOCK, algorithm.hyper)
        return agent._replace(targets=agent.params), None

    def run(key):
        agent = algorithm.init(key, algorithm.hyper)
        params = {"q": start(agent.params["q"])}
        agent, _ = jax.lax.scan(step, agent._replace(params=params, targets=params), jax.random.split(key, steps))
        return algorithm.joint_table(agent, FIRST, key)

    table = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), seeds))
    return np.asarray(table.q_total).reshape(seeds, 3, 3), np.asarray(table.policy)
