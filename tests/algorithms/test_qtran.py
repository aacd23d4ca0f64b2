"""QTRAN-base and QTRAN-alt against NumPy loops: values, the three losses, their gradients, who learns from which."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import qtran
from lsf_jax.engine.learner import detach_others, sum_over_valid
from lsf_jax.networks.agents import trajectory_inputs, unroll_features
from lsf_jax.types import Layout, Trajectory
from tests.support import oracle_qtran as oracle
from tests.support import value_cases as cases
from tests.support.lsf_sac_cases import CLOCK, SPEC, A, N, T, keys_of, trajectory_of, valid_steps

VARIANTS = {"qtran": qtran.BASE, "qtran_alt": qtran.ALT}
WEIGHTS = {"opt_weight": 0.7, "nopt_weight": 0.4, "joint_hidden": 5, "joint_layers": 2}
CONFIGS = {
    "qtran": qtran.QtranConfig(**cases.SMALL, **WEIGHTS),
    "qtran_alt": qtran.QtranAltConfig(**cases.SMALL, **WEIGHTS),
    "qtran_big": qtran.QtranConfig(**cases.SMALL, **{**WEIGHTS, "joint_layers": 3}, recurrent=False),
    "qtran_alt_big": qtran.QtranAltConfig(**cases.SMALL, **{**WEIGHTS, "joint_layers": 3}, recurrent=False),
}


def name_of(kind):
    return kind.removesuffix("_big")


def case(kind):
    return cases.case(name_of(kind), CONFIGS[kind])


def is_alt(kind):
    return "alt" in kind


@cache
def forwards(kind):
    """The forward records of the whole batch, computed outside of the update."""
    c, variant = case(kind), VARIANTS[name_of(kind)]
    net = qtran.make_networks(SPEC, CONFIGS[kind], variant)

    @jax.jit
    def every(agent, episodes, keys):
        one = lambda e, k: qtran.forward(agent.params, agent.targets, trajectory_of(e), k, net=net, variant=variant)
        return jax.vmap(one)(episodes, keys)

    return every(c.agent, c.episodes, keys_of(c.key))


@pytest.mark.default("qtran")
@pytest.mark.parametrize("kind", VARIANTS)
def test_joint_values_of_every_step_are_those_of_its_own_agents_histories(kind):
    """The loops keep agents and steps apart; a reshape that mixes them, as in pymarl2, would be far off."""
    c, f = case(kind), forwards(kind)
    expected, valid = oracle.forward_fields(c.params, c.targets, c.games, is_alt(kind)), valid_steps()
    for name, values in expected.items():
        found = np.asarray(getattr(f, name))
        assert found.shape == values.shape
        np.testing.assert_allclose(found[valid], values[valid], rtol=1e-4, atol=1e-4, err_msg=name)
        assert np.std(values[valid]) > 0.1


@pytest.mark.parametrize("kind", CONFIGS)
def test_td_opt_and_nopt_match_the_oracle(kind):
    c = case(kind)
    expected = oracle.loss_terms(c.params, c.params, c.targets, c.games, CONFIGS[kind], is_alt(kind))
    for name, value in expected.items():
        assert value > 1e-2
        np.testing.assert_allclose(c.metrics[name], value, rtol=3e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["qtran", "qtran_alt", "qtran_alt_big"])
def test_gradients_match_central_differences_of_the_oracle_with_the_joint_value_stopped(kind):
    c = case(kind)

    def loss(params):
        return sum(oracle.loss_terms(params, c.params, c.targets, c.games, CONFIGS[kind], is_alt(kind)).values())

    cases.assert_gradients_match(c, loss, per_module=4)


@pytest.mark.parametrize("kind", ["qtran", "qtran_alt_big"])
def test_td_trains_joint_value_and_trunk_the_others_utilities_and_state_value(kind):
    c, variant, cfg = case(kind), VARIANTS[name_of(kind)], CONFIGS[kind]
    net = qtran.make_networks(SPEC, cfg, variant)

    def terms(params):
        def one(episode, keys):
            t = trajectory_of(episode)
            f = qtran.forward(params, c.agent.targets, t, keys, net=net, variant=variant)
            losses = qtran.loss(detach_others(f, qtran.OWNED), t, CLOCK, c.algorithm.hyper, variant=variant)
            return {name: sum_over_valid(value, t.valid) for name, value in losses.items()}

        sums = jax.vmap(one)(c.episodes, keys_of(c.key))
        return {name: value.sum() for name, value in sums.items()}

    shaping = {"trunk", "utility_layer", "value"}
    assert cases.blocks_moved(terms, c.agent.params) == {"td": {"trunk", "joint"}, "opt": shaping, "nopt": shaping}


def test_base_nopt_is_free_where_slack_is_positive_and_alts_is_not():
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(2, N, A)), jnp.float32)
    t = Trajectory(
        observation=jax.tree.map(lambda leaf: leaf[0, :2], case("qtran").episodes.world)._replace(
            avail=jnp.ones((2, N, A), bool)
        ),
        action=jnp.zeros((1, N), jnp.int32),
        reward=jnp.zeros(1),
        terminal=jnp.zeros(1, bool),
        valid=jnp.ones(1, bool),
        layout=Layout(first=jnp.array([True, False])),
    )
    total = float(np.asarray(q)[0, :, 0].sum())
    for gap in (1.5, -1.5):  # Σ qᵢ(uᵢ) - Q_jt + V
        f = qtran.Forward(
            q=q,
            value=jnp.full(1, 0.25),
            joint=jnp.zeros((1, 1)),
            row=jnp.full(1, total + 0.25 - gap),
            best_joint=jnp.zeros((1, 1)),
            next_joint=jnp.zeros((1, 1)),
        )
        np.testing.assert_allclose(qtran.nopt_taken(f, t), [max(0.0, -gap) ** 2], rtol=1e-4)
        rows = q[:1] + total - q[:1, :, :1] + 0.25 - gap
        np.testing.assert_allclose(qtran.nopt_counterfactual(f._replace(row=rows), t), [gap**2], rtol=1e-4)


def test_alts_inequality_looks_at_available_actions_only():
    c, f = case("qtran_alt"), forwards("qtran_alt")
    trajectories = jax.vmap(trajectory_of)(c.episodes)
    avail = trajectories.observation.avail[:, :-1]
    spoilt = jnp.where(avail, f.row, 1e3)  # slack -1000 where unavailable
    nopt = jax.vmap(qtran.nopt_counterfactual)
    np.testing.assert_array_equal(nopt(f, trajectories), nopt(f._replace(row=spoilt), trajectories))
    assert (~avail).any()


@pytest.mark.parametrize("name", ["qtran", "qtran_alt"])
def test_joint_table_is_the_sum_of_utilities_as_in_the_papers_tables(name):
    c = case(name)
    observation = jax.tree.map(lambda leaf: leaf[0, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.agent, observation, c.key)
    outputs = oracle.agent_outputs(c.params["agent"], c.games[0])
    q = outputs.q[0]
    np.testing.assert_allclose(table.utilities, q, rtol=1e-4, atol=1e-5)
    for number in range(A**N):
        joint = [number // A ** (N - 1 - i) % A for i in range(N)]
        np.testing.assert_allclose(table.q_total[number], sum(q[i][joint[i]] for i in range(N)), rtol=1e-4, atol=1e-5)
        seen = c.params["joint"], c.games[0].state[0], outputs.h[0], joint, A
        estimates = oracle.joint_values(name == "qtran_alt", *seen)
        np.testing.assert_allclose(table.joint_value[number], estimates.mean(), rtol=1e-4, atol=1e-5)
    best = oracle.best_actions(q, c.games[0].avail[0])
    np.testing.assert_array_equal(np.asarray(table.policy).argmax(-1), best)


def test_metrics_carry_the_sum_of_utilities_and_the_joint_value_apart():
    c, valid = case("qtran"), valid_steps()
    fields = oracle.forward_fields(c.params, c.targets, c.games, alt=False)
    totals = [
        sum(oracle.agent_outputs(c.params["agent"], game).q[t, i, game.action[t, i]] for i in range(N))
        for game in c.games
        for t in range(game.length)
    ]
    np.testing.assert_allclose(c.metrics["q_joint"], fields["joint"][valid].mean(), rtol=1e-4)
    np.testing.assert_allclose(c.metrics["state_value"], fields["value"][valid].mean(), rtol=1e-4)
    np.testing.assert_allclose(c.metrics["q_total"], np.mean(totals), rtol=1e-4)


def test_the_features_of_a_step_do_not_depend_on_later_steps():
    c = case("qtran")
    t = jax.tree.map(lambda leaf: leaf[0], jax.vmap(trajectory_of)(c.episodes))
    net = qtran.make_networks(SPEC, CONFIGS["qtran"], qtran.BASE)
    moved = t._replace(observation=t.observation._replace(obs=t.observation.obs.at[3, 1].add(1.0)))
    run = lambda t: unroll_features(net.agent, c.agent.params["q"]["agent"], t.layout, trajectory_inputs(t))[0]
    changed = np.asarray((run(t) != run(moved)).any(axis=-1))
    expected = (np.arange(T + 1)[:, None] >= 3) & (np.arange(N) == 1)
    np.testing.assert_array_equal(changed, expected)
