"""The worker's side of games of PettingZoo and Gymnasium: what becomes of what they say, without a worker."""

import numpy as np
import pytest

from lsf_jax.envs.parallel import game as adapter
from tests.support import parallel_games
from tests.support.parallel_games import Box, Composed, Discrete, Keyed, Lists, Many, Numbers, Zoo


def open_game(env, code=(), **settings):
    """An adapter around a game that is there already."""
    known = {"arguments": {}, "team_reward": "sum", "state": "auto", "episode_limit": 0, "limit_truncates": False}
    known |= {"info": [], "seed": 5} | settings
    return adapter.open_game({"make": lambda: env, **dict(code)}, known)


def begun(env, **settings):
    game = open_game(env, **settings)
    game.begin()
    return game


def play(game, *steps):
    """The answers to joint actions."""
    return [game.step(list(actions)) for actions in steps]


def masks(game):
    return [[int(bit) for bit in row] for row in game.look()[2]]


# What is seen


def test_sizes_are_those_of_the_largest_agent_and_of_the_state():
    described = open_game(Zoo()).describe()
    assert described["spec"] == {"n_agents": 3, "n_actions": 3, "obs_dim": 4, "state_dim": 2, "episode_limit": 4}
    assert described["version"] == ""
    assert open_game(Keyed()).describe()["spec"] == dict(
        n_agents=2, n_actions=2, obs_dim=5, state_dim=10, episode_limit=5
    )


def test_sizes_that_differ_from_the_trainers_are_told():
    game = open_game(Zoo())
    spec = {"n_agents": 3, "n_actions": 2, "obs_dim": 9}
    assert game.problems(spec) == ["n_actions is 3, expected 2", "obs_dim is 4, expected 9"]


def test_shorter_observations_and_fewer_actions_are_padded():
    obs, state, _ = begun(Zoo()).look()
    assert [row.tolist() for row in obs] == [[0, 0, 0, 0], [0, 0, 1, 7], [0, 0, 2, 0]]
    assert {row.dtype for row in (*obs, state)} == {np.dtype(np.float32)}
    assert masks(begun(Zoo())) == [[1, 1, 1], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("space", "value", "numbers"),
    [
        (Box(2, 2), [[1, 2], [3, 4]], [1, 2, 3, 4]),
        (Discrete(3), 2, [0, 0, 1]),
        (Discrete(3, start=5), 5, [1, 0, 0]),
        (Numbers(2, 3), [1, 0], [0, 1, 1, 0, 0]),
        (Composed((Discrete(2), Box())), (1, 0.5), [0, 1, 0.5]),
        (Composed({"far": Box(1), "near": Discrete(2)}), {"near": 0, "far": [9]}, [9, 1, 0]),
        (Box(2), {"observation": [1, 2], "action_mask": [1]}, [1, 2]),
        (Composed({"observation": Box(1), "action_mask": Box(3)}), {"observation": [4], "action_mask": [1, 1, 1]}, [4]),
    ],
)
def test_every_space_becomes_a_row_of_numbers(space, value, numbers):
    assert np.concatenate(adapter.flatten(space, value)).tolist() == numbers
    assert adapter.size_of(space) == len(numbers)


def test_what_is_not_finite_or_not_as_large_as_its_space_is_a_fault():
    env = Zoo()
    game = begun(env)
    env.look = lambda: {agent: [np.inf, 0, 0] for agent in "ac"}
    game.step([0, 0, 0])
    with pytest.raises(adapter.GameFault, match="not finite"):
        game.look()
    env.look = lambda: {"a": [1.0, 2.0]}
    with pytest.raises(adapter.GameFault, match="agent a observes 2 numbers, its space has 3"):
        game.step([0, 0, 0])


@pytest.mark.parametrize(
    ("choice", "state"), [("auto", [0, 0]), ("game", [0, 0]), ("observations", [0, 0, 0, 0, 0, 1, 7, 0, 0, 2])]
)
def test_the_state_is_the_games_or_all_observations(choice, state):
    assert begun(Zoo(), state=choice).look()[1].tolist() == state


def test_a_game_without_a_state_has_its_observations_and_a_function_may_make_another():
    env = Lists()
    env.state = {"of": "something else"}
    assert begun(env).look()[1].tolist() == [0, 0.5, 1, 0, 0, 0]
    game = begun(Zoo(), code={"state": parallel_games.counted})
    play(game, (0, 0, 0), (0, 0, 0), (0, 1, 0))
    assert game.look()[1].tolist() == [3, 3, 10]  # of "a", which has left, there are zeros


# Who acts


def test_an_agent_that_leaves_sees_its_end_then_zeros_and_can_do_nothing():
    env = Zoo()
    game = begun(env)
    game.step([2, 1, 2])
    assert masks(game) == [[1, 1, 1], [1, 0, 0], [1, 1, 1]]
    assert game.step([1, 0, 0])[1:3] == (False, False)
    assert game.look()[0][0].tolist() == [0, 2, 0, 0]  # what it saw last
    assert masks(game)[0] == [1, 0, 0]
    game.step([0, 1, 1])
    assert game.look()[0][0].tolist() == [0, 0, 0, 0]
    assert env.sent == [{"a": 2, "b": 1, "c": 3}, {"a": 1, "b": 0, "c": 1}, {"b": 1, "c": 2}]


def test_games_that_want_a_list_get_an_action_for_everybody():
    env = Lists(ends="list")
    game = begun(env)
    play(game, (1, 2), (1, 0))
    assert env.sent == [[1, 2], [1, 0]]
    assert masks(game) == [[1, 1, 0], [1, 0, 0]]


def test_dictionaries_of_gymnasium_are_read_and_sent_by_name():
    env = Keyed()
    game = begun(env)
    assert [row.tolist() for row in game.look()[0]] == [[1, 0, 0, 0.25, 0.75], [1, 0, 0, 0, 1]]
    assert masks(game) == [[1, 0], [0, 1]]
    play(game, (0, 1), (0, 1))
    assert masks(game) == [[1, 0], [1, 0]]
    assert game.step([0, 0]) == (3.0, True, False, {})
    assert env.sent == [{"x": 0, "y": 1}, {"x": 0, "y": 1}, {"x": 0}]


def test_an_episode_is_over_when_nobody_is_mentioned_any_more():
    env = Keyed()
    env.step = lambda actions: ({}, {}, {"__all__": False}, {}, {})
    assert begun(env).step([0, 1]) == (0.0, True, False, {})


def test_masks_are_found_in_infos_and_broken_ones_are_faults():
    env = Lists(masks=True)
    game = begun(env)
    assert masks(game) == [[1, 0, 0], [0, 1, 1]]
    for broken in ([[0, 0], [1, 1, 1]], [[1], [1, 1, 1]]):
        env.info = lambda mask=broken: {"action_mask": mask}
        game.begin()
        with pytest.raises(adapter.GameFault, match="agent 0 with 2 actions has the action_mask"):
            game.look()


def test_masks_in_the_infos_of_agents_are_theirs():
    env = Zoo()
    env.reset = lambda seed=None: (Zoo.reset(env)[0], {"a": {"action_mask": [0, 0, 1]}})
    env.look = lambda: {agent: [0.0] * (3 + (agent == "b")) for agent in env.agents}
    env.observation_space = lambda agent: Box(3 + (agent == "b"))
    assert masks(begun(env))[:2] == [[0, 0, 1], [1, 1, 0]]


# What it earns, and when it ends


@pytest.mark.parametrize(
    ("team_reward", "expected"),
    [("sum", [111, 111, 110]), ("mean", [37, 37, 110 / 3]), ("first", [1, 1, 0])],
)
def test_the_teams_reward_counts_who_has_left_as_nothing(team_reward, expected):
    answers = play(begun(Zoo(), team_reward=team_reward), (0, 0, 0), (0, 0, 0), (0, 1, 0))
    assert [reward for reward, *_ in answers] == pytest.approx(expected)


def test_the_teams_reward_may_be_a_function_and_one_number_is_the_teams_already():
    game = begun(Zoo(), code={"team_reward": parallel_games.whole_team})
    assert play(game, (0, 0, 0))[0][0] == 222
    assert [play(begun(Lists(reward=kind)), (0, 0))[0][0] for kind in ("list", "array", "number")] == [4, 4, 5]


def test_the_games_end_is_terminal_and_its_limit_is_a_cut_with_masks():
    ending = begun(Zoo())
    *_, last = play(ending, (0, 0, 0), (0, 0, 0), (0, 0, 0))
    assert last[1:3] == (True, False)
    assert masks(ending) == [[1, 0, 0]] * 3
    cut = begun(Zoo())
    *_, last = play(cut, (0, 0, 0), (0, 0, 0), (0, 1, 0), (0, 0, 0))
    assert last[1:3] == (True, True)
    assert masks(cut) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert [row.tolist() for row in cut.look()[0]] == [[0, 0, 0, 0], [0, 4, 1, 7], [0, 4, 2, 0]]


def test_a_limit_of_ours_cuts_earlier():
    game = begun(Zoo(), episode_limit=1)
    assert game.step([0, 0, 0])[1:3] == (True, True)
    assert masks(game) == [[1, 1, 1], [1, 0, 0], [1, 1, 1]]
    game.begin()
    assert game.look()[0][0].tolist() == [1, 0, 0, 0]


def test_an_end_at_the_limit_is_the_games_unless_it_is_said_to_be_a_cut():
    for limit, truncates, expected in ((3, False, False), (3, True, True), (4, True, False)):
        game = begun(Lists(steps=3), episode_limit=limit, limit_truncates=truncates)
        *_, last = play(game, (0, 0), (0, 0), (0, 0))
        assert last[1:3] == (True, expected)
        assert masks(game)[1] == ([1, 1, 1] if expected else [1, 0, 0])


def test_an_agent_that_was_cut_long_ago_makes_no_end_a_cut():
    env = Lists(steps=2)
    env.step = lambda actions: ((np.zeros(2), 0), [0, 0], [len(env.sent) == 1, False], [False, True], {})
    game = begun(env)
    game.step([0, 0])
    env.sent.append(1)
    assert game.step([0, 0])[1:3] == (True, False)


def test_who_has_ended_and_was_cut_at_once_has_ended():
    env = Lists()
    env.step = lambda actions: ((np.zeros(2), 0), [0, 0], True, True, {})
    assert begun(env).step([0, 0])[1:3] == (True, False)


def test_all_may_be_cut_at_once():
    assert begun(Many(), episode_limit=9).step([1, 1])[:3] == (1.0, True, True)


# What it tells


def test_the_first_episode_has_the_seed_and_later_ones_go_on_from_it():
    env = Zoo()
    game = begun(env)
    game.begin()
    assert env.seeds == [5, None]
    many = Many()
    begun(many, episode_limit=1)
    assert many.options == {"seed": 5}
    begun(Keyed())  # takes no seed


def test_numbers_of_infos_are_means_over_agents_as_they_stand():
    game = begun(Zoo(), info=["time", "own"])
    infos = [info for *_, info in play(game, (0, 0, 0), (0, 0, 0), (0, 1, 0))]
    assert infos == [{"time": 1, "own": 37}, {"time": 2, "own": 37}, {"time": 3, "own": 55}]
    assert begun(Lists(), info=["each", "won"]).step([0, 0])[3] == {"each": 0.5, "won": 0.0}


def test_a_number_that_no_episode_has_told_is_refused_with_those_that_there_are():
    game = begun(Lists(), info=["wonn"])
    play(game, (0, 0), (0, 0))
    with pytest.raises(
        adapter.GameFault, match=r"env\.info is 'wonn'; expected what the game tells: each, won"
    ) as caught:
        game.step([0, 0])
    assert caught.value.fault == "refused"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent_iter": None}, r"in turn \(AEC\); expected its parallel_env"),
        ({"actions": {"a": Box(2), "b": Discrete(2), "c": Discrete(2)}}, "agent a acts in .*Box.*; expected Discrete"),
        ({"actions": dict.fromkeys("abc", Discrete(300))}, "agent a has 300 actions; expected at most 256"),
        ({"max_cycles": None}, r"env\.episode_limit is 0, and the game does not tell its own"),
    ],
)
def test_what_cannot_be_played_is_refused(change, message):
    env = Zoo()
    vars(env).update(change)
    with pytest.raises(adapter.GameFault, match=message) as caught:
        open_game(env)
    assert caught.value.fault == "refused"


def test_old_interfaces_and_single_agents_are_refused():
    env = Lists()
    env.step = lambda actions: (env.look(), 0.0, False, {})
    with pytest.raises(adapter.GameFault, match="step\\(\\) gives 4 values, expected 5: observations, rewards"):
        begun(env).step([0, 0])
    single = Many()
    single.action_space = Discrete(2)
    with pytest.raises(adapter.GameFault, match=r"action_space is .*; expected one for each agent"):
        open_game(single)


def test_the_limit_is_asked_of_wrapped_games_too():
    class Wrapper:
        spec, agents, possible_agents = None, ["a"], ["a"]
        unwrapped = Zoo(max_cycles=17)
        observation_space, action_space = unwrapped.observation_space, unwrapped.action_space

    assert adapter.limit_of(Wrapper()) == 17
