"""Evaluation counts every started episode once, to its end: exact on the ragged probe, whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.evaluation import make_evaluate
from lsf_jax.envs.probes import ProbeConfig, RaggedConfig, ragged, reward_of_action
from lsf_jax.platforms import compiling_for
from lsf_jax.types import Algorithm, Clock, EpisodeStats
from tests.support.engine_cases import assert_same_bits
from tests.support.race_game import LOSS, WIN, race

EPISODES = 6000
CFG = RaggedConfig()
CLOCK = Clock(env_steps=jnp.int32(7), episodes=jnp.int32(0), updates=jnp.int32(0))


def forbidden(*arguments):
    raise AssertionError("evaluation may not call this")


def highest_available(params, carry, observation, key, clock, hyper):
    del params, key, clock, hyper
    n_actions = observation.avail.shape[-1]
    return carry, (n_actions - 1 - observation.avail[:, ::-1].argmax(-1)).astype(jnp.int32)


def only(**functions):
    """An algorithm of which nothing but the given functions may be called."""
    stub = Algorithm(**dict.fromkeys(Algorithm._fields, forbidden))
    return stub._replace(start=lambda: jnp.int32(0), **functions)


def run(env, algorithm, n_episodes, seed=0, params=(), platform="cpu", **settings):
    evaluate = jax.jit(make_evaluate(env, algorithm, n_episodes, **settings))
    with compiling_for(platform):
        return jax.device_get(evaluate(params, CLOCK, jnp.float32(0), jax.random.key(seed)))


@pytest.fixture(scope="module", params=["an episode a slot", "slots in turn", "accelerator"])
def stats(request):
    """Of episodes that are played in one of the ways that there are."""
    env = ragged(CFG)._replace(ends_early=request.param != "an episode a slot")
    platform, parts = {"accelerator": ("gpu", 4)}.get(request.param, ("cpu", 1))
    return run(env, only(act_greedy=highest_available), EPISODES, platform=platform, parts=parts)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("n_episodes", [1, 4])
def test_exactly_n_episodes_are_played(n_episodes, early):
    stats = run(ragged(CFG)._replace(ends_early=early), only(act_greedy=highest_available), n_episodes)
    assert isinstance(stats, EpisodeStats)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(stats)} == {n_episodes}
    assert stats.first_action.shape == (n_episodes, CFG.n_agents)


def test_every_length_is_as_frequent_as_the_environment_makes_it(stats):
    counts = np.bincount(stats.length, minlength=CFG.episode_limit + 1)
    assert counts[0] == 0
    expected, degrees = EPISODES / CFG.episode_limit, CFG.episode_limit - 1
    statistic = ((counts[1:] - expected) ** 2 / expected).sum()
    assert statistic <= degrees + 5.0 * (2.0 * degrees) ** 0.5
    weighted = expected * 6 / np.arange(1, 7) / np.mean(6 / np.arange(1, 7))  # stopping by a number of steps would do
    assert ((weighted - expected) ** 2 / expected).sum() > degrees + 5.0 * (2.0 * degrees) ** 0.5


def expected_return():
    """Closed form for `highest_available`: N - 1 living agents earn 1 a step, the last one until it dies, and 1/4."""
    limit = CFG.episode_limit
    outcomes = [
        length * (CFG.n_agents - 1 + 0.25) + min(length, death)
        for length in range(1, limit + 1)
        for death in range(limit)
    ]
    return np.mean(outcomes)


def test_mean_return_equals_its_closed_form(stats):
    error = stats.episode_return.std() / EPISODES**0.5
    assert abs(stats.episode_return.mean() - expected_return()) < 4 * error
    assert abs(np.average(stats.episode_return, weights=1 / stats.length) - expected_return()) > 20 * error


def test_returns_belong_to_finished_episodes(stats):
    per_step = stats.length * (CFG.n_agents - 1 + 0.25)
    extra = stats.episode_return - per_step
    assert (extra == np.round(extra)).all()
    assert ((extra >= 0) & (extra <= stats.length)).all()


def test_terminal_tells_the_games_end_from_truncation(stats):
    assert not stats.terminal[stats.length == CFG.episode_limit].any()
    share = stats.terminal[stats.length < CFG.episode_limit].mean()
    assert abs(share - 0.5) < 0.03


def test_infos_are_summed_over_the_episode():
    def never_available(params, carry, observation, key, clock, hyper):
        del params, key, clock, hyper
        return carry, jnp.argmin(observation.avail, axis=-1).astype(jnp.int32)

    stats = run(ragged(CFG), only(act_greedy=never_available), 64)
    np.testing.assert_array_equal(stats.info["unavailable"], CFG.n_agents * stats.length)


# Short wins and long losses.


def first_to_finish(lengths, wins, n, slots):
    """Share of wins among the first n episodes to end, where every slot plays one after another of its own."""
    lengths, wins = lengths.reshape(slots, -1), wins.reshape(slots, -1)
    ends = lengths.cumsum(axis=1).ravel()
    assert np.sort(ends)[n - 1] <= ends.reshape(slots, -1)[:, -1].min()  # no slot has run out of episodes before
    return wins.ravel()[np.argsort(ends, kind="stable")[:n]].mean()


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_wins_are_as_frequent_as_in_the_game_though_they_are_short_and_losses_long(platform):
    """512 evaluations of 16 episodes each; the first eight of eight slots to finish would be wins nearly always."""
    evaluate = make_evaluate(race(), only(act_greedy=highest_available), 16)
    each = jax.jit(jax.vmap(lambda key: evaluate((), CLOCK, jnp.float32(0), key)))
    with compiling_for(platform):
        stats = jax.device_get(each(jax.random.split(jax.random.key(11), 512)))
    won = stats.info["won"] > 0
    assert won.shape == (512, 16)
    assert set(stats.length[won].tolist()) == {WIN}
    assert set(stats.length[~won].tolist()) == {LOSS}
    error = 0.5 / won.size**0.5
    assert abs(won.mean() - 0.5) < 4 * error
    lengths, wins = stats.length.reshape(64, -1), won.reshape(64, -1)  # 128 episodes for each of 64 evaluations
    biased = np.mean([first_to_finish(*pair, n=8, slots=8) for pair in zip(lengths, wins, strict=True)])
    assert biased - 0.5 > 0.2


def test_an_episodes_result_does_not_depend_on_the_slots():
    algorithm = only(act_greedy=highest_available)
    env = ragged(CFG)
    alone, in_turn = (run(env._replace(ends_early=early), algorithm, 16, seed=5) for early in (False, True))
    assert_same_bits(in_turn, alone)


def constant(action):
    def act(params, carry, observation, key, clock, hyper):
        del observation, key, hyper
        return carry, jnp.full((2,), action, jnp.int32) + params + 0 * clock.env_steps

    return act


def test_greedy_and_stochastic_evaluation_use_their_own_policy():
    env = reward_of_action(ProbeConfig())
    algorithm = only(act_greedy=constant(0), act_sampled=constant(1))
    greedy = run(env, algorithm, 4, params=jnp.int32(0))
    sampled = run(env, algorithm, 4, params=jnp.int32(0), stochastic=True)
    assert (greedy.episode_return.tolist(), sampled.episode_return.tolist()) == ([0.0] * 4, [2.0] * 4)
    assert (greedy.first_action.tolist(), sampled.first_action.tolist()) == ([[0, 0]] * 4, [[1, 1]] * 4)
    assert run(env, only(act_greedy=constant(0)), 4, params=jnp.int32(1)).episode_return.tolist() == [2.0] * 4


def test_the_same_key_plays_the_same_episodes_and_another_key_others():
    env, algorithm = ragged(CFG), only(act_greedy=highest_available)
    once, again, other = (run(env, algorithm, 32, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once.length, again.length)
    assert (once.length != other.length).any()


def test_seeds_evaluated_together_are_those_evaluated_alone():
    evaluate = make_evaluate(ragged(CFG), only(act_greedy=highest_available), 8)
    keys = jax.random.split(jax.random.key(3), 3)
    one = jax.jit(lambda key: evaluate((), CLOCK, jnp.float32(0), key))
    alone, together = [one(key) for key in keys], jax.jit(jax.vmap(one))(keys)
    for index, stats in enumerate(alone):
        for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(together)):
            np.testing.assert_array_equal(a, b[index])
