"""VDAC and MAA2C: losses and gradients of a whole update against NumPy, what is left out of them, a run end to end."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.algorithms import vdac as module
from lsf_jax.algorithms.base import hyper_of, learned_policy
from lsf_jax.config.composition import compose
from lsf_jax.types import Layout, Observation, Trajectory
from tests.support import actor_critic_cases as actor_critic
from tests.support import engine_cases
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_lsf_sac as networks
from tests.support import oracle_vdac as oracle
from tests.support.lsf_sac_cases import BATCH, CLOCK, SPEC, A, N, T

SIZES = {"batch_size": BATCH, "hidden": 8, "discount": 0.9, "trace": 0.6, "reward_scale": 0.5}
MORE = {"entropy_weight": 0.3, "value_weight": 0.7, "grad_clip": 0.0, "remat": False}
MIXER = {"mixer_embed": 4, "hyper_hidden": 6}
CONFIGS = {
    "vdac_sum": module.VdacConfig(**SIZES, **MORE),
    "vdac_mix": module.VdacMixConfig(**SIZES, **MORE, **MIXER),
    "maa2c": module.Maa2cConfig(**SIZES, **MORE, **MIXER),
}
CONFIGS = {name: replace(cfg, epsilon_floor="outside") for name, cfg in CONFIGS.items()}
CONFIGS["vdac_mix, floor inside"] = replace(CONFIGS["vdac_mix"], epsilon_floor="inside")
CONFIGS["vdac_sum, floor over all"] = replace(CONFIGS["vdac_sum"], epsilon_floor="inside", floor_over="all")
GROUPS = [(name, "actor_critic") for name in CONFIGS if name != "maa2c"] + [("maa2c", "critic"), ("maa2c", "actor")]
STEPS = int(CLOCK.env_steps)


@cache
def case(name):
    """An algorithm, an agent, a batch and one update of it."""
    cfg = CONFIGS[name]
    algorithm = ALGORITHMS[name.split(",")[0]].factory(SPEC, cfg, cases.observe)
    agent = actor_critic.stirred_agent(algorithm)
    games = cases.make_games()
    episodes = cases.episodes_of(games)
    update = jax.jit(algorithm.update)
    updated, metrics = update(agent, episodes, jax.random.key(3), CLOCK, algorithm.hyper)
    return SimpleNamespace(**locals(), params=cases.numpy_tree(agent.params))


@pytest.mark.default("maa2c", "vdac_sum", "vdac_mix, floor inside")
@pytest.mark.parametrize("name", CONFIGS)
def test_losses_of_an_update_match_the_numpy_oracle(name):
    c = case(name)
    given = [oracle.value_total(c.params, game) for game in c.games]
    for term, value in oracle.loss_terms(c.params, c.games, c.cfg, given, STEPS).items():
        np.testing.assert_allclose(c.metrics[term], value, rtol=2e-5, err_msg=term)
    steps = [value for game, rows in zip(c.games, given) for value in rows[: game.length]]
    np.testing.assert_allclose(c.metrics["value_total"], np.mean(steps), rtol=2e-5)
    assert -c.metrics["entropy_bonus"] < 0.95 * c.cfg.entropy_weight * c.metrics["entropy"]  # some have no choice


@pytest.mark.parametrize(("name", "group"), GROUPS)
def test_gradients_take_targets_and_advantages_as_given_and_each_group_its_own_loss(name, group):
    c = case(name)
    found, largest = actor_critic.gradients(c.updated, group), 0.0
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(found))
    for path, index in actor_critic.random_places(c.params[group], np.random.default_rng(1), 10):
        wanted = oracle.derivative(group, path, index, c.params, c.games, c.cfg, STEPS)
        assert abs(actor_critic.at(found, path, index) - wanted) < 5e-5 * scale + 1e-4 * abs(wanted), (path, index)
        largest = max(largest, abs(wanted))
    assert largest > 1e-2 * scale


def test_the_groups_of_maa2c_step_by_their_own_learning_rates():
    c = case("maa2c")
    for name, group in (("lr", "critic"), ("actor_lr", "actor")):
        still = c.algorithm.hyper._replace(**{name: jnp.float32(0.0)})
        after, _ = c.update(c.agent, c.episodes, jax.random.key(3), CLOCK, still)
        for other in ("critic", "actor"):
            assert actor_critic.moved(c.agent.params[other], after.params[other]) == (other != group)


def policy_terms(logits):
    """The policy loss's terms [B, T] as functions of logits, for the values of `vdac_sum`."""
    c = case("vdac_sum")
    trajectories = jax.vmap(cases.trajectory_of)(c.episodes)
    values = jnp.asarray(np.random.default_rng(2).normal(size=(BATCH, T + 1)), jnp.float32)

    def one(logits, value, t):
        forward, policy = module.Forward(logits=logits, value_total=value), learned_policy(c.cfg)
        return module.policy_loss(forward, t, CLOCK, c.algorithm.hyper, policy=policy)

    return jax.vmap(one)(logits, values, trajectories)


def test_dead_agents_and_unavailable_actions_add_nothing_to_the_policy_loss():
    avail = np.asarray(case("vdac_sum").episodes.world.avail)[:, :-1]
    free = avail & (avail.sum(-1, keepdims=True) > 1)
    logits = jnp.asarray(np.random.default_rng(5).normal(size=(BATCH, T, N, A)), jnp.float32)
    before, after = policy_terms(logits), policy_terms(jnp.where(free, logits, 7.0))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    slope = jax.grad(lambda x: sum(term.sum() for term in jax.tree.leaves(policy_terms(x))))(logits)
    assert (np.asarray(slope)[~free] == 0).all()
    assert (np.asarray(slope)[free] != 0).mean() > 0.99
    assert (~free & avail).any()


def test_only_a_floor_inside_of_the_policy_is_seen_by_what_learns():
    late = CLOCK._replace(env_steps=jnp.int32(10**6))
    for name in ("vdac_mix", "vdac_mix, floor inside"):
        c = case(name)
        again, _ = c.update(c.agent, c.episodes, jax.random.key(3), late, c.algorithm.hyper)
        assert actor_critic.moved(again.params, c.updated.params) == (name != "vdac_mix")
    late_metrics = c.update(c.agent, c.episodes, jax.random.key(3), late, c.algorithm.hyper)[1]
    np.testing.assert_allclose(late_metrics["policy"], case("vdac_mix").metrics["policy"], rtol=1e-5)  # ε is 0


def every_joint_action(logits, cfg):
    """The policy loss of one step for each of 9 joint actions of two agents, and how likely ε and π make it."""
    joint = jnp.asarray(list(np.ndindex(3, 3)), jnp.int32)
    seen = Observation(obs=jnp.zeros((9, 2, 2, 1)), state=jnp.zeros((9, 2, 1)), avail=jnp.ones((9, 2, 2, 3), bool))
    ones = jnp.ones((9, 1), bool)
    t = Trajectory(
        observation=seen,
        action=joint[:, None],
        reward=PAYOFF.reshape(9, 1),
        terminal=ones,
        valid=ones,
        layout=Layout(first=jnp.broadcast_to(jnp.array([True, False]), (9, 2))),
    )
    f = module.Forward(logits=jnp.broadcast_to(logits, (9, 1, 2, 3)), value_total=jnp.full((9, 2), 1.5))
    loss = partial(module.policy_loss, policy=learned_policy(cfg))
    run = jax.vmap(lambda f, t: loss(f, t, CLOCK, hyper_of(cfg))["policy"][0])
    return run(f, t), jax.vmap(lambda u: acting(logits)[jnp.arange(2), u].prod())(joint)


def acting(logits):
    """The policy that acts at `CLOCK`, from the definition of ε."""
    floor = oracle.epsilon(STEPS, CONFIGS["vdac_mix"])
    return (1.0 - floor) * jax.nn.softmax(logits, axis=-1) + floor / 3.0


PAYOFF = jnp.asarray([[1.0, 4.0, 2.0], [0.0, 3.0, 1.0], [2.0, 5.0, 3.0]])


@pytest.mark.parametrize("floor", ["inside", "outside"])
def test_the_gradient_is_that_of_the_expected_reward_if_the_floor_is_inside(floor):
    cfg = replace(CONFIGS["vdac_mix"], epsilon_floor=floor, reward_scale=1.0, entropy_weight=0.0)
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(2, 3)) * 2.0, jnp.float32)
    _, likely = every_joint_action(logits, cfg)
    found = jax.grad(lambda x: (likely * every_joint_action(x, cfg)[0]).sum())(logits)
    wanted = jax.grad(lambda x: -jnp.einsum("i,j,ij->", *acting(x), PAYOFF) / 2.0)(logits)  # a mean over two agents
    unbiased = np.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert unbiased == (floor == "inside")


def test_an_entropy_weight_of_zero_is_the_original():
    c = case("vdac_sum")
    hyper = hyper_of(replace(c.cfg, entropy_weight=0.0))
    after, metrics = c.update(c.agent, c.episodes, jax.random.key(3), CLOCK, hyper)
    assert metrics["entropy_bonus"] == 0.0
    assert metrics["policy"] == c.metrics["policy"]
    assert actor_critic.moved(after.params, c.updated.params)


def test_vdac_sum_has_nothing_that_mixes_and_no_algorithm_a_target_network():
    for name in CONFIGS:
        c = case(name)
        mixer = c.params.get("actor_critic", c.params.get("critic"))["mixer"]
        assert (mixer == {}) == name.startswith("vdac_sum")
        assert c.agent.targets == {}
        later = CLOCK._replace(episodes=jnp.int32(10**6))
        assert c.algorithm.refresh(c.agent, later, CLOCK) is c.agent


@pytest.mark.parametrize("name", CONFIGS)
def test_joint_table_is_the_first_policy_and_nothing_else(name):
    c, row = case(name), 0
    game = c.games[row]
    observation = jax.tree.map(lambda leaf: leaf[row, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.agent, observation, jax.random.key(0))
    logits = oracle.heads(c.params, game)[0][0]
    wanted = [networks.softmax_over(logits[i], game.avail[0, i]) for i in range(N)]
    np.testing.assert_allclose(table.policy, wanted, rtol=1e-5, atol=1e-6)
    assert (np.asarray(table.policy)[~game.avail[0]] == 0).all()
    assert np.isnan(table.utilities).all()
    assert np.isnan(table.q_total).all()
    assert table.q_total.shape == (A**N,)


def test_an_update_sees_exactly_the_newest_episodes():
    c = case("vdac_mix")
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), c.episodes)
    buffer = c.algorithm.replay(example, 1000, BATCH)
    state, fresh = buffer.init(), cases.episodes_of(cases.make_games(1))
    for count, episodes in enumerate((c.episodes, fresh)):
        state = buffer.add(state, CLOCK._replace(episodes=jnp.int32(count * BATCH)), episodes)
    np.testing.assert_array_equal(buffer.sample(state, CLOCK, jax.random.key(0)).reward, fresh.reward)


SHORT = ("algo.hidden=8", "algo.batch_size=4", "train.n_envs=4", "train.seeds=2", "train.devices=1")


def test_exploration_shrinks_to_nothing_by_default():
    config = compose(algo="maa2c", env="matrix_game")
    assert (config.algo.updates, config.algo.epsilon_start, config.algo.epsilon_finish) == (1, 0.5, 0.0)


@pytest.mark.slow  # the contract suite trains every algorithm so, without recurrence
def test_two_seeds_of_the_matrix_game_train_in_one_compiled_program():
    config = compose(algo="maa2c", env="matrix_game", overrides=SHORT)
    chunk, state = engine_cases.chunk_of(config), engine_cases.start(config)
    before = jax.tree.map(np.array, state.agent.params)
    state, log = engine_cases.advance(chunk, state, 2)
    assert all(np.isfinite(values[:2]).all() for values in log.metrics.values())
    assert actor_critic.moved(before, state.agent.params)
    with engine_cases.counted_compilations() as compiled:
        engine_cases.advance(chunk, state, 2)
    assert compiled == []
