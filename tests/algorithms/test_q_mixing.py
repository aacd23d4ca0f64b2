"""IQL, VDN, QMIX and QPLEX: whole updates against NumPy, IGM by enumeration, what each makes of the paper's game."""

from dataclasses import replace
from functools import cache, partial
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.algorithms import q_learning as module
from lsf_jax.algorithms.configs import MixedValueConfig, ValueConfig
from lsf_jax.networks.mixers import free_mixer
from tests.support import actor_critic_cases as grads
from tests.support import lsf_sac_cases as cases
from tests.support import matrix_cases as matrix
from tests.support import oracle_q_mixing as oracle
from tests.support.lsf_sac_cases import BATCH, CLOCK, SPEC, A, N

SIZES = {"batch_size": BATCH, "hidden": 8, "discount": 0.9, "trace": 0.6, "reward_scale": 0.5}
SIZES |= {"grad_clip": 0.0, "remat": False}
CONFIGS = {
    "iql": ValueConfig(**SIZES),
    "vdn": ValueConfig(**SIZES),
    "qmix": MixedValueConfig(**SIZES, mixer_embed=4, hyper_hidden=6),
    "qplex": module.QplexConfig(**SIZES, heads=3, adv_layers=2, hyper_hidden=6),
}
EVERY = pytest.mark.parametrize("name", CONFIGS)
LOGGED = ("td", "q_total", "q_utility", "q_gap", "reward")


@cache
def case(name):
    """An algorithm, an agent with targets of its own, a batch and one update."""
    cfg = CONFIGS[name]
    algorithm = ALGORITHMS[name].factory(SPEC, cfg, cases.observe)
    agent = grads.stirred_agent(algorithm)
    games = cases.make_games()
    episodes = cases.episodes_of(games)
    update = jax.jit(algorithm.update)
    updated, metrics = update(agent, episodes, jax.random.key(3), CLOCK, algorithm.hyper)
    params, targets = cases.numpy_tree(agent.params), cases.numpy_tree(agent.targets)
    return SimpleNamespace(**locals())


@pytest.mark.default("0.0-qplex", "0.0-vdn")
@EVERY
@pytest.mark.parametrize("trace", [0.0, 0.6])
def test_an_update_matches_the_numpy_oracle(name, trace):
    c = case(name)
    hyper = c.algorithm.hyper._replace(trace=jnp.float32(trace))
    _, metrics = c.update(c.agent, c.episodes, jax.random.key(3), CLOCK, hyper)
    expected = oracle.loss_terms(name, c.params, c.targets, c.games, replace(c.cfg, trace=trace))
    for key in LOGGED:
        np.testing.assert_allclose(metrics[key], expected[key], rtol=3e-5, err_msg=key)


@EVERY
def test_gradients_take_targets_as_given_and_in_qplex_advantages_too(name):
    c = case(name)
    found, largest = grads.gradients(c.updated, "q"), 0.0
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(found))

    def loss(params, frozen):
        return oracle.loss_terms(name, params, c.targets, c.games, c.cfg, frozen)["td"]

    for path, index in grads.random_places(c.params["q"], np.random.default_rng(1), 12):
        wanted = oracle.derivative(loss, path, index, c.params)
        assert abs(grads.at(found, path, index) - wanted) < 5e-5 * scale + 1e-4 * abs(wanted), (path, index)
        largest = max(largest, abs(wanted))
    assert largest > 1e-2 * scale


@EVERY
def test_on_this_batch_the_target_depends_on_who_chooses_and_from_what(name):
    """What the oracle test could not see if every reading of the target gave the same number."""
    c = case(name)
    p, target = c.params["q"], c.targets["q"]
    free = [game._replace(avail=np.ones_like(game.avail)) for game in c.games]
    readings = [
        [oracle.targets_of(name, p, target, game, c.cfg) for game in c.games],
        [oracle.targets_of(name, p, target, game, c.cfg, chooser=target) for game in c.games],
        [oracle.targets_of(name, p, p, game, c.cfg) for game in c.games],
        [oracle.targets_of(name, p, target, game, c.cfg) for game in free],
    ]
    flat = [np.concatenate([np.array(y) for y in reading]) for reading in readings]
    for other in flat[1:]:
        assert np.abs(other - flat[0]).max() > 0.05


def test_without_a_mixer_every_agent_learns_from_its_own_error_alone():
    """What agent 1 sees changes no other agent's error: with IQL the mean of agents' losses changes by its share."""
    c = case("iql")
    net = module.Networks(agent=module.make_agent(SPEC, c.cfg), mixer=None)
    trajectory = cases.trajectory_of(jax.tree.map(lambda leaf: leaf[0], c.episodes))
    seen = trajectory.observation
    blind = trajectory._replace(observation=seen._replace(obs=seen.obs.at[:, 1].add(1.0)))
    run = jax.jit(partial(module.forward, c.agent.params, c.agent.targets, net=net))
    errors = []
    for t in (trajectory, blind):
        f = run(t, cases.keys_of(jax.random.key(0))[0])
        errors.append(np.asarray(f.q_total - module.td_target(f.next_total, t, c.algorithm.hyper)))
    changed = (errors[0] != errors[1]).any(axis=0)
    np.testing.assert_array_equal(changed, np.arange(N) == 1)


@EVERY
def test_targets_are_copied_whole_every_target_interval_of_episodes(name):
    c = case(name)
    before = CLOCK._replace(episodes=jnp.int32(192))
    for episodes, copied in ((199, False), (200, True)):
        after = c.algorithm.refresh(c.agent, CLOCK._replace(episodes=jnp.int32(episodes)), before)
        grads.assert_trees_equal(after.targets, c.agent.params if copied else c.agent.targets)


def stirred_tables(net, draws):
    """Joint tables of many random networks in one observation with unavailable actions."""
    born = jax.eval_shape(partial(module.init_params, net, SPEC), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=(draws, *leaf.shape)), leaf.dtype), born)
    game = cases.make_games()[0]
    observation = jax.tree.map(lambda leaf: leaf[0, 0], cases.episodes_of([game]).world)
    assert not game.avail[0].all()

    def one(p):
        agent = cases.AgentState(params={"q": p}, targets={}, opt_state={})
        return module.joint_table(agent, observation, jax.random.key(0), net=net)

    return game.avail[0], jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(params))


def is_greedy_best(avail, table, draw):
    """Whether no available joint action has a larger Q_tot than that of the agents' own best actions."""
    best = [max(np.flatnonzero(avail[i]).tolist(), key=lambda a, i=i: table.utilities[draw, i, a]) for i in range(N)]
    np.testing.assert_array_equal(table.policy[draw], np.eye(A)[best])
    totals = {joint: table.q_total[draw, number] for number, joint in enumerate(product(range(A), repeat=N))}
    available = [totals[joint] for joint in totals if all(avail[i, a] for i, a in enumerate(joint))]
    return max(available) - totals[tuple(best)] <= 1e-5 * np.abs(available).max()


@pytest.mark.parametrize("name", ["vdn", "qmix", "qplex"])
def test_igm_the_best_joint_action_is_every_agents_own_best_one(name):
    avail, table = stirred_tables(matrix.networks(SPEC, name, CONFIGS[name]), draws=100)
    assert all(is_greedy_best(avail, table, draw) for draw in range(100))


def test_igm_is_not_a_matter_of_course():
    net = matrix.networks(SPEC, "iql", CONFIGS["iql"])._replace(mixer=free_mixer(SPEC, hidden=8))
    avail, table = stirred_tables(net, draws=100)
    assert np.mean([is_greedy_best(avail, table, draw) for draw in range(100)]) < 0.5


@EVERY
def test_joint_table_equals_enumeration_in_numpy(name):
    c, game = case(name), case(name).games[1]
    observation = jax.tree.map(lambda leaf: leaf[1, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.agent, observation, jax.random.key(0))
    q = oracle.utilities(c.params["q"]["agent"], game)[0]
    np.testing.assert_allclose(table.utilities, q, rtol=1e-4, atol=1e-5)
    if name == "iql":
        assert table.q_total.shape == (A**N,)
        assert np.isnan(table.q_total).all()
        return
    wanted = [
        oracle.TOTALS[name](c.params["q"]["mixer"], q, game.avail[0], joint, game.state[0])[0]
        for joint in product(range(A), repeat=N)
    ]
    np.testing.assert_allclose(table.q_total, wanted, rtol=1e-4, atol=1e-5)


def test_vdn_fits_the_papers_game_as_additive_least_squares_do():
    """Under uniform data: qᵢ(a) = mean of row a - half of the mean; MSE 50.57, and (B, B) looks best."""
    rows, mean = matrix.PAYOFF.mean(axis=1), matrix.PAYOFF.mean()
    wanted = rows[:, None] + rows[None, :] - mean
    np.testing.assert_allclose(wanted[0], [-6.22, -4.89, -4.89], atol=0.01)
    fits, _ = matrix.trained("vdn", ValueConfig(hidden=8, recurrent=False, lr=1e-2), steps=500, seeds=2)
    for fit in fits:
        np.testing.assert_allclose(fit, wanted, atol=0.02)
        np.testing.assert_allclose(np.square(fit - matrix.PAYOFF).mean(), 50.57, atol=0.02)


def exact_qplex(params):
    """Parameters by hand, from zeros: q = (4, 3, 3), w = 1, b = 0; λᵢ = 20 where the other agent plays A, else 4."""
    params = jax.tree.map(lambda leaf: leaf, params)  # dicts of its own
    agent, mixer = params["agent"], params["mixer"]
    agent["output_layer"]["bias"] = jnp.array([4.0, 3.0, 3.0])
    mixer["scale"]["Linear_1"]["bias"] = jnp.ones(2)
    heads = mixer["importance"]["heads"]  # one head: |40| · σ(30) · σ(logit), a tenth or a half
    heads["key"]["Linear_0"]["bias"] = jnp.array([[40.0]])
    heads["agents"]["Linear_0"]["bias"] = jnp.full((1, 2), 30.0)
    logit = jnp.log(9.0)
    heads["actions"]["Linear_0"]["bias"] = jnp.full((1, 2), -logit)
    first, second = matrix.ENV.spec.state_dim, matrix.ENV.spec.state_dim + 3  # inputs: agent 1 plays A, agent 2 does
    kernel = heads["actions"]["Linear_0"]["kernel"]
    heads["actions"]["Linear_0"]["kernel"] = kernel.at[0, first, 1].set(logit).at[0, second, 0].set(logit)
    return params


def test_qplex_represents_the_papers_game_exactly():
    cfg = module.QplexConfig(hidden=8, recurrent=False, heads=1, adv_layers=1, hyper_hidden=4)
    algorithm = ALGORITHMS["qplex"].factory(matrix.ENV.spec, cfg, matrix.observe)
    born = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), born)
    exact = zeros._replace(params={"q": exact_qplex(zeros.params["q"])})
    table = jax.jit(algorithm.joint_table)(exact, matrix.FIRST, jax.random.key(0))
    np.testing.assert_allclose(table.q_total.reshape(3, 3), matrix.PAYOFF, atol=1e-4)
    np.testing.assert_array_equal(table.policy.argmax(axis=-1), [0, 0])


@pytest.mark.slow
def test_qplex_learns_the_papers_game_exactly_once_its_agents_prefer_the_best_action():
    """From utilities born anywhere it may take very long: QPLEX's own runs of this game have 210,000 updates."""
    cfg = module.QplexConfig(hidden=8, recurrent=False, heads=10, adv_layers=3, hyper_hidden=16, lr=3e-3)

    def prefer(params):
        output = params["agent"]["output_layer"]
        preferred = {**output, "bias": output["bias"].at[0].add(10.0)}
        return {**params, "agent": {**params["agent"], "output_layer": preferred}}

    fits, policies = matrix.trained("qplex", cfg, steps=450, seeds=4, start=prefer)
    errors = np.abs(fits - matrix.PAYOFF).max(axis=(1, 2))
    assert (errors < 0.1).sum() >= 2, errors
    assert (policies[errors < 0.1].argmax(axis=-1) == 0).all()


def test_the_optimizer_of_the_configuration_takes_the_step():
    """RMSprop's first step is g / (√(0.01 g²) + 1e-5): ten times the sign of a gradient that is not tiny."""
    c = case("vdn")
    cfg = replace(c.cfg, optimizer="rmsprop", lr=1e-3)
    algorithm = ALGORITHMS["vdn"].factory(SPEC, cfg, cases.observe)
    agent = c.agent._replace(opt_state=jax.jit(algorithm.init)(jax.random.key(0), algorithm.hyper).opt_state)
    after, _ = jax.jit(algorithm.update)(agent, c.episodes, jax.random.key(3), CLOCK, algorithm.hyper)
    gradients = grads.gradients(c.updated, "q")
    wanted = jax.tree.map(lambda p, g: p - 1e-3 * g / (0.1 * np.abs(g) + 1e-5), c.params["q"], gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), after.params["q"], wanted)


SHORT = ("algo.hidden=8", "algo.batch_size=4", "algo.recurrent=false", "train.seeds=2", "train.devices=1")
