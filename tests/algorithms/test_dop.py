"""DOP: a whole update against NumPy, the mixers, what each kind of data is for, replay, and a run end to end."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsf_jax.algorithms import base, dop_networks
from lsf_jax.algorithms import dop as module
from lsf_jax.algorithms.stepwise import SINCE_COPY
from lsf_jax.engine import exploration
from lsf_jax.engine.packing import moments_of, one_per_row
from lsf_jax.types import Clock
from tests.support import actor_critic_cases as actor_critic
from tests.support import engine_cases
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_dop as oracle
from tests.support.lsf_sac_cases import BATCH, SPEC, A, N, T

SMALL = module.DopConfig(
    batch_size=BATCH,
    on_batch=BATCH,
    off_batch=BATCH,
    hidden=8,
    critic_hidden=3,
    mixer_embed=2,
    lr=0.01,
    actor_lr=0.1,
    discount=0.9,
    trace=0.6,
    tree_trace=0.9,
    tree_steps=3,
    reward_scale=0.5,
    epsilon_start=0.5,
    epsilon_finish=0.1,
    epsilon_anneal=100.0,
    grad_clip=0.0,
    remat=False,
)
NONLINEAR = replace(SMALL, mixer="nonlinear")
OVER_ALL = replace(SMALL, floor_over="all")
BOTH = pytest.mark.parametrize("cfg", [SMALL, NONLINEAR], ids=["linear", "nonlinear"])
EVERY = pytest.mark.parametrize("cfg", [SMALL, NONLINEAR, OVER_ALL], ids=["linear", "nonlinear", "floor over all"])
CLOCK = Clock(env_steps=jnp.int32(50), episodes=jnp.int32(8), updates=jnp.int32(1))
EPSILON = 0.3
KINDS = ("latest", "on", "off")


@cache
def case(cfg):
    """An algorithm and an agent, a batch of every kind, and an update by plain gradient descent."""
    algorithm = module.make_dop(SPEC, cfg, cases.observe)
    agent = actor_critic.stirred_agent(algorithm)
    descent = {group: optax.identity() for group in ("critic", "actor")}
    kept = {group: rule.init(agent.params[group]) for group, rule in descent.items()}
    agent = agent._replace(opt_state={**agent.opt_state, **kept})
    net, policy = module.make_networks(SPEC, cfg), exploration.FLOORS[cfg.floor_over].policy
    update = jax.jit(module.make_dop_update(net, policy, descent, cases.observe, cfg, T))
    games = {kind: cases.make_games(seed) for seed, kind in enumerate(KINDS)}
    batch = {kind: cases.episodes_of(each) for kind, each in games.items()}
    key, hyper = jax.random.key(3), algorithm.hyper
    updated, metrics = update(agent, batch, key, CLOCK, hyper)
    params, targets = cases.numpy_tree(agent.params), cases.numpy_tree(agent.targets)
    return SimpleNamespace(**locals())


@cache
def critic_batch(cfg):
    c = case(cfg)
    return oracle.critic_batch_of(c.params, c.targets, c.games["on"], c.games["off"], EPSILON, cfg)


def learn(c, **changed):
    return c.update(c.agent, {**c.batch, **changed}, c.key, CLOCK, c.hyper)


@pytest.mark.default("nonlinear", "floor over all")
@EVERY
def test_targets_are_sarsa_returns_of_recent_and_tree_backups_of_old_data(cfg):
    c = case(cfg)
    rows = {kind: one_per_row(episodes) for kind, episodes in c.batch.items()}
    data = {kind: cases.observe(each) for kind, each in rows.items()}
    moments = {kind: moments_of(rows[kind], BATCH, T) for kind in ("on", "off")}
    policies = partial(base.row_policies, c.net.actor, c.policy, clock=CLOCK, hyper=c.hyper)
    made, time = module.make_critic_batch(c.net, c.agent, data, moments, policies, c.hyper, n_steps=cfg.tree_steps)
    for number, (game, y) in enumerate(critic_batch(cfg)):
        np.testing.assert_allclose(made.target[: game.length, number], y, rtol=2e-5, atol=2e-5)
        np.testing.assert_array_equal(time.valid[:, number], np.arange(T) < game.length)
    swapped = oracle.critic_batch_of(c.params, c.targets, c.games["off"], c.games["on"], EPSILON, cfg)
    gaps = [abs(y[0] - other[0]) for (_, y), (_, other) in zip(critic_batch(cfg), swapped[BATCH:] + swapped[:BATCH])]
    assert max(gaps) > 0.1  # the two rules are not the same on this data


@BOTH
def test_the_critic_takes_one_step_for_each_time_step_from_the_first_to_the_last(cfg):
    c = case(cfg)
    wanted, error = oracle.critic_pass(c.params["critic"], critic_batch(cfg), T, cfg.lr, cfg)
    before, after = c.params["critic"], cases.numpy_tree(c.updated.params["critic"])
    scale = max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(before)))
    assert scale > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-4 * scale), after, wanted)
    np.testing.assert_allclose(c.metrics["td"], error, rtol=3e-5)


@EVERY
def test_the_actor_follows_the_updated_critic_on_the_newest_episodes(cfg):
    """The gradient, read off a step of plain descent, against central differences with the advantages held."""
    c = case(cfg)
    critic, actor = cases.numpy_tree(c.updated.params["critic"]), c.params["actor"]
    after = cases.numpy_tree(c.updated.params["actor"])

    def loss(actor, games=c.games["latest"], critic=critic):
        return oracle.policy_loss(actor, critic, games, EPSILON, cfg.floor_over, c.params["actor"])

    np.testing.assert_allclose(c.metrics["policy"], loss(actor), rtol=1e-4)
    stale = oracle.policy_loss(actor, c.params["critic"], c.games["latest"], EPSILON, cfg.floor_over, actor)
    assert abs(stale - loss(actor)) > 1e-3 * abs(stale)  # the critic before its pass would say something else
    moves = jax.tree.map(lambda a, b: (a - b) / cfg.actor_lr, actor, after)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(moves))
    for path, index in actor_critic.random_places(actor, np.random.default_rng(1), 8):
        shifted = [loss(oracle.oracle.shifted(actor, path, index, sign * 1e-5)) for sign in (1, -1)]
        wanted = (shifted[0] - shifted[1]) / 2e-5
        assert abs(actor_critic.at(moves, path, index) - wanted) < 2e-4 * scale, (path, index)


@BOTH
def test_recent_and_old_data_train_the_critic_and_the_newest_trains_the_actor_alone(cfg):
    c = case(cfg)
    other = cases.episodes_of(cases.make_games(9))
    for kind in ("on", "off"):
        agent, _ = learn(c, **{kind: other})
        assert actor_critic.moved(agent.params["critic"], c.updated.params["critic"]), kind
    agent, _ = learn(c, latest=other)
    actor_critic.assert_trees_equal(agent.params["critic"], c.updated.params["critic"])
    assert actor_critic.moved(agent.params["actor"], c.updated.params["actor"])


def test_each_group_has_its_own_rate_and_targets_stay():
    c = case(SMALL)
    for frozen, name in (("critic", "lr"), ("actor", "actor_lr")):
        agent, _ = c.update(c.agent, c.batch, c.key, CLOCK, c.hyper._replace(**{name: jnp.float32(0.0)}))
        moving = {
            group for group in ("critic", "actor") if actor_critic.moved(agent.params[group], c.agent.params[group])
        }
        assert moving == {"critic", "actor"} - {frozen}
        actor_critic.assert_trees_equal(agent.targets, c.agent.targets)


def test_garbage_in_padded_rows_changes_nothing():
    c, rng = case(SMALL), np.random.default_rng(4)

    def spoil(episodes):
        rows = ~np.concatenate([np.ones((BATCH, 1), bool), episodes.valid], axis=1)
        steps = ~np.asarray(episodes.valid)
        obs, state, avail = episodes.world
        return episodes._replace(
            world=episodes.world._replace(
                obs=jnp.where(rows[..., None, None], 1e3 * rng.normal(size=obs.shape).astype(np.float32), obs),
                state=jnp.where(rows[..., None], 1e3 * rng.normal(size=state.shape).astype(np.float32), state),
                avail=jnp.where(rows[..., None, None], rng.random(avail.shape) < 0.3, avail),
            ),
            action=jnp.where(steps[..., None], rng.integers(200, size=(BATCH, T, N)).astype(np.uint8), episodes.action),
            reward=jnp.where(steps, 1e3, episodes.reward),
            terminal=jnp.where(steps, rng.random((BATCH, T)) < 0.5, episodes.terminal),
        )

    agent, metrics = learn(c, **{kind: spoil(episodes) for kind, episodes in c.batch.items()})
    actor_critic.assert_trees_equal(agent, c.updated)
    actor_critic.assert_trees_equal(metrics, c.metrics)


def random_rows(seed, rows=40):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, N)), rng.normal(size=(rows, SPEC.state_dim))


@BOTH
def test_both_mixers_and_their_weights_match_numpy(cfg):
    c, net, (values, state) = case(cfg), module.make_networks(SPEC, cfg), random_rows(0)
    inputs = (jnp.asarray(values, jnp.float32), jnp.asarray(state, jnp.float32))
    total = dop_networks.mixed(net, c.agent.params["critic"], *inputs)
    np.testing.assert_allclose(
        total, oracle.q_total(c.params["critic"], values, state, cfg.mixer), rtol=1e-4, atol=1e-5
    )
    k = net.mixer.weights(c.agent.params["critic"]["mixer"], inputs[1])
    np.testing.assert_allclose(k, oracle.weights(c.params["critic"], state, N), rtol=1e-4, atol=1e-6)


@BOTH
def test_the_weights_are_convex_and_only_the_linear_mixer_stays_between_the_local_values(cfg):
    c, net, (values, state) = case(cfg), module.make_networks(SPEC, cfg), random_rows(1)
    inputs = (jnp.asarray(values, jnp.float32), jnp.asarray(state, jnp.float32))
    k = np.asarray(net.mixer.weights(c.agent.params["critic"]["mixer"], inputs[1]))
    assert (k >= 0).all()
    assert (k.std(axis=0) > 1e-3).all()
    np.testing.assert_allclose(k.sum(axis=-1), 1.0, rtol=1e-6)
    total = np.asarray(dop_networks.mixed(net, c.agent.params["critic"], *inputs))
    between = (total >= values.min(axis=-1) - 1e-6) & (total <= values.max(axis=-1) + 1e-6)
    assert between.all() == (cfg.mixer == "linear")


@pytest.mark.parametrize("cfg", [SMALL, OVER_ALL], ids=["over available", "over all"])
def test_the_floor_is_part_of_the_policy_that_learns_and_training_acts_by_it(cfg):
    c, game = case(cfg), case(cfg).games["latest"][0]
    trajectory = jax.tree.map(lambda leaf: leaf[0], jax.vmap(cases.trajectory_of)(c.batch["latest"]))
    pi = base.row_policies(c.net.actor, c.policy, c.agent.params["actor"], trajectory, CLOCK, c.hyper)
    wanted = oracle.floored_policy(c.params["actor"], game, EPSILON, cfg.floor_over)
    np.testing.assert_allclose(pi, wanted, rtol=2e-5, atol=1e-6)
    first = jax.tree.map(lambda leaf: leaf[0], trajectory.observation)
    act = lambda key: c.algorithm.act(c.agent.params["actor"], c.algorithm.start(), first, key, CLOCK, c.hyper)[1]
    drawn = np.asarray(jax.jit(jax.vmap(act))(jax.random.split(jax.random.key(1), 4000)))
    np.testing.assert_allclose((drawn[..., None] == np.arange(A)).mean(axis=0), wanted[0], atol=2 / np.sqrt(4000))


def test_joint_table_holds_the_mixed_local_values_and_the_policy_without_its_floor():
    c, game = case(SMALL), case(SMALL).games["latest"][0]
    table = jax.jit(c.algorithm.joint_table)(
        c.agent, jax.tree.map(lambda leaf: leaf[0, 0], c.batch["latest"].world), c.key
    )
    q = oracle.local_values(c.params["critic"], game.state[:1], game.obs[:1])
    joint = np.array([[number // A ** (N - 1 - i) % A for i in range(N)] for number in range(A**N)])
    values = np.stack([q[0, i, joint[:, i]] for i in range(N)], axis=-1)
    wanted = oracle.q_total(c.params["critic"], values, np.repeat(game.state[:1], len(joint), axis=0), "linear")
    np.testing.assert_allclose(table.q_total, wanted, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(table.utilities, q[0], rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(
        table.policy, oracle.floored_policy(c.params["actor"], game, 0.0, "available")[0], rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("changed", "capacity", "words"),
    [
        ({"on_capacity": 12}, 64, "algo.on_capacity 12 is not a multiple of train.n_envs 8"),
        ({"on_batch": 24}, 64, "algo.on_batch 24 exceeds algo.on_capacity 16"),
        ({"off_batch": 72}, 64, "algo.off_batch 72 exceeds train.buffer_capacity 64"),
        ({"batch_size": 12}, 64, "algo.batch_size 12 is not a multiple of train.n_envs 8"),
        ({}, 60, "train.buffer_capacity 60 is not a multiple of train.n_envs 8"),
    ],
)
def test_sizes_of_replay_that_do_not_fit_are_refused_by_the_names_of_their_keys(changed, capacity, words):
    replay = module.three_replays(replace(module.DopConfig(), **changed))
    example = jax.tree.map(lambda leaf: leaf[0], case(SMALL).batch["on"])
    with pytest.raises(ValueError, match=words):
        replay(example, capacity, 8)


def test_replay_keeps_the_newest_the_recent_and_everything():
    """Episodes are numbered by their reward: 40 of them, eight at a time."""
    cfg = module.DopConfig()
    example = jax.tree.map(lambda leaf: leaf[0], case(SMALL).batch["on"])
    buffer = module.three_replays(cfg)(example, 32, 8)
    state, clock = buffer.init(), CLOCK._replace(episodes=jnp.int32(0))
    for start in range(0, 40, 8):
        number = jnp.arange(start, start + 8, dtype=jnp.float32)
        fresh = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (8, *leaf.shape)), example)
        fresh = fresh._replace(reward=jnp.broadcast_to(number[:, None], (8, T)))
        state = buffer.add(state, clock, fresh)
        clock = clock._replace(episodes=clock.episodes + 8)
    draw = jax.jit(jax.vmap(lambda key: buffer.sample(state, clock, key)))
    sample = draw(jax.random.split(jax.random.key(0), 30))
    drawn = {kind: np.asarray(part.reward)[..., 0] for kind, part in sample.items()}
    assert buffer.prefill == max(cfg.batch_size, cfg.on_batch, cfg.off_batch)
    assert {kind: part.shape for kind, part in drawn.items()} == {"latest": (30, 8), "on": (30, 8), "off": (30, 16)}
    assert set(drawn["latest"].ravel()) == set(range(32, 40))
    assert set(drawn["on"].ravel()) == set(range(24, 40))
    assert set(drawn["off"].ravel()) == set(range(8, 40))
    assert (np.sort(drawn["on"]) != np.sort(drawn["on"])[:1]).any()


@pytest.mark.parametrize(("taken", "due"), [(0, False), (599, False), (600, True), (604, True)])
def test_targets_follow_once_the_critic_has_taken_600_steps_since_the_last_copy(taken, due):
    c = case(SMALL)
    counted = c.agent._replace(opt_state={**c.agent.opt_state, SINCE_COPY: jnp.int32(taken)})
    agent = jax.jit(c.algorithm.refresh)(counted, CLOCK, CLOCK)
    expected = {"critic": c.agent.params["critic"]} if due else c.agent.targets
    actor_critic.assert_trees_equal(agent.targets, expected)
    assert agent.opt_state[SINCE_COPY] == (0 if due else taken)


@pytest.mark.slow  # the contract suite trains every algorithm so, without recurrence
def test_two_seeds_of_the_matrix_game_train_in_one_compiled_program():
    sizes = ("hidden=8", "critic_hidden=8", "batch_size=4", "on_batch=4", "on_capacity=8", "off_batch=4")
    words = [*(f"algo.{word}" for word in sizes), "train.n_envs=4", "train.buffer_capacity=16", "train.seeds=2"]
    config = engine_cases.compose(algo="dop", env="matrix_game", overrides=words)
    chunk, state = engine_cases.chunk_of(config), engine_cases.start(config)
    before = jax.tree.map(np.asarray, state.agent.params)
    state, log = engine_cases.advance(chunk, state, 2)
    assert (np.asarray(log.nonfinite_at) == -1).all()
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.agent.params))
    assert all(actor_critic.moved(before[group], state.agent.params[group]) for group in ("critic", "actor"))
    with engine_cases.counted_compilations() as compiled:
        engine_cases.advance(chunk, state, 2)
    assert compiled == []
