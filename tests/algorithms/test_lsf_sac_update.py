"""The update of LSF-SAC as a whole: padding, micro-batches, seeds, the weights of eq. (8), α, Adam, target copies."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.learner import hard_copy
from lsf_jax.engine.optimizers import adam
from lsf_jax.engine.packing import observe_rows, one_per_row
from lsf_jax.envs import make
from lsf_jax.types import AgentState, Clock, Observation
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_lsf_sac as oracle
from tests.support.lsf_sac_cases import CLOCK, ODD, PLAIN, RELEASE, SMALL, A, N, T

CLIPPED_AND_FIXED = replace(SMALL, grad_clip=0.01, actor_clip=0.02, learn_temperature=False)


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def assert_gradients_close(first, second, tolerance=1e-6):
    """Equal up to rounding: the difference of each group's gradient has at most `tolerance` of its norm."""
    for group, tree in cases.gradients(second).items():
        wanted = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(float)
        found = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(cases.gradients(first)[group])])
        assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted), group


@pytest.mark.parametrize("cfg", [SMALL, RELEASE, ODD], ids=["paper", "release", "odd"])
def test_update_keeps_trees_shapes_and_dtypes_and_leaves_targets_alone(cfg):
    before, (after, metrics) = cases.case(cfg).agent, cases.updated(cfg)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
    assert_same(before.targets, after.targets)
    assert all(value.shape == () and np.isfinite(value) for value in metrics.values())


def with_garbage(games):
    """The same episodes with nonsense in every row after the last real one."""
    rng, out = np.random.default_rng(9), []
    for game in games:
        rows, steps = np.arange(T + 1) > game.length, np.arange(T) >= game.length
        out.append(
            game._replace(
                obs=np.where(rows[:, None, None], 1e3 * rng.normal(size=game.obs.shape), game.obs),
                state=np.where(rows[:, None], 1e3 * rng.normal(size=game.state.shape), game.state),
                avail=np.where(rows[:, None, None], rng.random(game.avail.shape) < 0.3, game.avail),
                action=np.where(steps[:, None], rng.integers(0, 200, size=game.action.shape), game.action),
                reward=np.where(steps, 1e3 * rng.normal(size=T), game.reward),
                terminal=np.where(steps, rng.random(T) < 0.5, game.terminal),
            )
        )
    return out


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [SMALL, ODD], ids=["paper", "odd"])
def test_garbage_in_padded_rows_changes_nothing(cfg):
    c = cases.case(cfg)
    garbage = cases.episodes_of(with_garbage(c.games))
    assert (garbage.world.obs != c.episodes.world.obs).any()
    assert (garbage.reward != c.episodes.reward).any()
    assert_same(c.update(c.agent, garbage, c.key, CLOCK, c.hyper), cases.updated(cfg))


def test_the_row_after_the_last_step_bootstraps_where_time_ran_out_and_only_there():
    c = cases.case(SMALL)
    baseline = cases.updated(SMALL)[1]["td"]
    for number, (length, terminal) in enumerate(cases.ENDINGS):
        games = list(c.games)
        state = games[number].state.copy()
        state[length] += 1.0
        games[number] = games[number]._replace(state=state)
        td = c.update(c.agent, cases.episodes_of(games), c.key, CLOCK, c.hyper)[1]["td"]
        assert (td == baseline) == terminal


def test_observing_an_episode_clears_nan_from_padded_snapshots():
    """What the engine promises of NaN: snapshots after the end never reach a network."""
    env = make("matrix_game")._replace(observe=lambda world: Observation(**world))
    c = cases.case(SMALL)
    after = np.array([np.arange(T + 1) > game.length for game in c.games])
    world = {
        "obs": jnp.where(after[..., None, None], jnp.nan, c.episodes.world.obs),
        "state": jnp.where(after[..., None], jnp.nan, c.episodes.world.state),
        "avail": c.episodes.world.avail & ~after[..., None, None],
    }
    rows = one_per_row(c.episodes)
    assert_same(observe_rows(env, rows._replace(world=world)), cases.observe(rows))


@pytest.mark.parametrize("cfg", [SMALL, CLIPPED_AND_FIXED], ids=["free", "clipped"])
def test_a_batch_of_padding_alone_moves_nothing(cfg):
    c = cases.case(cfg)
    empty = c.episodes._replace(valid=jnp.zeros_like(c.episodes.valid))
    agent, metrics = c.update(c.agent, empty, c.key, CLOCK, c.hyper)
    assert_same(agent.params, c.agent.params)
    assert all(metrics[name] == 0 for name in oracle.TERMS)


@pytest.mark.default("3")
@pytest.mark.parametrize("size", [2, 3])
def test_micro_batches_give_the_update_of_the_whole_batch(size):
    # At the size that weights have in training: larger ones amplify rounding, of any order of summation.
    updates = []
    for micro_batch in (0, size):
        c = cases.case(SMALL, micro_batch)
        agent = jax.jit(c.algorithm.init)(jax.random.key(1), c.hyper)
        updates.append(c.update(agent, c.episodes, c.key, CLOCK, c.hyper))
    whole, sliced = updates
    assert_gradients_close(sliced[0], whole[0])
    for name, value in whole[1].items():
        np.testing.assert_allclose(sliced[1][name], value, rtol=2e-6, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_vmapped_seeds_equal_a_loop_over_seeds():
    c = cases.case(SMALL)
    agents = [cases.agent_of(c.algorithm, seed) for seed in range(3)]
    batches = [cases.episodes_of(cases.make_games(seed)) for seed in range(3)]
    keys = [jax.random.key(seed) for seed in range(3)]
    hypers = [c.hyper._replace(lr=jnp.float32(1e-3 * (seed + 1))) for seed in range(3)]
    stack = partial(jax.tree.map, lambda *leaves: np.stack(leaves))
    axes = (0, 0, 0, Clock(env_steps=0, episodes=None, updates=None), 0)
    clock = CLOCK._replace(env_steps=jnp.full((3,), CLOCK.env_steps))
    together = jax.jit(jax.vmap(c.algorithm.update, in_axes=axes))(
        stack(*agents), stack(*batches), jnp.stack(keys), clock, stack(*hypers)
    )
    for seed in range(3):
        alone = c.update(agents[seed], batches[seed], keys[seed], CLOCK, hypers[seed])
        mine = jax.tree.map(lambda leaf, k=seed: np.asarray(leaf)[k], together)
        assert_gradients_close(mine[0], alone[0], 2e-6)
        for name, value in alone[1].items():
            np.testing.assert_allclose(mine[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@cache
def scaled(name, factor):
    c = cases.case(SMALL)
    hyper = c.hyper._replace(**{name: getattr(c.hyper, name) * jnp.float32(factor)})
    return c.update(c.agent, c.episodes, c.key, CLOCK, hyper)


@pytest.mark.parametrize(
    ("name", "terms"),
    [("lambda_1", {"message_ce", "message_kl"}), ("lambda_2", {"policy"}), ("beta", {"message_kl"})],
)
def test_eq_8_each_weight_scales_exactly_its_own_terms(name, terms):
    before, after = cases.updated(SMALL)[1], scaled(name, 4.0)[1]
    for term in oracle.TERMS:
        assert after[term] == before[term] * (4.0 if term in terms else 1.0)


@pytest.mark.parametrize(
    ("name", "linear", "untouched"),
    [
        ("lambda_1", ("decoder",), ("critic", "mixer", "actor", "temperature")),
        ("lambda_2", ("actor",), ("critic", "mixer", "encoder", "decoder", "temperature")),
        ("beta", (), ("critic", "mixer", "decoder", "actor", "temperature")),
    ],
)
def test_eq_8_each_weight_scales_exactly_its_own_gradients(name, linear, untouched):
    def blocks(factor):
        gradients = dict(cases.gradients(scaled(name, factor)[0]))
        return {**gradients.pop("critic"), **gradients}

    none, once, four = blocks(0.0), blocks(1.0), blocks(4.0)
    for block in untouched:
        assert_same(four[block], once[block])
    for block in linear:
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 4.0 * b), four[block], once[block])
    if name != "lambda_2":  # the encoder learns from L_TD as well: what the weight adds is linear in it
        for zero, one, many in zip(*(jax.tree.leaves(x["encoder"]) for x in (none, once, four))):
            assert (one != zero).any()
            np.testing.assert_allclose(many - zero, 4.0 * (one - zero), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("fraction", "sharpness", "rises"), [(0.0, 3.0, False), (0.5, 0.3, False), (0.9, 3.0, True), (1.0, 0.3, True)]
)
def test_eq_15_alpha_moves_toward_its_target_in_both_directions(fraction, sharpness, rises):
    c = cases.case(SMALL)
    params = {**c.agent.params, "actor": jax.tree.map(lambda leaf: sharpness * leaf, c.agent.params["actor"])}
    hyper = c.hyper._replace(target_entropy_fraction=jnp.float32(fraction), actor_lr=jnp.float32(0.0))
    agent, alphas = c.agent._replace(params=params), []
    for _ in range(4):
        agent, metrics = c.update(agent, c.episodes, c.key, CLOCK, hyper)
        alphas.append(float(metrics["alpha"]))
    too_random = float(metrics["temperature"]) / np.log(alphas[-1])  # H - H0, a mean over valid steps
    assert (too_random < -1e-3) if rises else (too_random > 1e-3)
    steps = np.diff(np.log(alphas))
    np.testing.assert_allclose(steps, float(hyper.alpha_lr) * (1 if rises else -1), rtol=3e-3)


def test_eq_15_with_the_release_target_alpha_only_falls_whatever_the_policy():
    c = cases.case(RELEASE)
    for scale in (0.0, 1.0, 30.0):
        params = {**c.agent.params, "actor": jax.tree.map(lambda leaf, s=scale: s * leaf, c.agent.params["actor"])}
        agent, _ = c.update(c.agent._replace(params=params), c.episodes, c.key, CLOCK, c.hyper)
        fall = float(c.agent.params["temperature"] - agent.params["temperature"])
        assert fall == pytest.approx(float(c.hyper.alpha_lr), rel=1e-3)


def test_a_fixed_alpha_never_moves():
    c = cases.case(CLIPPED_AND_FIXED)
    agent = c.agent
    for _ in range(3):
        agent, metrics = c.update(agent, c.episodes, c.key, CLOCK, c.hyper)
        assert metrics["alpha"] == pytest.approx(SMALL.alpha, rel=1e-6)
    assert_same(agent.params["temperature"], c.agent.params["temperature"])
    assert jax.tree.leaves(agent.opt_state["temperature"]) == []
    doubled = c.update(c.agent, c.episodes, c.key, CLOCK, c.hyper._replace(alpha=2 * c.hyper.alpha))[1]
    assert doubled["alpha"] == pytest.approx(2 * SMALL.alpha, rel=1e-6)


@pytest.mark.parametrize(
    ("group", "rate"), [("critic", "lr"), ("actor", "actor_lr"), ("temperature", "alpha_lr")], ids=lambda x: x
)
def test_first_adam_step_descends_by_the_learning_rate_of_its_group(group, rate):
    c = cases.case(SMALL)
    hyper = c.hyper._replace(**{rate: jnp.float32(0.02)})
    agent, _ = c.update(c.agent, c.episodes, c.key, CLOCK, hyper)
    gradients = cases.gradients(agent)
    rates = {"critic": hyper.lr, "actor": hyper.actor_lr, "temperature": hyper.alpha_lr}
    assert rates[group] == jnp.float32(0.02)
    for name, step in rates.items():
        before, after = cases.numpy_tree(c.agent.params[name]), cases.numpy_tree(agent.params[name])
        moved = jax.tree.map(np.subtract, after, before)
        for change, gradient in zip(jax.tree.leaves(moved), jax.tree.leaves(gradients[name])):
            wanted = -float(step) * gradient / (np.abs(gradient) + 1e-8)
            np.testing.assert_allclose(change, wanted, rtol=1e-3, atol=5e-7)


@pytest.mark.parametrize("clip", [0.0, 1.5])
def test_adam_follows_its_published_recursion_over_several_steps(clip):
    rng, optimizer = np.random.default_rng(0), adam(clip)
    params = {"a": np.zeros(3, np.float32), "b": np.zeros((), np.float32)}
    state, mean, square = optimizer.init(params), np.zeros(4), np.zeros(4)
    for count in range(1, 7):
        gradient = rng.normal(size=4) * (0.0 if count == 3 else 10.0 ** rng.uniform(-3, 1))
        tree = {"a": jnp.asarray(gradient[:3], jnp.float32), "b": jnp.float32(gradient[3])}
        steps, state = optimizer.update(tree, state, params)
        norm = np.sqrt((gradient**2).sum())
        if clip and norm > clip:
            gradient = gradient * clip / norm
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        wanted = mean / (1 - 0.9**count) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
        np.testing.assert_allclose(np.append(steps["a"], steps["b"]), wanted, rtol=2e-5)
        assert state.count == count


def test_gradients_are_clipped_to_the_global_norm_of_their_group():
    (free, free_metrics), (clipped, metrics) = cases.updated(SMALL), cases.updated(CLIPPED_AND_FIXED)
    for group, norm in (("critic", 0.01), ("actor", 0.02)):
        before, after = (jax.tree.leaves(cases.gradients(agent)[group]) for agent in (free, clipped))
        length = np.sqrt(sum(float((leaf.astype(float) ** 2).sum()) for leaf in before))
        assert length > 2 * norm
        for a, b in zip(after, before):
            np.testing.assert_allclose(a, b * norm / length, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(metrics[f"{group}_gradient_norm"], length, rtol=1e-5)
        np.testing.assert_allclose(free_metrics[f"{group}_gradient_norm"], length, rtol=1e-5)


@pytest.mark.parametrize(("interval", "n_envs"), [(200, 8), (20, 8), (20, 7), (5, 8), (8, 8), (1, 3)])
def test_targets_are_copied_exactly_when_episodes_cross_a_multiple_of_the_interval(interval, n_envs):
    refresh = jax.jit(hard_copy(interval, ("critic",)))
    episodes, copies = 0, 0
    while episodes < 3 * (interval + n_envs):
        following = episodes + n_envs
        agent = AgentState(
            params={"critic": jnp.float32(1.0), "actor": jnp.float32(3.0)},
            targets={"critic": jnp.float32(2.0)},
            opt_state={},
        )
        now, before = (CLOCK._replace(episodes=jnp.int32(count)) for count in (following, episodes))
        due = any(count % interval == 0 for count in range(episodes + 1, following + 1))
        after = refresh(agent, now, before)
        assert after.targets["critic"] == (1.0 if due else 2.0)
        assert set(after.targets) == {"critic"}
        copies += due
        episodes = following
    assert copies >= 3


def test_hard_copy_replaces_critic_encoder_decoder_and_mixer_of_the_target():
    c = cases.case(SMALL)
    now, before = (CLOCK._replace(episodes=jnp.int32(count)) for count in (200, 192))
    assert_same(c.algorithm.refresh(c.agent, now, before).targets, {"critic": c.agent.params["critic"]})
    assert_same(c.algorithm.refresh(c.agent, before, before).targets, c.agent.targets)


def test_a_new_agent_has_its_own_targets_and_a_critic_that_reads_every_message():
    algorithm = cases.case(PLAIN).algorithm
    agent = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)
    assert set(agent.targets) == {"critic"}
    assert agent.targets["critic"] == agent.params["critic"]
    kernel = agent.params["critic"]["critic"]["input_layer"]["kernel"]
    assert kernel.shape == (cases.OBS + A + N + N * PLAIN.message_dim, cases.H)
    assert agent.params["actor"]["input_layer"]["kernel"].shape == (cases.OBS + A + N, cases.H)
