"""The adapter: order of agents, padding, what is an argument, and how episodes end; on a toy game and on JaxMARL's."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs import make
from lsf_jax.envs.jaxmarl import Rules, Transition, from_jaxmarl, full_view, lenient, load_jaxmarl, stack, unwrapped
from lsf_jax.envs.jaxmarl_games import ends_before, side_by_side, team_reward
from lsf_jax.envs.jaxmarl_registry import open_game
from lsf_jax.envs.jaxmarl_stored import stored_view
from lsf_jax.envs.stored import n_bytes
from lsf_jax.settings import ConfigError
from lsf_jax.types import EpisodeStats
from tests.support.jaxmarl_cases import needs_jaxmarl

pytestmark = needs_jaxmarl


class Space(NamedTuple):
    n: int


class Count(NamedTuple):
    total: jnp.ndarray
    step: jnp.ndarray


class Toy:
    """Two unlike agents in JaxMARL's interface: they count up by their actions; 5 ends the game, `late` steps at most.

    Like JaxMARL's particle worlds it compares its limit before it counts, and says nothing about who is done why.
    """

    agents = ("tall", "small")  # on purpose not in alphabetical order

    def __init__(self, late=3):
        self.late = late

    def action_space(self, agent):
        return Space({"tall": 4, "small": 2}[agent])

    def reset(self, key):
        state = Count(total=jax.random.randint(key, (), 0, 2), step=jnp.int32(0))
        return self.get_obs(state), state

    def get_obs(self, state):
        small = state.total * jnp.ones(2)  # dtypes that only lenient promotion joins
        return {"small": small, "tall": (state.total + jnp.arange(3.0)).reshape(3, 1)}

    def get_avail_actions(self, state):
        return {
            "small": jnp.uint8(state.total + 1) * jnp.ones(2, jnp.uint8),
            "tall": jnp.array([1, 1, 0, 1], jnp.uint8),
        }

    def step_env(self, key, state, actions):
        after = Count(total=state.total + 2 * actions["tall"] + actions["small"], step=state.step + 1)
        done = (after.total >= 5) | (state.step >= self.late)
        reward = {"small": actions["small"] * 1.0, "tall": actions["tall"] * 3.0}
        return self.get_obs(after), after, reward, {"__all__": done}, {}


AGENTS = Toy.agents
RULES = Rules(
    episode_limit=3,
    reward=partial(team_reward, agents=AGENTS, how="mean"),
    terminal=lambda transition: transition.after.total >= 5,
    info=lambda transition: {"gain": (transition.after.total - transition.before.total).astype(jnp.float32)},
    max_return=6.0,
)


def toy(rules=RULES, state=None):
    game = Toy()
    return from_jaxmarl(game, full_view(game, state=state or partial(side_by_side, agents=AGENTS)), rules)


def stored_toy(state=None):
    return from_jaxmarl(*stored_view(Toy(), state), RULES)


def test_agents_keep_the_games_order_and_the_narrow_ones_are_padded():
    env = toy()
    assert env.spec == (2, 4, 3, 5, 3)
    seen = env.observe(Count(total=jnp.int32(7), step=jnp.int32(0)))
    np.testing.assert_array_equal(seen.obs, [[7, 8, 9], [7, 7, 0]])
    np.testing.assert_array_equal(seen.avail, [[True, True, False, True], [True, True, False, False]])
    assert (seen.obs.dtype, seen.avail.dtype) == (jnp.float32, bool)


def test_what_the_state_is_is_an_argument():
    seen = toy().observe(Count(total=jnp.int32(7), step=jnp.int32(2)))
    np.testing.assert_array_equal(seen.state, [7, 7, 7, 8, 9])  # in the order of the game's dict
    other = toy(state=lambda obs, state: jnp.stack([obs["tall"][2, 0], state.step]))
    assert other.spec.state_dim == 2
    np.testing.assert_array_equal(other.observe(Count(total=jnp.int32(7), step=jnp.int32(2))).state, [9, 2])


def test_what_the_team_earns_is_an_argument():
    state, _ = jax.jit(toy().reset)(jax.random.key(0))
    actions = jnp.array([1, 1], jnp.uint8)
    assert toy().step(jax.random.key(1), state, actions)[1].reward == 2
    alone = RULES._replace(reward=lambda transition: transition.reward["tall"])
    assert toy(alone).step(jax.random.key(1), state, actions)[1].reward == 3


def steps_of(env, *actions):
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    state = state._replace(game=state.game._replace(total=jnp.int32(0)))
    for action in actions:
        state, step = env.step(jax.random.key(1), state, jnp.array(action))
        yield step


def test_the_limit_truncates_and_is_our_own():
    ends = [(bool(step.done), bool(step.terminal)) for step in steps_of(toy(), (0, 0), (0, 1), (0, 0))]
    assert ends == [(False, False), (False, False), (True, False)]  # Toy itself would go on


def test_a_game_that_ends_is_terminal_and_shows_its_last_observation():
    steps = list(steps_of(toy(), (1, 1), (1, 0)))
    assert [(bool(step.done), bool(step.terminal)) for step in steps] == [(False, False), (True, True)]
    np.testing.assert_array_equal(steps[1].observation.obs[0], [5, 6, 7])
    assert [float(step.info["gain"]) for step in steps] == [3, 2]


def test_a_picture_is_a_line_for_each_array():
    text = toy().render(Count(total=np.int32(7), step=np.array([[0.125, 1], [2, 3]])))
    assert text == "total: 7\nstep: [[0.12, 1. ], [2. , 3. ]]"


def test_success_is_the_best_return():
    stats = EpisodeStats(jnp.array([6.0, 5.9]), jnp.array([2, 2]), jnp.array([True, True]), {}, jnp.zeros((2, 2), int))
    assert toy().success(stats).tolist() == [True, False]


def test_stacking_flattens_and_pads_with_zeros():
    rows = stack({"a": jnp.ones((2, 2)), "b": jnp.ones(1), "c": jnp.ones(3)}, ["b", "a"])
    np.testing.assert_array_equal(rows, [[1, 0, 0, 0], [1, 1, 1, 1]])


def test_continuous_actions_are_refused():
    game = Toy()
    game.action_space = lambda agent: type("Box", (), {"shape": (2,)})()
    with pytest.raises(ValueError, match="actions of tall are Box; expected Discrete ones"):
        from_jaxmarl(game, full_view(game, state=partial(side_by_side, agents=AGENTS)), RULES)


def test_the_stored_view_shows_what_the_recomputed_one_does_and_keeps_it_unpadded():
    for state in (None, lambda game_state: jnp.stack([game_state.total, game_state.step])):
        seen_as = {} if state is None else {"state": lambda obs, game_state, state=state: state(game_state)}
        stored, recomputed = stored_toy(state), toy(**seen_as)
        rows = [jax.jit(env.reset)(jax.random.key(3)) for env in (stored, recomputed)]
        for action in ((1, 0), (0, 1)):
            for kept, again in zip(rows[0][1][:2], rows[1][1][:2]):
                assert sorted(np.ravel(kept).tolist()) == sorted(np.ravel(again).tolist())
            np.testing.assert_array_equal(rows[0][1].obs, rows[1][1].obs)
            np.testing.assert_array_equal(rows[0][1].avail, rows[1][1].avail)
            rows = [
                (after, step.observation)
                for after, step in (
                    env.step(jax.random.key(0), before, jnp.array(action))
                    for env, (before, _) in zip((stored, recomputed), rows)
                )
            ]
        # Three and two numbers, four and two actions; one of both would be integers, so that all are stored as float32.
        assert n_bytes(stored.snapshot(rows[0][0])) == 5 * 4 + 1 + (0 if state is None else 2 * 4)


def test_an_end_at_the_games_own_limit_is_the_limits_and_before_it_the_games():
    told = {"before": None, "after": None, "reward": {}, "done": jnp.bool_(True)}
    at = [Transition(**told, time=jnp.int32(time)) for time in (4, 5)]
    assert [bool(ends_before(each, limit=5)) for each in at] == [True, False]
    assert [bool(ends_before(each, limit=None)) for each in at] == [True, True]
    assert not ends_before(at[0]._replace(done=jnp.bool_(False)), limit=None)


@pytest.mark.parametrize(("how", "expected"), [("mean", 2), ("sum", 4), ("first", 3)])
def test_a_teams_reward_is_made_of_its_agents_in_their_order_and_of_nobody_elses(how, expected):
    reward = {"small": jnp.float32(1), "tall": jnp.float32(3), "__all__": jnp.float32(100)}
    transition = Transition(before=None, after=None, reward=reward, done=jnp.bool_(False), time=jnp.int32(1))
    assert team_reward(transition, agents=AGENTS, how=how) == expected


# JaxMARL's registry.


REFUSED = {
    "unknown": (
        {"game": "MPE_simple_spred_v3"},
        r"^env\.game is 'MPE_simple_spred_v3'; did you mean MPE_simple_spread_v3",
    ),
    "package missing": (
        {"game": "JaxRobotarium_rware"},
        "'JaxRobotarium_rware', which cannot be made: .*jaxrobotarium",
    ),
    "continuous": (
        {"game": "MPE_simple_facmac_v1"},
        "'MPE_simple_facmac_v1', whose actions of adversary_0 are Box; exp",
    ),
    "continuous by default": ({"game": "jaxnav"}, r"Discrete ones; .* env\.arguments=\{act_type: Discrete\} asks for"),
    "interface": (
        {"game": "storm_2p"},
        "'storm_2p', which does not keep to JaxMARL's interface: its observations are not",
    ),
    "one agent": ({"game": "MPE_simple_v3"}, r"^env\.game is 'MPE_simple_v3'; expected a game of two agents or more"),
    "argument": (
        {"game": "switch_riddle", "arguments": {"agents": 3}},
        r"cannot be made with env\.arguments .*TypeError",
    ),
    "layout": (
        {"game": "overcooked", "arguments": {"layout": "cramped_rom"}},
        r"env\.arguments\.layout is 'cramped_rom'; did you mean cramped_room",
    ),
    "no mapping": ({"arguments": [3]}, r"env\.arguments is .*; expected a mapping or null"),
    "limit": ({"episode_limit": 26}, r"env\.episode_limit is 26; expected at most 25, where MPE_simple_spread_v3 ends"),
    "no state": ({"state": "game"}, r"env\.state is 'game'; expected auto or observations: MPE_simple_spread_v3 makes"),
    "reward": ({"team_reward": "max"}, r"env\.team_reward is 'max'; expected one of mean, sum, first"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_played_is_refused_by_name_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        make("jaxmarl", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_game_without_a_limit_and_without_recomputed_observations_says_so():
    with pytest.raises(ConfigError, match=r"env\.episode_limit is None; expected a number: hanabi has no limit itself"):
        make("jaxmarl", game="hanabi")
    with pytest.raises(ConfigError, match=r"env\.view is 'recomputed'; expected auto or stored: hanabi does not make"):
        make("jaxmarl", game="hanabi", episode_limit=80, view="recomputed")


@pytest.mark.slow
def test_every_game_that_jaxmarl_registers_is_made_or_refused_in_one_line():
    made, refused = {}, {}
    for name in load_jaxmarl().registered_envs:
        arguments = {"act_type": "Discrete"} if name == "jaxnav" else {}
        try:
            env = make("jaxmarl", game=name, arguments=arguments, episode_limit=20 if name == "hanabi" else None)
        except ConfigError as error:
            refused[name] = str(error)
            assert f"'{name}'" in refused[name]
            assert "\n" not in refused[name]
        else:
            made[name] = env
            assert dict(env.notes).keys() == {"team reward", "state", "replay"}
    opened = {"coin_game", "hanabi", "overcooked", "overcooked_v2", "jaxnav", "switch_riddle", "HeuristicEnemySMAX"}
    assert opened < set(made)
    assert {name for name in refused if name.startswith("storm")} == {"storm", "storm_2p", "storm_np"}


PLAYED = {
    "spread": {"game": "MPE_simple_spread_v3"},
    "speaker and listener": {"game": "MPE_simple_speaker_listener_v4"},
    "reference": {"game": "MPE_simple_reference_v3"},
    "riddle": {"game": "switch_riddle"},
}
PLAYED_SLOWLY = {
    "coins, stored": {"game": "coin_game", "view": "stored", "team_reward": "sum", "arguments": {"num_outer_steps": 2}},
    "coins": {"game": "coin_game", "arguments": {"num_inner_steps": 5, "num_outer_steps": 4}},
    "spread, stored": {"game": "MPE_simple_spread_v3", "view": "stored"},
    "tag": {"game": "MPE_simple_tag_v3", "team_reward": "first"},
    "world": {"game": "MPE_simple_world_comm_v3", "arguments": {"action_type": "Discrete"}},
    "crypto": {"game": "MPE_simple_crypto_v3"},
    "push": {"game": "MPE_simple_push_v3"},
    "adversary": {"game": "MPE_simple_adversary_v3"},
    "hanabi": {"game": "hanabi", "episode_limit": 60},
    "overcooked": {"game": "overcooked", "arguments": {"layout": "coord_ring", "max_steps": 30}},
    "overcooked, stored": {"game": "overcooked", "arguments": {"max_steps": 30}, "view": "stored"},
    "overcooked v2": {"game": "overcooked_v2", "arguments": {"layout": "cramped_room", "max_steps": 30}},
    "navigation": {"game": "jaxnav", "arguments": {"act_type": "Discrete", "max_steps": 30}},
    "battle": {"game": "HeuristicEnemySMAX", "arguments": {"scenario": "smacv2_5_units", "max_steps": 30}},
    "battle of two teams, stored": {"game": "SMAX", "arguments": {"max_steps": 20}, "view": "stored"},
}


@pytest.mark.parametrize(
    "settings",
    [*PLAYED.values(), *(pytest.param(each, marks=pytest.mark.slow) for each in PLAYED_SLOWLY.values())],
    ids=[*PLAYED, *PLAYED_SLOWLY],
)
def test_a_game_of_jaxmarls_is_played_as_jaxmarl_plays_it(settings):
    env, name = make("jaxmarl", **settings), settings["game"]
    game, how = open_game(name, settings.get("arguments", {})), settings.get("team_reward", "mean")
    widths = [game.action_space(agent).n for agent in game.agents]

    def told(obs, reward):
        own = jnp.stack([jnp.asarray(reward[agent], jnp.float32) for agent in game.agents])
        return stack(obs, game.agents), {"mean": own.mean(), "sum": own.sum(), "first": own[0]}[how]

    def both(key):
        key_reset, key_steps = jax.random.split(key)
        state, first = env.reset(key_reset)
        with lenient():
            their_first, _ = game.reset(key_reset)

        def advance(loop, key):
            state, avail = loop
            key_step, key_act = jax.random.split(key)
            action = jnp.where(avail, jax.random.uniform(key_act, avail.shape), -1.0).argmax(-1)
            with lenient():
                by_agent = {agent: action[index] for index, agent in enumerate(game.agents)}
                obs, _, reward, done, _ = game.step_env(key_step, unwrapped(state.game), by_agent)
                theirs = (*told(obs, reward), done["__all__"])
            state, step = env.step(key_step, state, action)
            return (state, step.observation.avail), (step, theirs, env.snapshot(state), avail)

        limit = env.spec.episode_limit
        _, rows = jax.lax.scan(advance, (state, first.avail), jax.random.split(key_steps, limit))
        return first, stack(their_first, game.agents), *rows

    played = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), 8))
    first, their_first, steps, theirs, snapshots, avail = jax.device_get(played)
    np.testing.assert_allclose(first.obs, their_first, atol=1e-6)
    np.testing.assert_allclose(steps.observation.obs, theirs[0], atol=1e-5)
    np.testing.assert_allclose(steps.reward, theirs[1], rtol=1e-5, atol=1e-5)
    again = jax.jit(jax.vmap(jax.vmap(env.observe)))(snapshots)
    np.testing.assert_array_equal(again.obs, steps.observation.obs)
    assert (avail.sum(-1) <= widths).all()
    before_limit = steps.done[:, :-1]
    np.testing.assert_array_equal(before_limit, theirs[2][:, :-1])
    assert steps.done[:, -1].all()
    if name == "switch_riddle":
        assert steps.terminal.any()
        np.testing.assert_array_equal(steps.terminal, steps.reward != 0)
    elif name not in ("hanabi", "jaxnav", "HeuristicEnemySMAX", "SMAX"):
        np.testing.assert_array_equal(avail.sum(-1), np.broadcast_to(widths, avail.shape[:-1]))
        assert not steps.terminal.any()  # only their limits end them; particle worlds would play one step more
