"""FOP: targets, losses and gradients of a whole update against NumPy, the schedule of α, and a run end to end."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import fop as module
from lsf_jax.types import Clock, Layout
from tests.support import actor_critic_cases as actor_critic
from tests.support import engine_cases
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_fop as oracle
from tests.support.lsf_sac_cases import BATCH, SPEC, A, N, T

WHOLE = Layout(jnp.arange(T) == 0)  # one episode

SMALL = module.FopConfig(
    batch_size=BATCH,
    hidden=8,
    critic_hidden=5,
    heads=2,
    mixer_embed=4,
    discount=0.9,
    trace=0.6,
    reward_scale=0.5,
    grad_clip=0.0,
    remat=False,
)
UPSTREAM = replace(SMALL, soft_mask=False, entropy_in_target="after")
CLOCK = Clock(env_steps=jnp.int32(40_000), episodes=jnp.int32(8), updates=jnp.int32(1))  # α = 0.3
ALPHA = oracle.temperature(40_000)


@cache
def case(cfg):
    """An algorithm, an agent, a batch, one update of it, and the next joint actions that the update drew."""
    algorithm = module.make_fop(SPEC, cfg, cases.observe)
    agent = actor_critic.stirred_agent(algorithm, keep=("temperature",))
    games, key = cases.make_games(), jax.random.key(3)
    episodes = cases.episodes_of(games)
    update = jax.jit(algorithm.update)
    updated, metrics = update(agent, episodes, key, CLOCK, algorithm.hyper)
    params, targets = cases.numpy_tree(agent.params), cases.numpy_tree(agent.targets)
    return SimpleNamespace(**locals(), next_actions=drawn_actions(params, games, key))


def drawn_actions(params, games, key):
    """u' ~ π at rows 1..T of every episode, as the engine splits its key; π is the oracle's."""
    out = []
    draw = jax.vmap(jax.random.categorical)
    for game, keys in zip(games, cases.keys_of(key)):
        log_pi = np.where(game.avail, oracle.policy(params["actor"], game)[1], -np.inf)[1:]
        out.append(np.asarray(draw(keys[1:], jnp.asarray(log_pi, jnp.float32))))
    return out


def expected(cfg, c, env_steps=40_000):
    return oracle.loss_terms(c.params, c.targets, c.games, c.next_actions, oracle.temperature(env_steps), cfg)


@pytest.mark.default("True-inside", "False-after")
@pytest.mark.parametrize("entropy_in_target", ["inside", "after"])
@pytest.mark.parametrize("soft_mask", [True, False])
def test_losses_of_an_update_match_the_numpy_oracle(soft_mask, entropy_in_target):
    cfg = replace(SMALL, soft_mask=soft_mask, entropy_in_target=entropy_in_target)
    c = case(cfg)
    for name, value in expected(cfg, c).items():
        np.testing.assert_allclose(c.metrics[name], value, rtol=2e-5, err_msg=name)


def test_both_switches_change_what_the_critics_learn():
    found = {cfg: expected(cfg, case(cfg))["td"] for cfg in (SMALL, UPSTREAM, replace(SMALL, soft_mask=False))}
    values = sorted(found.values())
    assert min(np.diff(values)) > 1e-2 * values[0]


@pytest.mark.parametrize("group", ["critic", "actor"])
@pytest.mark.parametrize("cfg", [SMALL, UPSTREAM], ids=["ours", "upstream"])
def test_each_group_descends_its_own_loss_alone(cfg, group):
    """Central differences of the group's own loss, everything that the loss takes as given standing still."""
    c = case(cfg)
    found, largest = actor_critic.gradients(c.updated, group), 0.0
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(found))
    for path, index in actor_critic.random_places(c.params[group], np.random.default_rng(1), 10):
        inputs = (c.params, c.targets, c.games, c.next_actions, ALPHA, cfg)
        wanted = oracle.derivative(group, path, index, *inputs)
        assert abs(actor_critic.at(found, path, index) - wanted) < 5e-5 * scale + 1e-4 * abs(wanted), (path, index)
        largest = max(largest, abs(wanted))
    assert largest > 1e-2 * scale


def test_the_entropy_stays_out_of_a_terminal_steps_target_only_where_it_is_inside():
    """The last step of a game that ended pays its reward and nothing else; upstream adds an entropy all the same."""
    c = case(SMALL)
    game, steps = c.games[4], np.arange(T)
    assert (game.length, bool(game.terminal[0])) == (1, True)
    trajectory = jax.tree.map(lambda leaf: leaf[4], jax.vmap(cases.trajectory_of)(c.episodes))
    rng = np.random.default_rng(0)
    f = module.Forward(
        log_pi=jnp.asarray(-rng.random((T + 1, N, A)), jnp.float32),
        q=jnp.zeros((2, T, N, A)),
        q_total=jnp.zeros((2, T)),
        next_action=jnp.zeros((T, N), jnp.int32),
        next_total=jnp.asarray(rng.normal(size=(2, T)), jnp.float32),
        alpha=jnp.float32(0.3),
    )
    reward = SMALL.reward_scale * game.reward[0]
    extra = -0.3 * np.asarray(f.log_pi)[1, :, 0].mean()
    inside = module.target_with_entropy_inside(f, trajectory, c.algorithm.hyper)
    after = module.target_with_entropy_after(f, trajectory, c.algorithm.hyper)
    np.testing.assert_allclose(inside[steps < 1], reward, rtol=1e-6)
    np.testing.assert_allclose(after[steps < 1], reward + extra, rtol=1e-6)
    assert extra > 0.05


def test_the_next_joint_action_is_drawn_from_the_current_policy_among_available_actions():
    c = case(SMALL)
    game = c.games[0]
    trajectory = jax.tree.map(lambda leaf: leaf[0], jax.vmap(cases.trajectory_of)(c.episodes))
    net = module.make_networks(SPEC, SMALL)
    draw = lambda keys: module.forward(c.agent.params, c.agent.targets, trajectory, keys, net=net).next_action
    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), (4000, T + 1))))
    frequency = (drawn[..., None] == np.arange(A)).mean(axis=0)
    pi = oracle.policy(c.params["actor"], game)[0][1:]
    assert (frequency[~game.avail[1:]] == 0).all()
    np.testing.assert_allclose(frequency, pi, atol=4 * 0.5 / np.sqrt(4000))


@pytest.mark.parametrize("env_steps", [0, 1, 45_000, 89_999, 90_000, 90_001, 10_000_000])
def test_alpha_follows_the_published_schedule_and_stays_in_the_parameters(env_steps):
    c = case(SMALL)
    clock = CLOCK._replace(env_steps=jnp.int32(env_steps))
    agent, metrics = c.update(c.agent, c.episodes, c.key, clock, c.algorithm.hyper)
    for alpha in (metrics["alpha"], agent.params["temperature"]):
        np.testing.assert_allclose(alpha, oracle.temperature(env_steps), rtol=1e-5)
    np.testing.assert_allclose(metrics["policy"], expected(SMALL, c, env_steps)["policy"], rtol=2e-5)


def test_a_new_agent_has_alpha_start_two_different_critics_and_targets_equal_to_them():
    c = case(SMALL)
    agent = jax.jit(c.algorithm.init)(jax.random.key(5), c.algorithm.hyper)
    assert agent.params["temperature"] == jnp.float32(0.5)
    actor_critic.assert_trees_equal(agent.params["critic"], agent.targets["critic"])
    for leaf in jax.tree.leaves(agent.params["critic"]):
        assert leaf.shape[0] == 2
        assert (leaf[0] != leaf[1]).any()


def test_critics_read_one_observation_and_neither_state_nor_history():
    c = case(SMALL)
    net = module.make_networks(SPEC, SMALL)
    seen = c.episodes.world
    seen = jax.tree.map(lambda leaf: leaf[0, :T], seen)

    def q(seen):
        return np.asarray(module.evaluate(net, c.agent.params["critic"], WHOLE, seen, action, jnp.float32(0.3))[0])

    action = jnp.zeros((T, N), jnp.int32)
    np.testing.assert_array_equal(q(seen), q(seen._replace(state=seen.state + 1.0)))
    changed = q(seen) != q(seen._replace(obs=seen.obs.at[2, 1].add(1.0)))
    np.testing.assert_array_equal(changed.any(axis=(0, -1)), (np.arange(T)[:, None] == 2) & (np.arange(N) == 1))


@pytest.mark.parametrize(("cfg", "matters"), [(SMALL, False), (UPSTREAM, True)], ids=["masked", "upstream"])
def test_values_of_unavailable_actions_reach_q_total_only_in_the_unmasked_soft_value(cfg, matters):
    """The last layer's bias of one action, at rows where no agent may take it."""
    c, net = case(cfg), module.make_networks(SPEC, cfg)
    seen = jax.tree.map(lambda leaf: leaf[0, :T], c.episodes.world)
    seen = seen._replace(avail=jnp.broadcast_to(jnp.arange(A) != A - 1, (T, N, A)))
    bias = c.agent.params["critic"]["critic"]["Linear_2"]["bias"]
    raised = {**c.agent.params["critic"]["critic"]}
    raised["Linear_2"] = {**raised["Linear_2"], "bias": bias.at[:, A - 1].add(2.0)}
    action = jnp.zeros((T, N), jnp.int32)
    both = [
        module.evaluate(net, {**c.agent.params["critic"], "critic": critic}, WHOLE, seen, action, jnp.float32(0.3))[1]
        for critic in (c.agent.params["critic"]["critic"], raised)
    ]
    assert bool((both[0] != both[1]).all()) == matters
    assert bool((both[0] == both[1]).all()) != matters


def test_joint_table_equals_brute_force_enumeration_at_the_alpha_of_the_last_update():
    c, game = case(SMALL), case(SMALL).games[0]
    observation = jax.tree.map(lambda leaf: leaf[0, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.updated, observation, c.key)
    params = cases.numpy_tree(c.updated.params)
    first = game._replace(obs=game.obs[:1], state=game.state[:1], avail=game.avail[:1], action=game.action[:0])
    critics = [oracle.twin(params["critic"], k) for k in range(2)]
    q = [oracle.local_values(p["critic"], first) for p in critics]
    for number in range(A**N):
        joint = [number // A ** (N - 1 - i) % A for i in range(N)]
        values = [oracle.q_total(p, first, q[k], 0, joint, ALPHA, True) for k, p in enumerate(critics)]
        np.testing.assert_allclose(table.q_total[number], np.mean(values), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(table.utilities, (q[0] + q[1])[0] / 2, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(table.policy, oracle.policy(params["actor"], first)[0][0], rtol=2e-5, atol=1e-7)


@pytest.mark.slow  # the contract suite trains every algorithm so, without recurrence
def test_two_seeds_of_the_matrix_game_train_in_one_compiled_program():
    small = ("hidden=8", "critic_hidden=8", "mixer_embed=4", "heads=2", "batch_size=4")
    config = engine_cases.compose(
        algo="fop",
        env="matrix_game",
        overrides=[*(f"algo.{word}" for word in small), "train.n_envs=4", "train.buffer_capacity=16", "train.seeds=2"],
    )
    chunk, state = engine_cases.chunk_of(config), engine_cases.start(config)
    state, log = engine_cases.advance(chunk, state, 2)
    assert (np.asarray(log.nonfinite_at) == -1).all()
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.agent.params))
    assert np.isfinite(np.asarray(log.metrics["td"])[:2]).all()
    with engine_cases.counted_compilations() as compiled:
        engine_cases.advance(chunk, state, 2)
    assert compiled == []
