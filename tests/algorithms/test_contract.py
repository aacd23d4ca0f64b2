"""What every registered algorithm promises, whatever it learns: one suite over `ALGORITHMS`."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS, stepwise
from lsf_jax.config.composition import compose
from lsf_jax.engine.optimizers import OPTIMIZERS
from lsf_jax.programs.compiled import jit_chunk, jit_evaluate, jit_init
from lsf_jax.programs.parts import bind, make_rows
from lsf_jax.types import Episode, Observation
from tests.support.engine_cases import assert_same_bits, seed_slice
from tests.support.lsf_sac_cases import BATCH, CLOCK, SPEC, A, N, episodes_of, make_games, observe

NAMES = sorted(ALGORITHMS)
SMALL = {
    "batch_size": BATCH,
    "hidden": 8,
    "mixer_embed": 4,
    "hyper_hidden": 4,
    "encoder_hidden": 4,
    "decoder_hidden": 4,
    "central_hidden": 8,
    "critic_hidden": 8,
    "joint_hidden": 8,
    "on_batch": BATCH,
    "off_batch": BATCH,
    "on_capacity": BATCH,
    "recurrent": False,
    "lr": 3e-3,
    "actor_lr": 3e-3,
}
KINDS = ("act", "act_greedy", "act_sampled")
SEEDS = 3
WIDE = {
    **{key: 32 for key in ("hidden", "critic_hidden", "central_hidden", "joint_hidden")},
    **{key: 16 for key in ("mixer_embed", "hyper_hidden", "encoder_hidden", "decoder_hidden")},
    **{key: 16 for key in ("batch_size", "on_batch", "off_batch", "on_capacity")},
    "recurrent": False,
    "lr": 2e-3,
    "actor_lr": 2e-3,
    "trace": 0,
}
"""To learn with. Some of four seeds with narrower networks have units that never fire, and are stuck for long."""
OF_ITS_OWN = {"dop": {"hidden": 64, "critic_hidden": 256, "lr": 1e-3, "actor_lr": 1e-3}}
RATES = {"lr": {"q", "critic", "actor_critic"}, "actor_lr": {"actor"}, "alpha_lr": {"temperature"}}
ALONE = [name for name in NAMES if not ALGORITHMS[name].communicates]
FACTORIES = [getattr(ALGORITHMS[name].factory, "func", ALGORITHMS[name].factory) for name in NAMES]
FIRST = [
    pytest.param(name, marks=[pytest.mark.slow] if factory in FACTORIES[:place] else [])
    for place, (name, factory) in enumerate(zip(NAMES, FACTORIES, strict=True))
]
"""One of each factory; whose others differ in a mixer or a setting is slow."""
TRAINED = [
    pytest.param(
        *case.values,
        marks=[pytest.mark.slow] if case.values[0] in ("cw_qmix", "dop", "maa2c", "vdac_mix") else case.marks,
    )
    for case in FIRST
]
"""Fewer still: a game learned is ten seconds of compiling."""
GREEDY = [name for name in NAMES if ALGORITHMS[name].acts == "values"]
"""What has no policy of its own trains on greedy actions with ε uniform ones among them."""
COMMON = ("n_envs=16", "buffer_capacity=64", "devices=1", "eval_episodes=1", "seeds=4")


def small_config(name, **changes):
    config = ALGORITHMS[name].config
    return replace(config(), **{key: value for key, value in {**SMALL, **changes}.items() if key in vars(config())})


@cache
def case(name):
    """An algorithm, three agents side by side, and a batch as its own replay gives it; update and acts compile once."""
    algorithm = ALGORITHMS[name].factory(SPEC, small_config(name), observe)
    episodes = episodes_of(make_games())
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), episodes)
    buffer = algorithm.replay(example, BATCH, BATCH)
    before, after = CLOCK._replace(episodes=jnp.int32(0)), CLOCK._replace(episodes=jnp.int32(BATCH))

    def stored_and_sampled(episodes, key):
        return buffer.sample(buffer.add(buffer.init(), before, episodes), after, key)

    batch = jax.jit(stored_and_sampled)(episodes, jax.random.key(5))
    keys = jax.random.split(jax.random.key(1), SEEDS)

    def acts(agent, observation, key, epsilon):
        policy = algorithm.policy_params(agent)
        exploring = {name: epsilon for name in ("epsilon_start", "epsilon_finish")}
        hyper = algorithm.hyper._replace(**exploring)
        after = [getattr(algorithm, kind)(policy, algorithm.start(), observation, key, CLOCK, hyper) for kind in KINDS]
        return jnp.stack([chosen for _, chosen in after]), jnp.stack([carry.last_action for carry, _ in after])

    return SimpleNamespace(
        algorithm=algorithm,
        update=jax.jit(jax.vmap(algorithm.update, in_axes=(0, None, 0, None, None))),
        agents=jax.jit(jax.vmap(algorithm.init, in_axes=(0, None)))(keys, algorithm.hyper),
        acts=jax.jit(jax.vmap(acts, in_axes=(None, None, 0, None))),
        batch=batch,
        keys=keys,
    )


@cache
def updated(name):
    """(agents, metrics) of three seeds after one update."""
    c = case(name)
    return c.update(c.agents, c.batch, c.keys, CLOCK, c.algorithm.hyper)


def in_numpy(change, tree):
    """The tree with all its leaves changed on the host, where nothing has to be compiled for each of their shapes."""
    return jax.tree.map(lambda leaf: change(np.array(leaf)), tree)


@cache
def learnt_agent(name):
    return in_numpy(lambda leaf: leaf[0], updated(name)[0])


def copied(leaf):
    return jnp.copy(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.array(leaf)


def groups_that_move(before, after):
    """Names of the parameter groups of which any number changed."""
    pairs = {group: zip(*map(jax.tree.leaves, (before.params[group], after.params[group]))) for group in before.params}
    return {group for group, leaves in pairs.items() if any((a != b).any() for a, b in leaves)}


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def close(left, right, tolerance):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FIRST)
def test_an_update_keeps_the_tree_and_moves_parameters_by_finite_steps(name):
    c = case(name)
    agents, metrics = updated(name)
    assert shapes(agents) == shapes(c.agents)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((agents, metrics)))
    assert all(metric.shape == (SEEDS,) for metric in metrics.values())
    moved = [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(agents.params), jax.tree.leaves(c.agents.params))]
    assert np.mean(moved) > 0.5
    assert c.algorithm.name == name


@pytest.mark.parametrize("name", NAMES)
def test_rates_belong_to_their_groups(name):
    """With a rate of zero its groups stay where they are, and no other that usually moves does."""
    c = case(name)
    usual = groups_that_move(c.agents, updated(name)[0])
    for rate, groups in RATES.items():
        if rate in c.algorithm.hyper._fields:
            hyper = c.algorithm.hyper._replace(**{rate: jnp.float32(0.0)})
            after, _ = c.update(c.agents, c.batch, c.keys, CLOCK, hyper)
            assert groups_that_move(c.agents, after) == usual - groups, rate


@pytest.mark.parametrize("name", NAMES)
def test_every_optimiser_is_the_one_asked_for_with_its_clip_and_epsilon(name, monkeypatch):
    asked = []

    def recorded(kind, make):
        def remember(clip, **more):
            asked.append((kind, clip, *more.values()))
            return make(clip, **more)

        return remember

    for kind, make in list(OPTIMIZERS.items()):
        monkeypatch.setitem(OPTIMIZERS, kind, recorded(kind, make))
    config = small_config(name, optimizer="rmsprop", grad_clip=3.5, optimizer_epsilon=2e-6)
    ALGORITHMS[name].factory(SPEC, config, observe)
    clips = {3.5, config.actor_clip} if hasattr(config, "actor_clip") else {3.5}
    assert {(kind, epsilon) for kind, _, epsilon in asked} == {("rmsprop", 2e-6)}
    assert {clip for _, clip, _ in asked} - {0.0} == clips - {0.0}


@pytest.mark.parametrize("name", NAMES)
def test_garbage_in_padded_rows_changes_nothing(name):
    """Whatever an environment or a collector might leave there, all actions are available in padding."""
    c = case(name)

    def litter(episode):
        episode = in_numpy(lambda leaf: leaf, episode)
        valid, seen = episode.valid, episode.world
        real = np.concatenate([np.ones_like(valid[:, :1]), valid], axis=1)
        world = Observation(
            obs=np.where(real[..., None, None], seen.obs, np.float32(1e3)),
            state=np.where(real[..., None], seen.state, np.float32(-1e3)),
            avail=seen.avail,
        )
        return episode._replace(
            world=world,
            action=np.where(valid[..., None], episode.action, np.uint8(1)),
            reward=np.where(valid, episode.reward, np.float32(1e3)),
        )

    littered = jax.tree.map(litter, c.batch, is_leaf=lambda node: isinstance(node, Episode))
    agents, _ = c.update(c.agents, littered, c.keys, CLOCK, c.algorithm.hyper)
    close(agents.params, updated(name)[0].params, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_does_not_notice_its_neighbours(name):
    c = case(name)
    order = np.array([2, 0, 1])
    moved = in_numpy(lambda leaf: leaf[order], c.agents)
    agents, metrics = c.update(moved, c.batch, c.keys[order], CLOCK, c.algorithm.hyper)
    expected = in_numpy(lambda leaf: leaf[order], updated(name))
    assert_same_bits((agents, metrics), expected)


def acted(name, observation, key, epsilon=0.5):
    """`[64, kinds, N]` actions and what is remembered of them."""
    keys = jax.random.split(key, 64)
    return [np.asarray(leaf) for leaf in case(name).acts(learnt_agent(name), observation, keys, np.float32(epsilon))]


def actions(name, kind, observation, key, epsilon=0.5):
    return acted(name, observation, key, epsilon)[0][:, KINDS.index(kind)]


def random_observation(seed=0):
    rng = np.random.default_rng(seed)
    avail = rng.random((N, A)) < 0.5
    avail[np.arange(N), rng.integers(A, size=N)] = True
    obs = rng.normal(size=(N, SPEC.obs_dim)) * 3
    return Observation(obs=jnp.asarray(obs, jnp.float32), state=jnp.zeros((SPEC.state_dim,)), avail=jnp.asarray(avail))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_an_unavailable_action_is_never_chosen(name, kind):
    observation = random_observation()
    chosen = actions(name, kind, observation, jax.random.key(0))
    assert chosen.shape == (64, N)
    assert np.asarray(observation.avail)[np.arange(N)[None], chosen].all()
    explores = kind == "act" or (kind == "act_sampled" and name not in GREEDY)
    assert not explores or len(np.unique(chosen, axis=0)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_acting_remembers_what_was_done_as_learning_sees_it(name):
    """The next step's input is the action itself, whoever chose it; the learner reads the same from replay."""
    chosen, remembered = acted(name, random_observation(), jax.random.key(0))
    np.testing.assert_array_equal(remembered, chosen)


@pytest.mark.parametrize("name", NAMES)
def test_without_exploration_values_are_followed_greedily_and_policies_are_sampled(name):
    observation = random_observation()
    chosen = actions(name, "act", observation, jax.random.key(3), epsilon=0.0)
    if name in GREEDY:
        for kind in ("act_greedy", "act_sampled"):  # utilities are no logits: their stochastic evaluation is greedy
            np.testing.assert_array_equal(chosen, actions(name, kind, observation, jax.random.key(3)))
    else:
        assert len(np.unique(chosen, axis=0)) > 1


@pytest.mark.parametrize("name", GREEDY)
def test_values_are_explored_uniformly_over_what_is_available(name):
    observation = random_observation()
    chosen = np.concatenate([actions(name, "act", observation, jax.random.key(k), epsilon=1.0) for k in range(8)])
    avail = np.asarray(observation.avail)
    counts = np.stack([np.bincount(chosen[:, i], minlength=A) for i in range(N)])
    expected = len(chosen) * avail / avail.sum(axis=-1, keepdims=True)
    distance = np.square(counts - expected)[avail] / expected[avail]
    assert distance.sum() < 40.0, counts  # chi-square with at most N (A - 1) = 9 degrees of freedom


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_what_they_copy_once_the_interval_is_over_and_not_before(name):
    """Whether the interval counts episodes or the critic's steps: enough of both."""
    c, agent = case(name), learnt_agent(name)

    def refreshed(steps, now):
        counts = {stepwise.SINCE_COPY: np.int32(steps)} if stepwise.SINCE_COPY in agent.opt_state else {}
        start = CLOCK._replace(episodes=jnp.int32(0), updates=jnp.int32(0))
        clock = start._replace(episodes=jnp.int32(now), updates=jnp.int32(now))
        return refresh(agent._replace(opt_state={**agent.opt_state, **counts}), clock, start).targets

    refresh = jax.jit(c.algorithm.refresh)
    assert agent.opt_state.get(stepwise.SINCE_COPY, 1) > 0  # an update counts
    assert_same_bits(refreshed(0, 0), agent.targets)
    copied_now = refreshed(2_000, 2_000)
    assert_same_bits(copied_now, {group: agent.params[group] for group in agent.targets})
    if agent.targets:
        before = jax.tree.leaves(agent.targets)
        assert any((a != b).any() for a, b in zip(jax.tree.leaves(copied_now), before, strict=True))


@pytest.mark.parametrize("kind", ["act", "act_greedy"])
@pytest.mark.parametrize("name", ALONE)
def test_execution_is_decentralised(name, kind):
    """What agent 1 observes never changes what the others do, at equal randomness; nor does the state."""
    before = random_observation()
    after = before._replace(obs=before.obs.at[1].set(-before.obs[1] + 5.0), state=before.state + 1.0)
    chosen = [actions(name, kind, seen, jax.random.key(0))[:, [0, 2]] for seen in (before, after)]
    np.testing.assert_array_equal(*chosen)


@pytest.mark.parametrize("name", NAMES)
def test_a_joint_table_tells_all_joint_actions_and_a_policy(name):
    c = case(name)
    observation = random_observation()
    table = jax.jit(c.algorithm.joint_table)(learnt_agent(name), observation, c.keys[0])
    assert table.utilities.shape == table.policy.shape == (N, A)
    assert table.q_total.shape == (A**N,)
    np.testing.assert_allclose(np.asarray(table.policy).sum(axis=-1), 1.0, rtol=1e-5)
    assert (np.asarray(table.policy)[~np.asarray(observation.avail)] == 0).all()
    if name in ALONE:
        greedy = actions(name, "act_greedy", observation, c.keys[0])[0]
        np.testing.assert_array_equal(np.asarray(table.policy).argmax(axis=-1), greedy)


@cache
def learned(name):
    """Four seeds of the additive game after 350 updates, trained as the command line does."""
    words = ["algo.updates=1", *(f"train.{word}" for word in COMMON)]
    keys = vars(ALGORITHMS[name].config())
    sizes = {**WIDE, **OF_ITS_OWN.get(name, {})}
    words += [f"algo.{key}={str(value).lower()}" for key, value in sizes.items() if key in keys]
    config = compose(algo=name, env="linear_game", overrides=words)
    program = bind(config)
    state = jit_init(program, 0)(make_rows(config, program.algorithm))
    chunk = jit_chunk(program, rows=8, log_every=64)
    state, log = chunk(state, jnp.int32(250), jnp.int32(2**30))
    size = chunk._cache_size()
    state, log = chunk(state, jnp.int32(100), jnp.int32(2**30))
    stats = jit_evaluate(program, 1)(state.agent.params, state)
    chosen = np.asarray(stats.episode_return)[:, 0]
    return SimpleNamespace(chunk=chunk, state=state, log=log, returns=chosen, compiled=(size, chunk._cache_size()))


@pytest.mark.parametrize("name", TRAINED)
def test_it_learns_the_additive_game_and_compiles_once(name):
    """Best 5, worst 0, at random 2.3; most of four seeds must come close to the best."""
    result = learned(name)
    assert (np.asarray(result.log.nonfinite_at) == -1).all()
    assert np.median(result.returns) >= 4.0, result.returns
    assert result.compiled == (1, 1)


@pytest.mark.parametrize("name", FIRST)
def test_it_can_be_built_for_predator_prey(name):
    """The whole training step at its real size, traced but not compiled."""
    config = compose(algo=name, env="predator_prey")
    program = bind(config)
    rows = jax.eval_shape(partial(jit_init(program, 0)), make_rows(config, program.algorithm))
    assert rows.iteration.shape == ()


@pytest.mark.parametrize("name", TRAINED)
def test_a_seed_whose_parameters_are_not_numbers_hurts_nobody(name):
    result = learned(name)

    def after(params):
        agent = result.state.agent._replace(params=params)
        state = jax.tree.map(copied, result.state._replace(agent=agent))  # the chunk takes what it is given
        return result.chunk(state, jnp.int32(2), jnp.int32(2**30))[0]

    def break_third(leaf):
        leaf[2] = np.nan
        return leaf

    broken = in_numpy(break_third, result.state.agent.params)
    alone, beside = after(result.state.agent.params), after(broken)
    others = np.array([0, 1, 3])
    assert_same_bits(seed_slice(alone, others).agent, seed_slice(beside, others).agent)
