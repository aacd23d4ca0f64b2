"""OW- and CW-QMIX: updates against NumPy, the rules case by case, which loss trains what, what they make of a game."""

from dataclasses import replace
from functools import cache
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.algorithms import weighted_qmix as module
from lsf_jax.config.composition import compose
from tests.support import actor_critic_cases as grads
from tests.support import lsf_sac_cases as cases
from tests.support import matrix_cases as matrix
from tests.support import oracle_q_mixing as oracle
from tests.support.lsf_sac_cases import BATCH, CLOCK, SPEC, A, N

CFG = module.WeightedQmixConfig(
    batch_size=BATCH,
    hidden=8,
    discount=0.9,
    trace=0.6,
    reward_scale=0.5,
    grad_clip=0.0,
    remat=False,
    mixer_embed=4,
    hyper_hidden=6,
    weight=0.3,
    central_weight=0.7,
    central_hidden=5,
)
RULES = {"ow_qmix": module.optimistic, "cw_qmix": module.centrally_weighted}
EVERY = pytest.mark.parametrize("name", RULES)


@cache
def case(name):
    """An algorithm, an agent with targets of its own, a batch and one update."""
    cfg = CFG
    algorithm = ALGORITHMS[name].factory(SPEC, cfg, cases.observe)
    agent = grads.stirred_agent(algorithm)
    games = cases.make_games()
    episodes = cases.episodes_of(games)
    update = jax.jit(algorithm.update)
    updated, metrics = update(agent, episodes, jax.random.key(3), CLOCK, algorithm.hyper)
    params, targets = cases.numpy_tree(agent.params), cases.numpy_tree(agent.targets)
    return SimpleNamespace(**locals())


def updated_with(name, **numbers):
    c = case(name)
    hyper = c.algorithm.hyper._replace(**{key: jnp.float32(value) for key, value in numbers.items()})
    return c.update(c.agent, c.episodes, jax.random.key(3), CLOCK, hyper)


@pytest.mark.default("td_0.6-cw_qmix")
@EVERY
@pytest.mark.parametrize("numbers", [{}, {"trace": 0.0, "weight": 0.05, "central_weight": 2.0}], ids=["td_0.6", "td_0"])
def test_an_update_matches_the_numpy_oracle(name, numbers):
    c = case(name)
    _, metrics = updated_with(name, **numbers)
    expected, weights = oracle.weighted_terms(name, c.params, c.targets, c.games, replace(c.cfg, **numbers))
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=3e-5, err_msg=key)
    assert len(set(weights)) == 2  # the batch has steps of both kinds


def test_the_rules_weigh_this_batch_differently():
    c = case("ow_qmix")
    optimistic, central = (oracle.weighted_terms(name, c.params, c.targets, c.games, CFG)[1] for name in RULES)
    assert optimistic != central


@EVERY
def test_gradients_take_target_and_weight_as_given(name):
    c = case(name)
    found, largest = grads.gradients(c.updated, "q"), 0.0
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(found))

    def loss(params, frozen):
        terms, _ = oracle.weighted_terms(name, params, c.targets, c.games, c.cfg, frozen)
        return terms["td"] + terms["central_td"]

    for path, index in grads.random_places(c.params["q"], np.random.default_rng(2), 14):
        wanted = oracle.derivative(loss, path, index, c.params)
        assert abs(grads.at(found, path, index) - wanted) < 5e-5 * scale + 1e-4 * abs(wanted), (path, index)
        largest = max(largest, abs(wanted))
    assert largest > 1e-2 * scale


def branches(tree):
    """The parameters of QMIX's branch and of the central one."""
    return {name: leaf for name, leaf in tree.items() if name != "central"}, tree["central"]


@EVERY
def test_the_central_loss_trains_the_central_branch_alone(name):
    c = case(name)
    gradients = [grads.gradients(updated_with(name, central_weight=weight)[0], "q") for weight in (0.7, 0.0)]
    (monotonic, central), (same, still) = (branches(tree) for tree in gradients)
    grads.assert_trees_equal(monotonic, same)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(still))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(central))
    assert set(branches(c.params["q"])[0]) == {"agent", "mixer"}


def test_steps_of_weight_0_teach_qmix_nothing():
    """OW with α = 0, where every target is far below: only the central branch learns."""
    c = case("ow_qmix")
    low = c.episodes._replace(reward=c.episodes.reward - 1e3)
    hyper = c.algorithm.hyper._replace(weight=jnp.float32(0.0))
    after, metrics = c.update(c.agent, low, jax.random.key(3), CLOCK, hyper)
    monotonic, central = branches(grads.gradients(after, "q"))
    assert metrics["weight"] == metrics["td"] == 0.0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(monotonic))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(central))


def by_hand(q_total, y, taken, best, best_total):
    """The weight that a rule gives single steps; actions [T, N]."""
    rows = len(q_total)
    column = lambda values: jnp.asarray(values, jnp.float32)[:, None]
    f = module.Forward(
        q=jnp.zeros((rows + 1, 2, 3)),
        q_total=column(q_total),
        central_total=jnp.full((rows, 1), 99.0),
        best_action=jnp.asarray([*best, [0, 0]], jnp.int32),
        best_total=column([*best_total, 0.0]),
    )
    episode = cases.trajectory_of(jax.tree.map(lambda leaf: leaf[0], case("ow_qmix").episodes))
    t = episode._replace(action=jnp.asarray(taken, jnp.int32))
    return f, t, column(y)


def test_ow_counts_in_full_exactly_where_q_total_is_below_the_target():
    f, t, y = by_hand([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [[0, 1]] * 3, [[0, 1]] * 3, [-9.0, -9.0, -9.0])
    np.testing.assert_array_equal(module.optimistic(f, t, y)[:, 0], [True, False, False])


def test_cw_counts_in_full_exactly_where_the_action_is_the_best_or_the_target_above_its_central_value():
    table = [  # u, ū, y, Q*(ū), full
        ([0, 1], [0, 1], 1.0, 5.0, True),  # the best action, however bad
        ([0, 2], [0, 1], 1.0, 5.0, False),  # one agent alone differs
        ([2, 1], [0, 1], 1.0, 5.0, False),
        ([1, 0], [0, 1], 1.0, 5.0, False),  # the same actions by other agents
        ([0, 2], [0, 1], 5.0, 5.0, False),  # as good is not better
        ([0, 2], [0, 1], 5.1, 5.0, True),
    ]
    taken, best, y, best_total, full = (list(column) for column in zip(*table))
    for q_total in (-100.0, 100.0):  # it does not matter what QMIX estimates
        f, t, goal = by_hand([q_total] * len(y), y, taken, best, best_total)
        np.testing.assert_array_equal(module.centrally_weighted(f, t, goal)[:, 0], full)


def test_with_alpha_1_every_step_counts_in_full_and_the_rules_agree():
    results = [updated_with(name, weight=1.0) for name in RULES]
    assert all(metrics["weight"] == 1.0 for _, metrics in results)
    grads.assert_trees_equal(*(agent.params for agent, _ in results))


@EVERY
def test_the_target_is_the_central_networks_and_no_other(name):
    """Other target networks of QMIX's own branch change nothing; another central one does."""
    c = case(name)
    online, target = c.agent.params["q"], c.agent.targets["q"]
    swapped = {"qmix": {**online, "central": target["central"]}, "central": {**target, "central": online["central"]}}
    for branch, targets in swapped.items():
        agent = c.agent._replace(targets={"q": targets})
        after, _ = c.update(agent, c.episodes, jax.random.key(3), CLOCK, c.algorithm.hyper)
        assert grads.moved(after.params, c.updated.params) == (branch == "central")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "elsewhere"), [("ow_qmix", -12.0 / 11.0), ("cw_qmix", -6.0)])
def test_the_papers_game_gets_the_fit_that_the_weights_ask_for(name, elsewhere):
    """8 at the best cell; elsewhere the mean of -12 and 0, in OW with weights α = 0.1 and 1."""
    cfg = replace(CFG, recurrent=False, lr=1e-2, weight=0.1, hyper_hidden=0, central_hidden=8, reward_scale=1.0)
    fits, policies = matrix.trained(name, cfg, steps=500, seeds=4)
    wanted = np.full((3, 3), elsewhere)
    wanted[0, 0] = 8.0
    assert (np.abs(fits - wanted).max(axis=(1, 2)) < 0.5).sum() >= 2, fits
    assert ((policies.argmax(axis=-1) == 0).all(axis=-1)).sum() >= 2


@EVERY
def test_acting_and_joint_table_are_those_of_qmixs_branch(name):
    c, game = case(name), case(name).games[1]
    observation = jax.tree.map(lambda leaf: leaf[1, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.agent, observation, jax.random.key(0))
    q = oracle.utilities(c.params["q"]["agent"], game)[0]
    wanted = [
        oracle.total_monotonic(c.params["q"]["mixer"], q, game.avail[0], joint, game.state[0])[0]
        for joint in product(range(A), repeat=N)
    ]
    np.testing.assert_allclose(table.utilities, q, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.q_total, wanted, rtol=1e-4, atol=1e-5)
    grads.assert_trees_equal(c.algorithm.policy_params(c.agent), c.agent.params["q"]["agent"])


@EVERY
def test_the_defaults_are_those_of_the_published_code(name):
    algo = compose(algo=name).algo
    assert (algo.weight, algo.central_weight, algo.central_hidden) == (0.1, 1.0, 256)
    assert (algo.mixer_embed, algo.hyper_hidden, algo.target_interval) == (32, 64, 200)
