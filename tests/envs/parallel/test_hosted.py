"""Games of others in their workers: how code reaches them, what they are asked, and what becomes of their faults."""

import functools
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from lsf_jax.envs import ENVS
from lsf_jax.envs.host import HostEnv, HostError
from lsf_jax.envs.parallel import hosted
from lsf_jax.envs.parallel.config import ParallelConfig
from lsf_jax.envs.workers.process import KEPT, PREFIX
from lsf_jax.settings import ConfigError
from lsf_jax.types import EpisodeStats
from tests.support import parallel_games
from tests.support.parallel_cases import FILE, QUICK, ZOO, ZooPlayer


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    """Where workers leave what they leave, which must be nothing; and nothing is known of any game."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(hosted, "_KNOWN", {})
    yield
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def open_pool(n_workers, seed=0, **settings):
    cfg = ParallelConfig(**(QUICK | settings))
    return ENVS["parallel"].hosted(cfg).open(n_workers, seed)


def stats_of(returns, **info):
    returns = np.array(returns, np.float32)
    zeros = np.zeros(len(returns), np.int32)
    info = {name: np.array(values, np.float32) for name, values in info.items()}
    return EpisodeStats(returns, zeros, zeros.astype(bool), info, zeros[:, None])


def test_games_play_side_by_side_and_every_event_fits():
    pool = open_pool(2)
    assert isinstance(pool, HostEnv)
    assert tuple(pool.spec) == (3, 3, 4, 2, 4)
    try:
        pool.start()
        player = ZooPlayer(pool)
        player.play(12)
    finally:
        pool.close()
    assert not any(pool.counters.values())
    assert {steps for *_, steps in player.finished} <= {3, 4}
    assert len(set(player.finished)) == len(player.finished)


@pytest.mark.parametrize(
    ("faults", "counter"),
    [
        ({"step": {"what": "raise", "step": 2, "episode": 1}}, "crashes"),
        ({"step": {"what": "exit", "step": 1, "episode": 0}}, "crashes"),
        ({"step": {"what": "hang", "step": 3, "episode": 1}}, "hangs"),
    ],
)
def test_an_episode_with_a_fault_is_lost_and_a_fresh_game_goes_on(faults, counter):
    faults = faults | {"until_seed": 2}  # the first games of both workers
    pool = open_pool(2, arguments={"faults": faults}, deadline=2.0)
    try:
        pool.start()
        player = ZooPlayer(pool)
        player.play(10)
    finally:
        pool.close()
    assert pool.counters[counter] == pool.counters["restarts"] == pool.counters["lost_episodes"] == player.lost == 2
    per_worker = [[episode for worker, episode, _ in player.finished if worker == each] for each in (0, 1)]
    before = faults["step"]["episode"]
    assert all(episodes[:before] == list(range(before)) for episodes in per_worker)
    assert all(episodes[before:] == list(range(len(episodes) - before)) for episodes in per_worker)


def test_a_game_that_fails_again_and_again_ends_the_run_with_the_cause_alone_and_a_log():
    pool = open_pool(1, arguments={"faults": {"step": {"what": "raise"}, "until_seed": 100}}, max_restarts=1)
    pool.start()
    with pytest.raises(HostError) as caught:
        ZooPlayer(pool).play(1)
    pool.close()
    line, _, log = str(caught.value).rpartition("; its log is ")
    cause = "ValueError: KeyError: the cause"
    assert line == f"worker 0 of env.make={ZOO}: failed 2 times in a row, at last: {cause}"
    assert "deep inside" in Path(log).read_text()
    assert Path(log).name.startswith(KEPT)


def test_a_game_is_asked_for_its_sizes_once_and_again_before_a_run(monkeypatch):
    asked = []
    monkeypatch.setattr(hosted, "ask_worker", lambda *given: asked.append(given) or answer)
    answer = {"spec": dict(n_agents=2, n_actions=3, obs_dim=4, state_dim=5, episode_limit=6), "version": "zoo 9"}
    cfg = ParallelConfig(**QUICK)
    env = ENVS["parallel"].factory(cfg)
    assert tuple(env.spec) == (2, 3, 4, 5, 6)
    assert env.version == "1, zoo 9"
    ENVS["parallel"].factory(cfg)
    assert len(asked) == 1
    ENVS["parallel"].hosted(cfg).check()
    ENVS["parallel"].factory(cfg)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"make": "no_such_module:make"}, r"^env\.make=no_such_module:make: cannot import .*: ModuleNotFoundError"),
        ({"make": f"{FILE}:nothing"}, r": cannot import .*parallel_games.py:nothing: AttributeError"),
        ({"state": f"{FILE}:nothing"}, r": cannot import .*parallel_games.py:nothing: AttributeError"),
        ({"arguments": {"cycles": 3}}, r"TypeError: .*unexpected keyword argument 'cycles'"),
        ({"arguments": {"max_cycles": None}}, r"env\.episode_limit is 0, and the game does not tell"),
        ({"python": "no-such-python"}, r"cannot run the workers' interpreter 'no-such-python'.*env\.python"),
        ({"arguments": {"faults": {"reset": {"what": "exit"}, "until_seed": 9}}}, "the process ended"),
        (
            {"arguments": {"faults": {"reset": {"what": "hang"}, "until_seed": 9}}, "launch_deadline": 1.0},
            "no answer within 1 s",
        ),
    ],
)
def test_a_game_that_cannot_be_opened_is_refused_in_one_line(settings, message):
    with pytest.raises(HostError, match=message) as caught:
        ENVS["parallel"].hosted(ParallelConfig(**(QUICK | settings))).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"make": ""}, r"^env\.make is ''; expected 'module:function' or 'file\.py:function', for example env\.make="),
        ({"make": "json"}, r"^env\.make is 'json'; expected 'module:function'"),
        ({"make": "json:not a name"}, r"^env\.make is 'json:not a name'"),
        ({"team_reward": "median"}, r"^env\.team_reward is 'median'; expected one of sum, mean, first, or 'module:fun"),
        ({"state": "all"}, r"^env\.state is 'all'; expected one of auto, game, observations, or"),
        ({"success": "won"}, r"^env\.success is 'won'; expected one of env\.info, which are none"),
        ({"arguments": {"seed": object()}}, r"^env\.arguments is .*; expected names with plain data"),
        ({"episode_limit": -1}, r"^env\.episode_limit is -1"),
    ],
)
def test_wrong_settings_are_refused_before_any_process_is_started(monkeypatch, settings, message):
    monkeypatch.setattr(hosted, "ask_worker", None)
    for use in (ENVS["parallel"].factory, lambda cfg: ENVS["parallel"].hosted(cfg).check()):
        with pytest.raises(ConfigError, match=message):
            use(ParallelConfig(**(QUICK | settings)))


def test_an_episode_is_won_by_what_the_game_tells_or_by_the_best_return(monkeypatch):
    answer = {"spec": dict(n_agents=1, n_actions=1, obs_dim=1, state_dim=1, episode_limit=1), "version": ""}
    monkeypatch.setattr(hosted, "ask_worker", lambda *_: answer)

    def success(stats, **settings):
        env = ENVS["parallel"].factory(ParallelConfig(**(QUICK | settings)))
        return [bool(each) for each in env.success(stats)], env.max_return

    assert success(stats_of([1, 2]), max_return=2.0) == ([False, True], 2.0)
    assert success(stats_of([1, 2])) == ([False, False], float("inf"))
    assert success(stats_of([9, 0], won=[0, 1]), info=("won",), success="won") == ([False, True], float("inf"))


# Code from Python


def test_functions_of_modules_are_named_and_partial_ones_pickled():
    entry = hosted.from_parallel_env(parallel_games.zoo, name="zoo", team_reward="first", arguments={"max_cycles": 9})
    cfg = entry.config()
    assert (entry.name, cfg.make, cfg.team_reward) == ("zoo", "tests.support.parallel_games:zoo", "first")
    assert cfg.arguments == {"max_cycles": 9}
    assert entry.factory(cfg).spec.episode_limit == 9
    partial = hosted.from_parallel_env(
        functools.partial(parallel_games.zoo, max_cycles=7), state=parallel_games.counted
    )
    assert partial.config().make.startswith("pickle:partial_")
    assert tuple(partial.factory(partial.config()).spec) == (3, 3, 4, 3, 7)
    method = hosted.from_parallel_env(parallel_games.Maker(7).make)  # whose name is not enough
    assert method.config().make.startswith("pickle:method_")
    assert method.factory(method.config()).spec.episode_limit == 7
    pool = partial.hosted(partial.config(**QUICK | {"make": partial.config().make})).open(1, 0)
    try:
        pool.start()
        assert pool.receive(1, 20.0)
        assert pool.observation.state[0].tolist() == [0, 3, 10]
    finally:
        pool.close()


def test_what_other_processes_could_not_find_is_refused_in_one_line():
    def inside():
        return parallel_games.Zoo()

    for make in (lambda: parallel_games.Zoo(), inside):
        with pytest.raises(ConfigError, match=r"^make is .*<.*; workers are other processes: expected a func"):
            hosted.from_parallel_env(make)
    with pytest.raises(ConfigError, match=r"^state is .*<lambda>"):
        hosted.from_parallel_env(parallel_games.zoo, state=lambda game, observations: [0])
    with pytest.raises(ConfigError, match=r"make cannot be pickled .*; expected a named function"):
        hosted.from_parallel_env(functools.partial(inside))


def test_functions_of_a_script_are_found_in_its_file_and_those_of_a_session_refused(monkeypatch):
    monkeypatch.setattr(parallel_games.whole_team, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(FILE), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "whole_team", parallel_games.whole_team, raising=False)
    assert hosted.from_parallel_env(ZOO, team_reward=parallel_games.whole_team).config().team_reward == (
        f"{FILE}:whole_team"
    )
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    with pytest.raises(ConfigError, match=r"whole_team of this session; .*put it into a module or file"):
        hosted.from_parallel_env(ZOO, team_reward=parallel_games.whole_team)


def test_the_environment_has_sizes_and_refuses_to_be_a_function():
    env = ENVS["parallel"].factory(ParallelConfig(**QUICK))
    assert env.ends_early
    with pytest.raises(HostError, match="not functions"):
        env.reset(jax.random.key(0))


def test_workers_look_for_modules_where_the_trainer_does_and_in_its_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/somewhere"])
    ours = hosted._settings(ParallelConfig(**QUICK), {}, 0, 1.0)
    assert ours["paths"] == ["/somewhere", str(tmp_path)]
    assert hosted._settings(ParallelConfig(**QUICK, python="another"), {}, 0, 1.0)["paths"] == [str(tmp_path)]
    json.dumps(ours)
