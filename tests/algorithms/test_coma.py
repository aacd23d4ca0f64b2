"""COMA: a whole update against NumPy, the counterfactual baseline by brute force, and which information goes where."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import coma as module
from lsf_jax.algorithms.stepwise import SINCE_COPY
from lsf_jax.config.composition import compose
from lsf_jax.networks.agents import AgentNetwork, Mlp
from lsf_jax.types import Clock
from tests.support import actor_critic_cases as actor_critic
from tests.support import engine_cases
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_coma as oracle
from tests.support.lsf_sac_cases import BATCH, SPEC, A, N, T

SMALL = module.ComaConfig(
    batch_size=BATCH,
    hidden=8,
    critic_hidden=5,
    discount=0.9,
    trace=0.6,
    reward_scale=0.5,
    entropy_weight=0.3,
    lr=0.02,  # so that values just before a time step's own optimiser step differ from those of the pass's two ends
    grad_clip=0.0,
    remat=False,
)
CLOCK = Clock(env_steps=jnp.int32(40_000), episodes=jnp.int32(8), updates=jnp.int32(1))
FLOOR = 0.5 - 0.4 * 0.49  # 40,000 of 100,000 steps from 0.5 to 0.01
NET = module.Networks(actor=AgentNetwork(8, A, remat=False), critic=Mlp((5, 5, A)))
LIMITS = {"full": T, "short": 3, "floor outside": T, "floor over all": T}
"""The batch as it is; with every episode cut after three steps, so that the last two time steps are padding alone; and
learned from by an actor that knows nothing of the floor, or whose floor is over all actions."""
FLOORS = {"floor outside": {"epsilon_floor": "outside"}, "floor over all": {"floor_over": "all"}}


@cache
def case(limit):
    """An algorithm, an agent, a batch, one update of it, and the same update by the oracle."""
    cfg = replace(SMALL, **FLOORS.get(limit, {}))
    floor = FLOOR if cfg.epsilon_floor == "inside" else 0.0
    algorithm = module.make_coma(SPEC, cfg, cases.observe)
    agent = actor_critic.stirred_agent(algorithm)
    games = [game._replace(length=min(game.length, LIMITS[limit])) for game in cases.make_games()]
    valid = jnp.asarray([[t < game.length for t in range(T)] for game in games])
    episodes, key = cases.episodes_of(cases.make_games())._replace(valid=valid), jax.random.key(3)
    update = jax.jit(algorithm.update)
    updated, metrics = update(agent, episodes, key, CLOCK, algorithm.hyper)
    params, targets = cases.numpy_tree(agent.params), cases.numpy_tree(agent.targets)
    pis = [oracle.policy(params["actor"], game, floor, cfg.floor_over) for game in games]
    drawn = drawn_actions(pis, games, key)
    wanted = [oracle.targets(targets["critic"], game, u, SMALL) for game, u in zip(games, drawn)]
    critic, values, td, steps = oracle.train_critic(params["critic"], games, wanted, SMALL.lr)
    return SimpleNamespace(**locals())


def drawn_actions(pis, games, key):
    """A joint action of every row, drawn from the oracle's π as the update splits its key."""
    out = []
    draw = jax.vmap(jax.random.categorical)
    for pi, game, keys in zip(pis, games, cases.keys_of(key)):
        log_pi = np.log(np.where(game.avail, pi, 1.0)) + np.where(game.avail, 0.0, -np.inf)
        out.append(np.asarray(draw(keys, jnp.asarray(log_pi, jnp.float32))))
    return out


@pytest.mark.parametrize("limit", LIMITS)
def test_the_critic_takes_one_step_for_each_time_step_from_the_last_to_the_first(limit):
    c = case(limit)
    assert c.updated.opt_state["critic"].count == c.steps == LIMITS[limit]
    np.testing.assert_allclose(c.metrics["td"], c.td, rtol=1e-4)
    for name, layer in c.critic.items():
        for kind, leaf in layer.items():
            found = np.asarray(c.updated.params["critic"][name][kind])
            np.testing.assert_allclose(found, leaf, atol=2e-4, err_msg=name)
            assert np.abs(leaf - c.params["critic"][name][kind]).max() > 0.01


@pytest.mark.parametrize("limit", LIMITS)
def test_the_actor_uses_the_values_just_before_each_step_of_the_critic(limit):
    c = case(limit)
    for term, value in oracle.policy_terms(c.pis, c.pis, c.values, c.games, SMALL).items():
        np.testing.assert_allclose(c.metrics[term], value, rtol=1e-4, err_msg=term)
    for critic in (c.params["critic"], c.critic):  # before and after the pass
        other = [[oracle.critic_row(critic, g, t, g.action[t]) for t in range(g.length)] for g in c.games]
        other = oracle.policy_terms(c.pis, c.pis, [np.array(q) for q in other], c.games, SMALL)
        assert abs(other["policy"] - c.metrics["policy"]) > 1e-2 * abs(c.metrics["policy"])


@pytest.mark.parametrize("limit", ["full", *FLOORS])
def test_the_actors_gradient_takes_advantages_as_given_and_passes_through_the_floor(limit):
    c = case(limit)
    found, largest = actor_critic.gradients(c.updated, "actor"), 0.0
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(found))
    for path, index in actor_critic.random_places(c.params["actor"], np.random.default_rng(1), 8):
        wanted = oracle.actor_derivative(path, index, c.params, c.values, c.games, c.floor, c.cfg)
        assert abs(actor_critic.at(found, path, index) - wanted) < 2e-4 * scale + 1e-3 * abs(wanted), (path, index)
        largest = max(largest, abs(wanted))
    assert largest > 1e-2 * scale


def test_advantages_are_against_a_baseline_of_every_counterfactual_action():
    c, number = case("full"), 0
    game, pi = c.games[number], c.pis[number]
    q = np.array([oracle.critic_row(c.params["critic"], game, t, game.action[t]) for t in range(T)])
    found = module.advantages(jnp.float32(pi[:-1]), jnp.float32(q), jnp.asarray(game.action))
    for t in range(game.length):
        for i in range(N):
            imagined = oracle.baseline(pi[t, i], game, t, i, game.action[t], c.params["critic"])
            np.testing.assert_allclose(found[t, i], q[t, i, game.action[t, i]] - imagined, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((pi[:-1] * (q - (pi[:-1] * q).sum(-1, keepdims=True))).sum(-1), 0.0, atol=1e-9)


def view_of(number=0):
    game = case("full").games[number]
    last = np.concatenate([np.full((1, N), -1), game.action])
    row = SimpleNamespace(state=game.state[1:3], obs=game.obs[1:3], action=game.action[1:3], last_action=last[1:3])
    return module.CriticView(
        state=jnp.float32(row.state),
        obs=jnp.float32(row.obs),
        action=jnp.asarray(row.action, jnp.int32),
        last_action=jnp.asarray(row.last_action, jnp.int32),
    )


def changed_by(**fields):
    """[rows, N] flags: whose values move when the critic's view of them changes."""
    params, view = case("full").agent.params["critic"], view_of()
    params = {name: {**layer, "bias": layer["bias"] + 20.0} for name, layer in params.items()}  # no ReLU swallows it
    before, after = (module.q_values(NET, params, v) for v in (view, view._replace(**fields)))
    return np.asarray((before != after).any(axis=-1))


@pytest.mark.parametrize("agent", range(N))
def test_the_critic_of_an_agent_reads_the_others_actions_and_never_its_own(agent):
    action = view_of().action
    changed = changed_by(action=action.at[:, agent].set((action[:, agent] + 1) % A))
    np.testing.assert_array_equal(changed, np.broadcast_to(np.arange(N) != agent, changed.shape))
    assert changed_by(last_action=view_of().last_action.at[:, agent].set(-1)).all()
    seen = changed_by(obs=view_of().obs.at[:, agent].add(1.0))
    np.testing.assert_array_equal(seen, np.broadcast_to(np.arange(N) == agent, seen.shape))
    assert changed_by(state=view_of().state + 1.0).all()


def test_td_trains_the_critic_alone_and_the_policy_loss_the_actor_alone():
    c = case("full")
    for name, group in (("lr", "critic"), ("actor_lr", "actor")):
        still = c.algorithm.hyper._replace(**{name: jnp.float32(0.0)})
        after, _ = c.update(c.agent, c.episodes, c.key, CLOCK, still)
        for other in ("critic", "actor"):
            assert actor_critic.moved(c.agent.params[other], after.params[other]) == (other != group)
    actor_critic.assert_trees_equal(c.updated.targets, c.agent.targets)
    no_reward = c.episodes._replace(reward=jnp.zeros_like(c.episodes.reward))
    frozen = c.algorithm.hyper._replace(lr=jnp.float32(0.0))
    with_reward, without = (c.update(c.agent, e, c.key, CLOCK, frozen)[0] for e in (c.episodes, no_reward))
    actor_critic.assert_trees_equal(with_reward.params["actor"], without.params["actor"])  # targets reach it by Q alone


def test_a_batch_of_padding_alone_moves_no_parameter():
    c = case("full")
    empty = c.episodes._replace(valid=jnp.zeros_like(c.episodes.valid))
    after, metrics = c.update(c.agent, empty, c.key, CLOCK, c.algorithm.hyper)
    actor_critic.assert_trees_equal(after.params, c.agent.params)
    assert metrics["td"] == metrics["policy"] == 0.0


@pytest.mark.parametrize("limit", ["full", "floor over all"])
def test_acting_draws_from_the_very_policy_that_learns(limit):
    c, row = case(limit), 0
    observation = jax.tree.map(lambda leaf: leaf[row, 0], c.episodes.world)

    def first(key):
        actor = c.algorithm.policy_params(c.agent)
        return c.algorithm.act(actor, c.algorithm.start(), observation, key, CLOCK, c.algorithm.hyper)[1]

    actions = np.asarray(jax.jit(jax.vmap(first))(jax.random.split(jax.random.key(0), 20_000)))
    found = np.stack([(actions == a).mean(axis=0) for a in range(A)], axis=-1)
    np.testing.assert_allclose(found, c.pis[row][0], atol=0.015)


@pytest.mark.parametrize(("length", "copied"), [(5, [40, 80, 120]), (3, [67])])
def test_targets_are_copied_after_200_steps_of_the_critic_however_long_episodes_are(length, copied):
    """Nothing but an optimiser step counts: where no episode is that long, there is none."""
    c = case("full")
    valid = c.episodes.valid & (jnp.arange(T)[None] < length)
    after, _ = c.update(c.agent, c.episodes._replace(valid=valid), c.key, CLOCK, c.algorithm.hyper)
    steps = after.opt_state[SINCE_COPY] - c.agent.opt_state[SINCE_COPY]
    counted = lambda count: {**c.updated.opt_state, SINCE_COPY: jnp.int32(count)}
    agent, refresh = c.updated._replace(targets=c.agent.targets), jax.jit(c.algorithm.refresh)
    since, copies = 0, []
    for updates in range(1, 121):
        refreshed = refresh(agent._replace(opt_state=counted(since + steps)), CLOCK, CLOCK)
        since = refreshed.opt_state[SINCE_COPY]
        if actor_critic.moved(refreshed.targets, agent.targets):
            copies.append(updates)
            actor_critic.assert_trees_equal(refreshed.targets, {"critic": agent.params["critic"]})
    assert copies == copied


def test_joint_table_asks_the_critic_about_every_joint_action():
    c, row = case("full"), 0
    game = c.games[row]
    observation = jax.tree.map(lambda leaf: leaf[row, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.agent, observation, jax.random.key(0))
    pi = oracle.policy(c.params["actor"], game, 0.0)[0]
    np.testing.assert_allclose(table.policy, pi, rtol=1e-5, atol=1e-6)
    greedy = [int(row.argmax()) for row in pi]
    np.testing.assert_allclose(
        table.utilities, oracle.critic_row(c.params["critic"], game, 0, greedy), rtol=1e-4, atol=1e-5
    )
    for number, joint in enumerate(np.ndindex(*[A] * N)):
        q = oracle.critic_row(c.params["critic"], game, 0, joint)
        wanted = np.mean([q[i, joint[i]] for i in range(N)])
        np.testing.assert_allclose(table.q_total[number], wanted, rtol=1e-4, atol=1e-5)


def test_exploration_shrinks_to_a_hundredth_by_default():
    config = compose(algo="coma", env="matrix_game")
    assert (config.algo.updates, config.algo.epsilon_start, config.algo.epsilon_finish) == (1, 0.5, 0.01)


@pytest.mark.slow  # the contract suite trains every algorithm so, without recurrence
def test_two_seeds_of_the_matrix_game_train_in_one_compiled_program():
    sizes = ("algo.hidden=8", "algo.critic_hidden=8", "algo.batch_size=4", "train.n_envs=4", "train.seeds=2")
    config = compose(algo="coma", env="matrix_game", overrides=[*sizes, "train.devices=1"])
    chunk, state = engine_cases.chunk_of(config), engine_cases.start(config)
    before = jax.tree.map(np.array, state.agent.params)
    state, log = engine_cases.advance(chunk, state, 2)
    assert all(np.isfinite(values[:2]).all() for values in log.metrics.values())
    assert actor_critic.moved(before["critic"], state.agent.params["critic"])
    assert actor_critic.moved(before["actor"], state.agent.params["actor"])
    with engine_cases.counted_compilations() as compiled:
        engine_cases.advance(chunk, state, 2)
    assert compiled == []
