"""SMAX battles: every step and all that is seen against JaxMARL's own account, snapshots, and how episodes end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs.jaxmarl import lenient
from lsf_jax.envs.smax import SmaxConfig, State, begin, draw_chances
from lsf_jax.envs.smax_battle import SPREAD, TICK, TICKS, Units, facing
from lsf_jax.envs.smax_enemies import NOBODY, Plans, first_plans
from lsf_jax.envs.smax_scenarios import SCENARIOS, UNITS
from lsf_jax.envs.smax_view import MAP_SIZE, N_MOVES, STOP
from lsf_jax.types import EpisodeStats
from tests.support.jaxmarl_cases import DRAWN, PAPER, as_theirs, both_step, case, needs_jaxmarl, play

pytestmark = needs_jaxmarl
COPIES, STEPS = 16, 99
ROUNDING = 1e-5  # cells: last bits of positions after many pushes, which XLA sums differently in another program
FULL = 20.0  # return of a won battle


DEFAULT = ("3m", "1c3s5z_nosplash")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in (*PAPER, *DRAWN) if name not in DEFAULT]


@pytest.fixture(scope="module", params=[*DEFAULT, *OTHERS])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def scenario(name):
    return SCENARIOS[name]


@pytest.fixture(scope="module")
def played(name):
    return play(name, COPIES)


@pytest.fixture(scope="module")
def battles(played):
    return played[0]


def check_step(after, step, theirs):
    """That a step is JaxMARL's: what is whole or true to the bit, and the rest to rounding."""
    alive = after.units.health > 0
    np.testing.assert_array_equal(after.units.health, theirs.state.units.health)
    np.testing.assert_array_equal(after.action[alive], theirs.state.action[alive])
    np.testing.assert_array_equal(after.plans.prey, theirs.state.plans.prey)
    np.testing.assert_array_equal(after.plans.goal, theirs.state.plans.goal)
    np.testing.assert_allclose(after.units.cooldown, theirs.state.units.cooldown, atol=1e-6)
    np.testing.assert_allclose(after.units.position, theirs.state.units.position, atol=ROUNDING)
    np.testing.assert_allclose(step.reward, 10 * theirs.reward[..., 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(step.observation.avail, theirs.avail.astype(bool))
    np.testing.assert_allclose(step.observation.obs, theirs.obs, atol=2e-6)


# What happens.


@pytest.mark.default("3m")
def test_every_step_of_a_battle_is_jaxmarls(battles):
    check_step(battles.state, battles.steps, battles.theirs)


def test_no_weapon_is_ready_twice_in_a_step_so_that_one_delay_is_enough():
    """After a shot in the first tick of eight, the shortest reload is not over when the last begins."""
    assert all(unit.cooldown - TICK > (TICKS - 2) * TICK for unit in UNITS.values())


def anything(scenario, key):
    """A state of units strewn about, wounded or dead, weapons hot or ready, after any actions."""
    n, m = len(scenario.allies), len(scenario.enemies)
    keys = jax.random.split(key, 7)
    largest = jnp.array([N_MOVES + m] * n + [N_MOVES + n] * m)
    health = jnp.floor(jax.random.uniform(keys[0], (n + m,), minval=-0.3) * scenario.column("health"))
    crowd = 12 + 8 * jax.random.uniform(keys[2], (n + m, 2))
    anywhere = MAP_SIZE * jax.random.uniform(keys[3], (n + m, 2))
    return State(
        units=Units(
            position=jnp.where(jax.random.bernoulli(keys[6], 0.9, (n + m, 1)), crowd, anywhere),
            health=jnp.maximum(health, 0),
            cooldown=jax.random.uniform(keys[4], (n + m,), minval=-1.0, maxval=1.0),
        ),
        action=jax.random.randint(keys[1], (n + m,), 0, largest),
        plans=Plans(
            prey=jax.random.randint(keys[5], (m,), NOBODY, n), goal=MAP_SIZE * jax.random.uniform(keys[0], (m, 2))
        ),
        time=jnp.int32(1),
    )


@pytest.mark.default("5m_vs_6m-settings0")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("5m_vs_6m", {"attack_mode": "random", "walls_cause_death": False}),
        ("corridor_open", {}),
        pytest.param("2M7m_vs_3M8m", {"enemy_shoots": False}, marks=pytest.mark.slow),
        pytest.param("27m_vs_30m", {}, marks=pytest.mark.slow),
    ],
)
def test_a_step_from_any_state_is_jaxmarls_where_sides_differ_in_number(name, settings):
    env, game = case(name, **settings)
    cfg, scenario = SmaxConfig(scenario=name, **settings), SCENARIOS[name]

    @jax.jit
    @jax.vmap
    def both(key):
        key_state, key_action, key_step = jax.random.split(key, 3)
        state = anything(scenario, key_state)
        action = jax.random.randint(key_action, (len(scenario.allies),), 0, env.spec.n_actions)
        before = as_theirs(game, state)
        with lenient():
            obs, avail = game._env.get_obs(before.state), game._env.get_avail_actions(before.state)
        theirs = [jnp.stack([each[agent] for agent in game.agents]) for each in (obs, avail)]
        return env.observe(env.snapshot(state)), theirs, both_step(game, cfg, key_step, state, action)

    seen, (obs, avail), (after, step, theirs) = jax.device_get(both(jax.random.split(jax.random.key(2), 64)))
    np.testing.assert_allclose(seen.obs, obs, atol=1e-6)
    np.testing.assert_array_equal(seen.avail, avail.astype(bool))
    assert 0.05 < avail[..., N_MOVES:].mean() < 0.95
    check_step(after, step, theirs)
    n = len(scenario.allies)
    assert theirs.fired[:, :n].sum() > 10
    assert theirs.fired[:, n:].any() == cfg.enemy_shoots
    assert (after.plans.prey != NOBODY).any()
    assert set(range(STOP)) < set(after.action[:, n:].ravel().tolist())


@pytest.mark.parametrize("name", ["1c3s5z_nosplash", "27m_vs_30m"])
def test_a_battle_begins_as_jaxmarls_does_with_the_same_offsets(name):
    game, scenario = case(name)[1], SCENARIOS[name]
    n = len(scenario.allies)

    @jax.jit
    @jax.vmap
    def both(key):
        with lenient():
            theirs = game.reset(key)[1].state
        _, west, east = jax.random.split(jax.random.split(key)[1], 3)
        shapes = ((west, (n, 2)), (east, (len(theirs.unit_health) - n, 2)))
        offset = jnp.concatenate([jax.random.uniform(key, shape, minval=-2.0, maxval=2.0) for key, shape in shapes])
        return begin(facing(offset, scenario), scenario), theirs

    state, theirs = jax.device_get(both(jax.random.split(jax.random.key(0), 16)))
    np.testing.assert_allclose(state.units.position, theirs.unit_positions, atol=ROUNDING)
    np.testing.assert_array_equal(state.units.health, theirs.unit_health)
    np.testing.assert_array_equal(state.units.cooldown, theirs.unit_weapon_cooldowns)
    assert (state.action == STOP).all()
    assert (state.plans.prey == NOBODY).all()


def test_units_start_anywhere_near_the_middle_of_their_side():
    start = jax.jit(jax.vmap(case("3m")[0].reset))(jax.random.split(jax.random.key(0), 512))[0].units.position
    middle = np.array([[MAP_SIZE / 4, MAP_SIZE / 2]] * 3 + [[3 * MAP_SIZE / 4, MAP_SIZE / 2]] * 3)
    away = np.asarray(start) - middle
    np.testing.assert_allclose(away.mean(0), 0, atol=5 * SPREAD / np.sqrt(3 * 512))
    np.testing.assert_allclose(away.std(0), SPREAD / np.sqrt(3), rtol=0.1)
    assert len(np.unique(away)) > 0.99 * away.size  # every coordinate of its own


@pytest.mark.parametrize("mode", ["closest", "random"])
def test_chance_is_even_and_its_numbers_independent(mode):
    cfg = SmaxConfig(scenario="3m", attack_mode=mode)
    chances = jax.vmap(lambda key: draw_chances(key, cfg))(jax.random.split(jax.random.key(0), 2048))
    numbers = [(chances.delay + TICK) / (3 * TICK), *(each for each in chances.whims if each is not None)]
    numbers = np.concatenate(numbers, axis=-1)
    assert numbers.shape == (2048, 9 if mode == "closest" else 12)
    assert 0 <= numbers.min() < 0.01
    assert 0.99 < numbers.max() < 1 + 1e-6
    np.testing.assert_allclose(numbers.mean(0), 0.5, atol=5 / np.sqrt(12 * 2048))
    assert np.abs(np.corrcoef(numbers.T) - np.eye(numbers.shape[1])).max() < 5 / np.sqrt(2048)


# What is seen.


def test_observations_are_jaxmarls_in_every_step_the_last_one_included(battles):
    np.testing.assert_allclose(battles.steps.observation.obs, battles.theirs.obs, atol=2e-6)
    assert battles.steps.observation.obs.any()


def test_masks_are_jaxmarls_as_truth_values(battles):
    assert battles.steps.observation.avail.dtype == bool
    np.testing.assert_array_equal(battles.steps.observation.avail, battles.theirs.avail.astype(bool))


def test_the_dead_see_nothing_and_may_only_stop(battles, scenario):
    n = len(scenario.allies)
    dead = battles.state.units.health[:, :, :n] == 0
    assert dead.any()
    assert not battles.steps.observation.obs[dead].any()
    only_stop = np.arange(battles.steps.observation.avail.shape[-1]) == STOP
    assert (battles.steps.observation.avail[dead] == only_stop).all()


def test_the_state_is_jaxmarls_normalised_without_constants(battles, scenario):
    n_units, n_types = len(scenario.units()), len(scenario.type_names())
    per_unit = n_units * (4 + n_types)
    raw = battles.theirs.world_state[..., :per_unit].reshape(COPIES, STEPS, n_units, 4 + n_types).astype(np.float64)
    constants = battles.theirs.world_state[..., per_unit:]
    assert (constants == (constants[:, :1] if scenario.is_drawn else constants[0, 0])).all()  # teams and type numbers
    reload = np.array([unit.cooldown for unit in UNITS.values()])[constants[..., n_units:].astype(int)]
    raw[..., 1:3] /= MAP_SIZE
    raw[..., 3] = np.clip(raw[..., 3] / reload, 0, 1)
    np.testing.assert_allclose(battles.steps.observation.state, raw.reshape(COPIES, STEPS, -1), atol=1e-6)
    # Neighbours may push a living unit a little way off the map.
    assert battles.steps.observation.state.min() > -0.02
    assert battles.steps.observation.state.max() < 1.02


def test_hidden_enemy_actions_are_zero_as_jaxmarls_and_all_else_stays(name, battles):
    seeing, _ = case(name)
    env, game = case(name, see_enemy_actions=False)
    snapshots = jax.tree.map(lambda leaf: leaf[:, :6], battles.snapshot)
    states = jax.tree.map(lambda leaf: leaf[:, :6], battles.state)

    def theirs(state):
        with lenient():
            obs = game._env.get_obs(as_theirs(game, state).state)
        return jnp.stack([obs[agent] for agent in game.agents])

    ours = jax.jit(jax.vmap(jax.vmap(env.observe)))(snapshots)
    np.testing.assert_allclose(ours.obs, jax.jit(jax.vmap(jax.vmap(theirs)))(states), atol=1e-6)
    assert (np.asarray(ours.obs) != battles.steps.observation.obs[:, :6]).any()
    np.testing.assert_array_equal(ours.state, battles.steps.observation.state[:, :6])
    assert env.spec == seeing.spec


# Snapshots.


def test_a_snapshot_recomputes_what_was_returned_bit_for_bit(played):
    battles, again, first_again = played
    for returned, recomputed in ((battles.steps.observation, again), (battles.first[0], first_again)):
        for seen, computed in zip(returned, recomputed, strict=True):
            assert seen.dtype == computed.dtype
            assert seen.tobytes() == computed.tobytes()


def test_a_snapshot_holds_actions_and_whole_health_exactly(battles, scenario):
    n = len(scenario.allies)
    np.testing.assert_array_equal(battles.snapshot.action[..., :n], battles.action)
    np.testing.assert_array_equal(battles.snapshot.health.astype(np.float32), battles.state.units.health)
    assert (battles.first[1].action == STOP).all()
    assert set(range(N_MOVES)) < set(battles.snapshot.action.ravel().tolist())  # every move, and shots


# What is earned, and how it ends.


def test_every_ally_earns_the_same_and_the_team_ten_times_that(battles):
    assert (battles.theirs.reward == battles.theirs.reward[..., :1]).all()
    np.testing.assert_allclose(battles.steps.reward, 10 * battles.theirs.reward[..., 0], rtol=1e-6)


def test_info_sums_to_who_fell_and_who_won(name, battles, scenario):
    n, running = len(scenario.allies), battles.running
    sums = {key: np.where(running, values, 0).sum(1) for key, values in battles.steps.info.items()}
    last = running.sum(1) - 1
    alive = battles.state.units.health[np.arange(COPIES), last] > 0
    np.testing.assert_array_equal(sums["dead_allies"], n - alive[:, :n].sum(1))
    np.testing.assert_array_equal(sums["dead_enemies"], alive.shape[1] - n - alive[:, n:].sum(1))
    won = alive[:, :n].any(1) & ~alive[:, n:].any(1)
    np.testing.assert_array_equal(sums["win"], won)
    stats = EpisodeStats(
        episode_return=np.where(running, battles.steps.reward, 0).sum(1),
        length=last + 1,
        terminal=np.ones(COPIES, bool),
        info=sums,
        first_action=battles.action[:, 0],
    )
    np.testing.assert_array_equal(case(name)[0].success(stats), won)
    np.testing.assert_allclose(stats.episode_return[won], FULL, rtol=1e-5)
    assert (stats.episode_return[~won] < FULL / 2 + 1e-4).all()
    if name == "3m":
        assert won[: COPIES // 2].sum() > 0  # the heuristic half wins sometimes, random play never
        assert not won[COPIES // 2 :].any()


def test_before_the_limit_an_episode_ends_when_jaxmarl_says_so(battles):
    np.testing.assert_array_equal(battles.steps.done, battles.theirs.done)
    np.testing.assert_array_equal(battles.steps.terminal, battles.theirs.done)
    assert battles.theirs.done.any()


class Arena:
    """3m with a limit of four steps and a bonus of 3; steps from states arranged by hand, beside JaxMARL's account."""

    def __init__(self):
        settings = {"max_steps": 4, "won_battle_bonus": 3.0}
        self.env, game = case("3m", **settings)
        self.start, _ = jax.jit(self.env.reset)(jax.random.key(0))
        cfg = SmaxConfig(scenario="3m", **settings)
        self._both = jax.jit(lambda key, state, action: both_step(game, cfg, key, state, action))

    def step(self, state, action):
        return jax.device_get(self._both(jax.random.key(1), state, jnp.asarray(action, jnp.int32)))

    def arranged(self, time=0, **fields):
        """The state after reset with some arrays of the units replaced."""
        units = self.start.units._replace(**jax.tree.map(jnp.asarray, fields))
        plans = first_plans(units, SCENARIOS["3m"])
        return self.start._replace(units=units, plans=plans, time=jnp.int32(time))


@pytest.fixture(scope="module")
def arena():
    return Arena()


STAY = [STOP] * 3
SHOOT_FIRST = [N_MOVES] * 3
FACE_TO_FACE = np.array([[14, 16], [14, 18], [14, 20], [17, 16], [17, 18], [17, 20]], np.float32)
CORNERS = np.array([[2, 2], [2, 4], [2, 6], [30, 26], [30, 28], [30, 30]], np.float32)


def health(*points):
    return np.array(points, np.float32)


def test_an_episode_has_max_steps_steps_where_jaxmarl_plays_one_more(arena):
    state, steps = arena.arranged(position=CORNERS), []
    for _ in range(5):
        state, step, theirs = arena.step(state, STAY)
        steps.append((bool(step.done), bool(step.terminal), bool(theirs.done)))
    assert [done for done, _, _ in steps[:4]] == [False, False, False, True]
    assert not any(terminal for _, terminal, _ in steps)
    assert [theirs for _, _, theirs in steps] == [False] * 4 + [True]


def test_a_battle_decided_in_the_last_step_is_terminal(arena):
    last = arena.arranged(time=3, position=FACE_TO_FACE, health=health(45, 45, 45, 9, 0, 0))
    _, step, theirs = arena.step(last, SHOOT_FIRST)
    assert (step.done, step.terminal, theirs.done) == (True, True, True)
    assert (step.info["win"], step.info["dead_enemies"], step.info["dead_allies"]) == (1, 1, 0)
    # 9 of 45 points of one of three enemies, and the bonus; scaled so that all damage and the bonus make 20.
    assert step.reward == pytest.approx(5 * (9 / 45 / 3 + 3))


def test_a_draw_is_terminal_and_no_win(arena):
    _, step, _ = arena.step(arena.arranged(position=FACE_TO_FACE, health=health(9, 0, 0, 9, 0, 0)), SHOOT_FIRST)
    assert step.terminal
    assert (step.info["win"], step.info["dead_allies"], step.info["dead_enemies"]) == (0, 1, 1)
    assert step.reward == pytest.approx(5 * 9 / 45 / 3)


def test_a_lost_battle_is_terminal_and_earns_nothing_more(arena):
    _, step, _ = arena.step(arena.arranged(position=FACE_TO_FACE, health=health(9, 0, 0, 45, 45, 45)), STAY)
    assert step.terminal
    assert (step.info["win"], step.info["dead_allies"], step.reward) == (0, 1, 0)
    assert not step.observation.obs.any()  # the last observation is that of the dead, not of a next episode


def test_walls_kill(arena):
    places = CORNERS.copy()
    places[0] = 0.5, 2
    _, step, _ = arena.step(arena.arranged(position=places), [3, STOP, STOP])  # west
    assert step.info["dead_allies"] == 1
    assert step.observation.avail.sum(-1).tolist() == [1, 5, 5]


def test_a_shot_reaches_what_is_closer_than_the_range(arena):
    places = CORNERS.copy()
    places[0], places[3:5] = (10, 16), ((14.9, 16), (15.1, 16))
    snapshot = arena.env.snapshot(arena.arranged(position=places))
    seen = arena.env.observe(snapshot)
    assert seen.avail[0].tolist() == [True] * N_MOVES + [True, False, False]
    other = np.asarray(seen.obs[0]).reshape(-1)[: 5 * 13].reshape(5, 13)  # two allies, three enemies
    np.testing.assert_allclose(other[2, :3], [1, 4.9 / 9, 0], rtol=1e-5)
    assert not other[[0, 1, 4]].any()  # farther than 9 cells


def test_walls_are_only_walls_where_they_do_not_kill():
    env, _ = case("3m", walls_cause_death=False)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    state = state._replace(units=state.units._replace(position=jnp.asarray(CORNERS).at[0, 0].set(0.5)))
    after, step = jax.jit(env.step)(jax.random.key(1), state, jnp.array([3, STOP, STOP]))  # west
    assert step.info["dead_allies"] == 0
    assert after.units.position[0, 0] == 0


def test_a_won_battle_returns_the_scale():
    assert case("3m", won_battle_bonus=3.0, reward_scale=8.0)[0].max_return == 8.0
