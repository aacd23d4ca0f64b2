"""Batches, parameters and noise that the tests of LSF-SAC share; small sizes, all of them different."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle_lsf_sac as oracle

from lsf_jax.algorithms import lsf_sac as lsf
from lsf_jax.algorithms.base import hyper_of
from lsf_jax.types import AgentState, Clock, EnvSpec, Episode, Observation, Trajectory

T, N, A, OBS, S, H = 5, 3, 4, 6, 7, 8
SPEC = EnvSpec(n_agents=N, n_actions=A, obs_dim=OBS, state_dim=S, episode_limit=T)
# Length and how it ended: full and cut, terminated early, cut early, terminated, terminated at once, terminated at T.
ENDINGS = ((5, False), (3, True), (2, False), (4, True), (1, True), (5, True))
BATCH = len(ENDINGS)

SMALL = lsf.LsfSacConfig(  # the switches of the preset `paper`
    batch_size=BATCH,
    hidden=H,
    encoder_hidden=5,
    decoder_hidden=9,
    mixer_embed=4,
    hyper_hidden=6,
    message_dim=2,
    lambda_1=0.7,
    lambda_2=1.25,
    beta=0.3,
    alpha=0.8,
    lr=1e-3,
    actor_lr=1e-3,
    alpha_lr=3e-4,
    message_routing="broadcast",
    encoder_input="current",
    label="critic_greedy",
    td_target="greedy_actor",
    policy_sign="paper",
    behaviour="sample",
    target_entropy="fraction",
    target_entropy_fraction=0.5,
    discount=0.9,
    trace=0.6,
    reward_scale=0.5,
    grad_clip=0.0,
    actor_clip=0.0,
    remat=False,
)
RELEASE = replace(  # the switches of the preset `release`
    SMALL,
    message_routing="per_receiver",
    label="actor_greedy",
    policy_sign="release",
    target_entropy="minus_n_actions",
    alpha_clamps=True,
    logit_clamp=True,
    mask_messages=False,
    alpha=1.2,
)
ODD = replace(
    SMALL,
    encoder_input="history",
    label="actor_soft",
    td_target="soft_expected",
    decoder_mask=True,
    td_gradient_to_encoder=False,
    remat=True,
)
PLAIN = replace(SMALL, recurrent=False, hyper_hidden=0)  # compiles fast, where recurrence does not matter
CLOCK = Clock(env_steps=jnp.int32(40), episodes=jnp.int32(8), updates=jnp.int32(1))


def make_games(seed=0):
    """Random episodes with unavailable actions and dead agents; rows after the end look as `observe` leaves them."""
    rng = np.random.default_rng(seed)
    games = []
    for length, terminal in ENDINGS:
        real = np.arange(T + 1) <= length
        valid = np.arange(T) < length
        avail = rng.random((T + 1, N, A)) < 0.6
        avail[np.arange(T + 1)[:, None], np.arange(N), rng.integers(A, size=(T + 1, N))] = True
        for t, i in zip(range(1, T + 1), rng.integers(N, size=T)):
            avail[t, i] = np.arange(A) == 2  # dead: a single action is left
        avail |= ~real[:, None, None]
        action = np.array([[rng.choice(np.flatnonzero(row)) for row in rows] for rows in avail[:T]])
        games.append(
            oracle.Game(
                obs=rng.normal(size=(T + 1, N, OBS)) * real[:, None, None],
                state=rng.normal(size=(T + 1, S)) * real[:, None],
                avail=avail,
                action=action * valid[:, None],
                reward=rng.normal(size=T) * 2.0 * valid,
                terminal=(np.arange(T) == length - 1) & terminal,
                length=length,
            )
        )
    return games


def episodes_of(games) -> Episode:
    """The batch as the code under test takes it; `world` is already an observation."""
    stack = {name: np.stack([getattr(game, name) for game in games]) for name in oracle.Game._fields[:-1]}
    observation = Observation(
        obs=jnp.asarray(stack["obs"], jnp.float32),
        state=jnp.asarray(stack["state"], jnp.float32),
        avail=jnp.asarray(stack["avail"]),
    )
    return Episode(
        world=observation,
        action=jnp.asarray(stack["action"], jnp.uint8),
        reward=jnp.asarray(stack["reward"], jnp.float32),
        terminal=jnp.asarray(stack["terminal"]),
        valid=jnp.asarray(np.stack([np.arange(T) < game.length for game in games])),
        info={},
    )


def observe(episode: Episode) -> Trajectory:
    return Trajectory(
        observation=episode.world,
        action=episode.action.astype(jnp.int32),
        reward=episode.reward,
        terminal=episode.terminal,
        valid=episode.valid,
    )


def noises_of(key, cfg, rows=T + 1):
    """The message noise of one update, drawn as the engine splits its key: by episode, then online and target."""
    sent = cfg.message_dim * (N if cfg.message_routing == "per_receiver" else 1)
    out = []
    for key_episode in jax.random.split(key, BATCH):
        key_online, key_target = jax.random.split(key_episode)
        draws = [np.asarray(jax.random.normal(k, (rows, N, sent)), float) for k in (key_online, key_target)]
        out.append(oracle.Noise(online=draws[0], target=draws[1]))
    return out


def numpy_tree(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), tree)


def agent_of(algorithm, seed=0):
    """An agent whose weights are larger than at initialisation (so that every term matters) and differ from targets."""
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)
    rng = np.random.default_rng(seed)

    def stirred(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), tree)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.opt_state)
    params = {**stirred(shapes.params), "temperature": jnp.log(algorithm.hyper.alpha)}
    return AgentState(params=params, targets=stirred(shapes.targets), opt_state=zeros)


@cache
def case(cfg, micro_batch=0):
    """An algorithm with its jitted update, an agent, a batch and the noise that goes with `key`."""
    algorithm = lsf.lsf_sac(SPEC, cfg, observe, micro_batch)
    games = make_games()
    key = jax.random.key(3)
    return SimpleNamespace(
        cfg=cfg,
        algorithm=algorithm,
        update=jax.jit(algorithm.update),
        agent=agent_of(algorithm),
        games=games,
        episodes=episodes_of(games),
        key=key,
        noises=noises_of(key, cfg),
        hyper=algorithm.hyper,
    )


@cache
def updated(cfg, micro_batch=0):
    """(agent, metrics) after one update of a case."""
    c = case(cfg, micro_batch)
    return c.update(c.agent, c.episodes, c.key, CLOCK, c.hyper)


def gradients(agent, beta_1=0.9):
    """The gradients that the first Adam step saw, read off its first moment."""

    def is_adam(state):
        return isinstance(state, optax.ScaleByAdamState)

    out = {}
    for group, state in agent.opt_state.items():
        for moments in filter(is_adam, jax.tree.leaves(state, is_leaf=is_adam)):
            out[group] = jax.tree.map(lambda m: np.asarray(m) / (1 - beta_1), moments.mu)
    return out


@cache
def forwards(network_cfg):
    """Forward of every episode for a config's networks: what the losses, which are arithmetic, read."""
    c = case(network_cfg)
    net = lsf.make_networks(SPEC, network_cfg)
    run = partial(lsf.forward, net=net, cfg=network_cfg)

    @jax.jit
    def every(agent, episodes, keys):
        return jax.vmap(lambda e, k: run(agent.params, agent.targets, observe(e), k))(episodes, keys)

    return every(c.agent, c.episodes, jax.random.split(c.key, BATCH))


def losses(network_cfg, cfg, clock=CLOCK, forward=None):
    """All terms of all steps `[B, T]` for the networks of one config and the losses of another."""
    c = case(network_cfg)
    forward = forwards(network_cfg) if forward is None else forward
    hyper = hyper_of(lsf.LsfSacHyper, cfg)
    trajectories = jax.vmap(observe)(c.episodes)

    def every(f, t):
        parts = (lsf.critic_loss, lsf.policy_loss, lsf.temperature_loss)
        return {name: value for loss in parts for name, value in loss(f, t, clock, hyper, cfg=cfg).items()}

    return {name: np.asarray(value) for name, value in jax.vmap(every)(forward, trajectories).items()}


def expected_losses(network_cfg, cfg, env_steps=40):
    """The oracle's terms of all steps for the same parameters and noise."""
    c = case(network_cfg)
    params, targets = numpy_tree(c.agent.params), numpy_tree(c.agent.targets)
    return oracle.loss_terms(params, targets, c.games, c.noises, cfg, env_steps, per_step=True)


def valid_steps():
    return np.stack([np.arange(T) < length for length, _ in ENDINGS])
