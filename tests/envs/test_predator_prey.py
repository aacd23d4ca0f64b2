"""Predator-prey against an independent implementation of its rules, by statistics, and in its settings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs import make
from lsf_jax.envs.predator_prey import draw_randomness, make_predator_prey, take_snapshot, transition
from lsf_jax.envs.predator_prey_types import PredatorPreyConfig
from lsf_jax.types import EpisodeStats
from tests.support import reference_predator_prey as reference

CASES = {
    "default": (PredatorPreyConfig(), 24, 100),
    "no_punishment": (PredatorPreyConfig(punishment=0.0), 8, 60),
    "crowded": (PredatorPreyConfig(grid_size=5, n_predators=9, n_prey=9, sight=1, punishment=-1.25), 24, 25),
    "three_to_catch": (
        PredatorPreyConfig(grid_size=6, n_predators=12, n_prey=5, capture_threshold=3, punishment=-1.5),
        16,
        30,
    ),
    "one_to_catch": (PredatorPreyConfig(grid_size=4, n_predators=3, n_prey=2, sight=3, capture_threshold=1), 16, 20),
    "wide_board": (PredatorPreyConfig(grid_size=17, n_predators=20, n_prey=30, sight=4, punishment=-0.5), 4, 30),
    "full_board": (PredatorPreyConfig(grid_size=3, n_predators=5, n_prey=4, sight=0, capture_reward=3.0), 16, 10),
}


def scripted(cfg, copies, steps):
    """Resets, a script (actions often catch, and need not be available), and everything the library makes of it."""
    env = make_predator_prey(cfg)

    def play(key):
        key_reset, key_draw, key_first, key_second = jax.random.split(key, 4)
        start, first = env.reset(key_reset)
        draws = jax.vmap(partial(draw_randomness, cfg=cfg))(jax.random.split(key_draw, steps))
        actions = jax.random.randint(key_first, (steps, cfg.n_predators), 0, 6)
        actions = jnp.where(jax.random.bernoulli(key_second, 0.3, actions.shape), 5, actions)

        def advance(state, event):
            next_state, outcome = transition(state, event[0], event[1], cfg)
            return next_state, (next_state, outcome, env.observe(take_snapshot(next_state, cfg)))

        _, played = jax.lax.scan(advance, start, (actions, draws))
        return (start, first), (actions, draws), played

    return jax.device_get(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(3), copies)))


def row(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def world_of(cfg, state):
    def place(cells):
        return [list(divmod(int(cell), cfg.grid_size)) for cell in cells]

    return reference.World(
        size=cfg.grid_size,
        sight=cfg.sight,
        threshold=cfg.capture_threshold,
        capture_reward=cfg.capture_reward,
        punishment=cfg.punishment,
        limit=cfg.episode_limit,
        predators=place(state.predator),
        active=state.active.tolist(),
        prey=place(state.prey),
        alive=state.alive.tolist(),
        time=int(state.time),
    )


def assert_same_sight(observation, world):
    obs, state, avail = reference.observe(world)
    np.testing.assert_array_equal(observation.obs, obs)
    np.testing.assert_array_equal(observation.state, state)
    np.testing.assert_array_equal(observation.avail, avail)


def assert_same_world(state, world):
    def cells(places):
        return [row * world.size + column for row, column in places]

    assert state.predator.tolist() == cells(world.predators)
    assert state.prey.tolist() == cells(world.prey)
    assert state.active.tolist() == world.active
    assert state.alive.tolist() == world.alive
    assert int(state.time) == world.time


@pytest.mark.default("default", "full_board", "one_to_catch")
@pytest.mark.parametrize("name", CASES)
def test_every_step_equals_a_plain_implementation_of_the_rules(name):
    cfg, copies, steps = CASES[name]
    (start, first), (actions, draws), (states, outcomes, observations) = scripted(cfg, copies, steps)
    captures = lone_catches = 0
    for copy in range(copies):
        world = world_of(cfg, row(start, copy))
        assert_same_sight(row(first, copy), world)
        for t in range(steps):
            state, outcome, observation, draw = row((states, outcomes, observations, draws), (copy, t))
            reward, caught, missed, over, time_up = reference.step(
                world, actions[copy, t], draw.predator_turn.argsort(), draw.prey_turn.argsort(), draw.prey_rank
            )
            assert_same_world(state, world)
            assert_same_sight(observation, world)
            assert (outcome.reward, outcome.captures, outcome.lone_catches) == (reward, caught, missed)
            assert (bool(outcome.game_over), bool(outcome.time_limit)) == (over, time_up)
            captures, lone_catches = captures + caught, lone_catches + missed
    assert captures > copies / 4
    assert lone_catches > copies or cfg.capture_threshold == 1 or cfg.grid_size == 3


def play_random_episodes(cfg, episodes):
    """Return, captures, lone catches and length of episodes that choose evenly among the available actions."""
    env = make_predator_prey(cfg)

    def episode(key):
        key_reset, key_steps = jax.random.split(key)

        def advance(loop, key):
            state, avail, running = loop
            key_action, key_env = jax.random.split(key)
            actions = jnp.where(avail, jax.random.uniform(key_action, avail.shape), -1.0).argmax(-1)
            state, timestep = env.step(key_env, state, actions)
            counts = (timestep.reward, timestep.info["captures"], timestep.info["lone_catches"], jnp.float32(1))
            counts = jax.tree.map(lambda leaf: jnp.where(running, leaf, 0.0), counts)
            return (state, timestep.observation.avail, running & ~timestep.done), counts

        state, observation = env.reset(key_reset)
        keys = jax.random.split(key_steps, cfg.episode_limit)
        (_, _, running), rows = jax.lax.scan(advance, (state, observation.avail, jnp.bool_(True)), keys)
        return jax.tree.map(lambda leaf: leaf.sum(), rows), running

    keys = jax.random.split(jax.random.key(11), episodes)
    sums, running = jax.device_get(jax.jit(jax.vmap(episode))(keys))
    assert not running.any()
    return sums


def test_random_play_earns_what_it_earns_in_the_original():
    returns, captures, lone_catches, lengths = play_random_episodes(PredatorPreyConfig(punishment=-2.0), 512)
    np.testing.assert_allclose(returns, 10 * captures - 2 * lone_catches)
    assert abs((10 * captures).mean() - 5.20) < 1.3  # 3 standard errors of the original's 200 episodes
    assert abs(lone_catches.mean() - 49.9) < 2.1
    assert abs(returns.mean() - -94.54) < 3 * 1.76
    assert lengths.min() == 200


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


def test_orders_are_independent_uniform_permutations_and_ranks_are_uniform():
    cfg, draws = PredatorPreyConfig(n_predators=3, n_prey=4), 24_000
    drawn = jax.device_get(
        jax.jit(jax.vmap(partial(draw_randomness, cfg=cfg)))(jax.random.split(jax.random.key(5), draws))
    )
    assert (np.sort(drawn.predator_turn, -1) == np.arange(3)).all()
    assert (np.sort(drawn.prey_turn, -1) == np.arange(4)).all()
    permutation = drawn.predator_turn @ np.array([9, 3, 1])
    values, counts = np.unique(permutation, return_counts=True)
    assert len(values) == 6
    assert chi_square(counts) < 20.5  # 99.9th percentile with 5 degrees of freedom
    values, counts = np.unique(drawn.prey_turn @ np.array([64, 16, 4, 1]), return_counts=True)
    assert len(values) == 24
    assert chi_square(counts) < 49.7  # 23 degrees of freedom
    both = np.unique(permutation * 4 + drawn.prey_turn[:, 0], return_counts=True)[1]
    assert chi_square(both) < 49.7
    assert drawn.prey_rank.min() == 0
    assert drawn.prey_rank.max() == 11
    assert chi_square(np.bincount(drawn.prey_rank.ravel())) < 31.3  # 11 degrees of freedom
    both = np.bincount(drawn.prey_rank[:, 0] * 4 + drawn.prey_turn[:, 0], minlength=48)
    assert chi_square(both) < 82.7  # 47 degrees of freedom


def test_reset_places_everyone_on_different_cells_anywhere():
    env = make("predator_prey")
    state, _ = jax.device_get(jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(2), 2000)))
    cells = np.concatenate([state.predator, state.prey], -1)
    assert (np.diff(np.sort(cells, -1), axis=-1) > 0).all()
    for entity in (0, 7, 8, 15):
        assert chi_square(np.bincount(cells[:, entity], minlength=100)) < 148.3  # 99.9 %, 99 degrees of freedom
    assert state.active.all()
    assert state.alive.all()
    assert (state.time == 0).all()


def snapshot_bytes(env):
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(env.snapshot(state)))


def test_a_snapshot_is_18_bytes_and_far_below_64():
    assert snapshot_bytes(make("predator_prey")) == 18


def test_boards_of_more_than_256_cells_take_two_bytes_a_cell():
    assert snapshot_bytes(make("predator_prey", grid_size=16)) == 18
    assert snapshot_bytes(make("predator_prey", grid_size=17)) == 34


def test_sizes_are_those_of_deep_coordination_graphs():
    assert make("predator_prey").spec == (8, 6, 75, 300, 200)


@pytest.mark.parametrize(
    ("settings", "best"),
    [({}, 40.0), ({"n_prey": 3}, 30.0), ({"capture_threshold": 3}, 20.0), ({"capture_reward": 1}, 4.0)],
)
def test_best_return_is_what_freezing_allows(settings, best):
    assert make("predator_prey", **settings).max_return == best


def test_success_is_catching_all_that_can_be_caught_whatever_it_cost():
    stats = EpisodeStats(
        episode_return=np.array([40.0, 20.0, 30.0]),
        length=np.array([80, 90, 200]),
        terminal=np.array([True, True, False]),
        info={"captures": np.array([4.0, 4.0, 3.0]), "lone_catches": np.array([0.0, 10.0, 0.0])},
        first_action=np.zeros((3, 8), int),
    )
    assert make("predator_prey").success(stats).tolist() == [True, True, False]


def test_an_action_that_does_not_exist_is_a_stay():
    cfg = PredatorPreyConfig()
    env = make_predator_prey(cfg)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    draw = draw_randomness(jax.random.key(1), cfg)
    for action in (-1, 6, 100):
        after, _ = transition(state, jnp.full(8, action), draw, cfg)
        assert after.predator.tolist() == state.predator.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid_size": 3}, "env.grid_size is 3; expected at least 4"),
        ({"capture_threshold": 2, "n_predators": 1}, "env.capture_threshold is 2; expected at most n_predators = 1"),
        ({"capture_threshold": 5}, "env.capture_threshold is 5; expected a number >= 1 and <= 4"),
        ({"n_prey": 0}, "env.n_prey is 0; expected a number >= 1"),
        ({"punishment": float("inf")}, "env.punishment is inf"),
        ({"punishment": "hard"}, "env.punishment is 'hard'; expected a number"),
        ({"sight": 10}, "env.sight is 10; expected less than grid_size = 10"),
        ({"episode_limit": 0}, "env.episode_limit is 0"),
        ({"episode_limit": 2.5}, "env.episode_limit is 2.5; expected a whole number"),
        ({"punishmnt": 1}, "env.punishmnt is not a setting of predator_prey; did you mean punishment"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_was_expected(settings, message):
    with pytest.raises(ValueError, match="env") as error:
        make("predator_prey", **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_render_draws_the_board_and_lists_who_has_left_it():
    cfg = PredatorPreyConfig(grid_size=3, n_predators=3, n_prey=2, sight=1)
    env = make_predator_prey(cfg)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    state = state._replace(
        predator=jnp.array([0, 4, 5]),
        active=jnp.array([True, False, True]),
        prey=jnp.array([8, 1]),
        alive=jnp.array([True, False]),
    )
    picture = env.render(jax.device_get(env.snapshot(state)))
    assert picture == "0 . .\n. . 2\n. . *\nprey caught: 1 of 2; predators frozen: 1"
