"""The pool of SMAC workers against scripted games: protocol, faults, deadlines, seeds, memory of what was sent."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest

from lsf_jax.envs.host import FIRST, LOST, STEP, HostError
from lsf_jax.envs.smac.config import SmacConfig
from lsf_jax.envs.smac.pool import COUNTERS, SmacPool
from tests.support.smac_cases import BASE, Player, lowest, scripted_pool, wait_until

FAULTS = ("crashes", "hangs", "stale_resets", "wrong_max_rewards", "launch_failures")


def kinds(events):
    return [(event.worker, event.kind) for event in events]


def kill_games(pool, *workers):
    """Kills the processes of the environments, and waits until they are gone."""
    pids = [pool._workers[worker].process.pid for worker in workers]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not any(map(psutil.pid_exists, pids)))


@pytest.fixture
def pool_of(monkeypatch, tmp_path):
    """Makes scripted pools and starts them."""
    with ExitStack() as stack:

        def make(n_workers=2, start=True, settings=(), **script):
            pool = stack.enter_context(scripted_pool(monkeypatch, tmp_path, n_workers, settings, **script))
            if start:
                pool.start()
            return pool

        yield make


def test_events_come_in_order_and_rows_change_only_with_them(pool_of):
    pool = pool_of(length=[2, 2])
    assert not pool.observation.obs.any()
    assert kinds(pool.receive(2, 10.0)) == [(0, FIRST), (1, FIRST)]
    pool.send([1], lowest(pool, [1]))
    before = [part[0].copy() for part in pool.observation]
    (event,) = pool.receive(1, 10.0)
    assert kinds([event]) == [(1, STEP)]
    assert (event.done, event.terminal) == (False, False)
    assert all((old == new[0]).all() for old, new in zip(before, pool.observation))
    pool.send([1], lowest(pool, [1]))
    (event,) = pool.receive(1, 10.0)
    assert (event.done, event.terminal, event.info["battle_won"]) == (True, True, 1.0)
    time.sleep(0.2)  # the worker has begun its next episode by now; the row is still the terminal one
    assert pool.observation.obs[1, 0, :4].tolist() == [1, 0, 0, 2]
    assert kinds(pool.receive(1, 10.0)) == [(1, FIRST)]
    assert pool.observation.obs[1, 0, :4].tolist() == [1, 0, 1, 0]


def test_numpy_arrays_and_lists_arrive_as_the_same_numbers(pool_of):
    seen = []
    for script in ({"numpy": True}, {"arrays": False}, {}):
        pool = pool_of(1, **script)
        pool.receive(1, 10.0)
        seen.append([part.copy() for part in pool.observation])
        pool.close()
    assert [part.dtype for part in seen[0]] == [np.float32, np.float32, bool]
    for parts in zip(*seen):
        assert all((part == parts[0]).all() for part in parts)


def test_receive_returns_at_once_when_nothing_is_under_way_and_on_time_otherwise(pool_of):
    pool = pool_of(seconds=[1.0, 1.0])
    assert len(pool.receive(2, 10.0)) == 2
    start = time.monotonic()
    assert pool.receive(1, 10.0) == []
    assert time.monotonic() - start < 0.5
    pool.send([0], lowest(pool, [0]))
    start = time.monotonic()
    assert pool.receive(1, 0.2) == []
    assert 0.15 < time.monotonic() - start < 0.9
    assert kinds(pool.receive(1, 10.0)) == [(0, STEP)]


def test_a_slow_worker_keeps_nobody_waiting_who_asks_for_fewer(pool_of):
    pool = pool_of(3, faults=[{"worker": 2, "what": "hang"}], settings={"deadline": 2.0})
    pool.receive(3, 10.0)
    pool.send([0, 1, 2], lowest(pool, [0, 1, 2]))
    start = time.monotonic()
    assert kinds(pool.receive(2, 10.0)) == [(0, STEP), (1, STEP)]
    assert time.monotonic() - start < 1.5
    assert kinds(pool.receive(1, 10.0)) == [(2, LOST)]  # asked for ten seconds, got the deadline
    assert 1.9 < time.monotonic() - start < 4.0
    assert kinds(pool.receive(1, 10.0)) == [(2, FIRST)]
    assert pool.counters == dict.fromkeys(COUNTERS, 0) | {"hangs": 1, "restarts": 1, "lost_episodes": 1}


def test_a_worker_that_waits_for_us_has_no_deadline(pool_of):
    pool = pool_of(1, settings={"deadline": 1.0})
    pool.receive(1, 10.0)
    time.sleep(1.2)
    pool.send([0], lowest(pool, [0]))
    assert kinds(pool.receive(1, 10.0)) == [(0, STEP)]


@pytest.mark.parametrize("what", ["crash", "raise", "nan", "mask", "exit"])
def test_a_broken_step_voids_the_episode_and_another_game_goes_on(pool_of, what):
    pool = pool_of(1, faults=[{"generation": 0, "step": 1, "what": what}])
    pool.receive(1, 10.0)
    for _ in range(2):
        pool.send([0], lowest(pool, [0]))
        events = pool.receive(1, 10.0)
    lost = events[0]
    assert (lost.kind, lost.reward, lost.terminal, lost.done, lost.info) == (LOST, 0.0, False, False, {})
    assert pool.observation.obs[0, 0, :4].tolist() == [0, 0, 0, 1]  # its row stays as it was
    assert kinds(pool.receive(1, 10.0)) == [(0, FIRST)]
    assert pool.observation.obs[0, 0, :4].tolist() == [0, 1, 0, 0]
    assert pool.counters == dict.fromkeys(COUNTERS, 0) | {"crashes": 1, "restarts": 1, "lost_episodes": 1}


@pytest.mark.parametrize(
    ("what", "counter"),
    [("stale", "stale_resets"), ("health", "wrong_max_rewards"), ("raise", "crashes"), ("exit", "crashes")],
)
def test_a_broken_reset_is_healed_and_costs_no_episode(pool_of, what, counter):
    pool = pool_of(1, length=[1, 1], faults=[{"generation": 0, "episode": 1, "step": -1, "what": what}])
    pool.receive(1, 10.0)
    pool.send([0], lowest(pool, [0]))
    (event,) = pool.receive(1, 10.0)
    assert event.done
    assert kinds(pool.receive(1, 10.0)) == [(0, FIRST)]
    assert pool.observation.obs[0, 0, :4].tolist() == [0, 1, 0, 0]
    assert pool.counters == dict.fromkeys(COUNTERS, 0) | {counter: 1, "restarts": 1}


@pytest.mark.parametrize(("what", "step"), [("raise", -2), ("exit", -2), ("raise", -1), ("hang", -1), ("hang", -2)])
def test_failed_launches_are_tried_again(pool_of, what, step):
    lives = 1 if what == "hang" else 2
    faults = [{"worker": 1, "generation": life, "step": step, "what": what} for life in range(lives)]
    pool = pool_of(2, faults=faults, settings={"launch_deadline": 2.0})
    assert kinds(pool.receive(2, 10.0)) == [(0, FIRST), (1, FIRST)]
    assert pool.observation.obs[1, 0, 1] == lives
    assert pool.counters == dict.fromkeys(COUNTERS, 0) | {"launch_failures": lives, "restarts": lives}


def test_a_launch_that_always_fails_ends_in_its_cause_and_the_log(pool_of):
    pool = pool_of(2, start=False, faults=[{"worker": 1, "step": -2, "what": "raise"}], settings={"max_restarts": 2})
    with pytest.raises(HostError) as caught:
        pool.start()
    line, _, log = str(caught.value).rpartition("; its log is ")
    assert line == "worker 1 of 3m: failed 3 times in a row, at last: ScriptedError: worker 1 at -2"
    assert "Traceback (most recent call last)" in Path(log).read_text()
    assert pool.counters["launch_failures"] == 3


def test_restarts_in_a_row_are_further_and_further_apart(pool_of):
    pool = pool_of(1, start=False, faults=[{"step": -2, "what": "exit"}], settings={"max_restarts": 3, "backoff": 0.3})
    start = time.monotonic()
    with pytest.raises(HostError, match="failed 4 times in a row, at last: the process ended"):
        pool.start()
    assert time.monotonic() - start > 0.3 + 0.6  # the first restart is immediate


def test_episodes_in_between_forgive_failures(pool_of):
    faults = [{"generation": life, "episode": 1, "what": "crash"} for life in range(4)]
    pool = pool_of(1, faults=faults, settings={"max_restarts": 1})
    Player(pool).play(8)
    assert pool.counters["crashes"] == 4


def test_a_max_reward_that_a_fresh_game_repeats_is_refused(pool_of):
    pool = pool_of(1, start=False, faults=[{"step": -1, "what": "health"}])
    with pytest.raises(HostError, match=r"max_reward is 730 .*expected 365, in two games.*env.max_reward"):
        pool.start()
    assert pool.counters["wrong_max_rewards"] == 1
    pool = pool_of(1, faults=[{"step": -1, "what": "health", "episode": 0}], settings={"max_reward": 730.0})
    assert kinds(pool.receive(1, 10.0)) == [(0, FIRST)]


def test_other_sizes_than_the_tables_are_refused_at_once(pool_of):
    with pytest.raises(HostError, match=r"other sizes: obs_shape is 31, expected 30; its log is") as caught:
        pool_of(1, more_obs=1)
    assert "failed" not in str(caught.value)


@pytest.mark.parametrize("factory", ["no_such_module:Env", "json:NoSuchClass", "no_such_file.py:Env"])
def test_a_factory_that_is_not_there_is_refused_at_once(pool_of, factory):
    with pytest.raises(HostError, match=r"worker 0 of 3m: cannot import .*(no_such|NoSuch)"):
        pool_of(1, settings={"factory": factory})


def test_unavailable_actions_are_refused_before_anything_is_sent(pool_of):
    pool = pool_of(2)
    pool.receive(2, 10.0)
    actions = lowest(pool, [0, 1])
    actions[1, 2] = 0
    available = np.flatnonzero(pool.observation.avail[1, 2]).tolist()
    with pytest.raises(ValueError, match=rf"worker 1: agent 2 cannot take action 0; available are \{available}"[:-1]):
        pool.send([0, 1], actions)
    for wrong in (9, -1):
        actions[1, 2] = wrong
        with pytest.raises(ValueError, match=f"agent 2 cannot take action {wrong}; available"):
            pool.send([0, 1], actions)
    assert pool.receive(1, 5.0) == []  # nothing was sent
    pool.send([0, 1], lowest(pool, [0, 1]))
    assert len(pool.receive(2, 10.0)) == 2


def test_send_refuses_wrong_shapes_and_workers_that_wait_for_nothing(pool_of):
    pool = pool_of(2)
    with pytest.raises(ValueError, match=r"workers \[0\]; expected some of those that wait for one: \[\]"):
        pool.send([0], np.ones((1, 3), int))
    pool.receive(2, 10.0)
    with pytest.raises(ValueError, match=r"actions are int64 \(1, 2\); expected integers \(1, 3\)"):
        pool.send([0], np.ones((1, 2), int))
    with pytest.raises(ValueError, match="actions are float64"):
        pool.send([0], np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"workers \[0, 0\]"):
        pool.send([0, 0], lowest(pool, [0, 0]))
    pool.send([0], lowest(pool, [0]))
    with pytest.raises(ValueError, match=r"workers \[0\]; expected some of those that wait for one: \[1\]"):
        pool.send([0], lowest(pool, [0]))


def test_a_worker_that_dies_while_it_waits_is_lost_even_if_an_action_comes_first(pool_of):
    pool = pool_of(2)
    pool.receive(2, 10.0)
    kill_games(pool, 0, 1)
    pool.send([0], lowest(pool, [0]))
    assert kinds(pool.receive(2, 10.0)) == [(0, LOST), (1, LOST)]
    assert kinds(pool.receive(2, 10.0)) == [(0, FIRST), (1, FIRST)]
    assert pool.counters["lost_episodes"] == 2


def test_what_a_dead_worker_has_sent_of_a_void_episode_is_not_returned(pool_of):
    pool = pool_of(1)
    kill_games(pool, 0)  # its FIRST has arrived, but nobody has asked for it
    assert kinds(pool.receive(1, 10.0)) == [(0, FIRST)]
    assert pool.observation.obs[0, 0, 1] == 1
    assert pool.counters["lost_episodes"] == 0
    pool.send([0], lowest(pool, [0]))
    assert wait_until(lambda: pool._selector.select(0))
    kill_games(pool, 0)  # its STEP waits to be read
    assert kinds(pool.receive(1, 10.0)) in ([(0, LOST)], [(0, STEP)])
    assert pool.observation.obs[0, 0, 1] == 1
    assert [event.kind for _ in range(2) for event in pool.receive(1, 10.0)][-1] == FIRST
    assert pool.observation.obs[0, 0, 1:4].tolist() == [2, 0, 0]
    assert pool.counters["lost_episodes"] == 1


def test_a_finished_episode_stands_even_if_its_worker_dies_before_it_is_returned(pool_of):
    pool = pool_of(1, length=[1, 1])
    pool.receive(1, 10.0)
    pool.send([0], lowest(pool, [0]))
    assert wait_until(lambda: pool._selector.select(0))
    time.sleep(0.3)  # the next episode has begun as well
    kill_games(pool, 0)
    (event,) = pool.receive(1, 10.0)
    assert (event.kind, event.done) == (STEP, True)
    assert kinds(pool.receive(1, 10.0)) == [(0, FIRST)]
    assert pool.observation.obs[0, 0, 1] == 1
    assert pool.counters["lost_episodes"] == 0


def test_an_action_for_an_episode_that_is_lost_meanwhile_goes_nowhere(pool_of, tmp_path):
    pool = pool_of(2)
    pool.receive(2, 10.0)
    kill_games(pool, 0)
    actions = lowest(pool, [0])
    while pool._workers[0].generation == 0 or pool._workers[0].is_busy():
        pool.save_replay(1, tmp_path)  # while this waits, worker 0 is lost and begins another episode
    pool.send([0], actions)
    assert kinds(pool.receive(1, 10.0)) == [(0, LOST)]
    assert kinds(pool.receive(1, 10.0)) == [(0, FIRST)]
    time.sleep(0.2)
    assert pool.receive(1, 1.0) == []  # the new episode has not moved
    pool.send([0], lowest(pool, [0]))
    assert kinds(pool.receive(1, 10.0)) == [(0, STEP)]
    assert pool.observation.obs[0, 0, 1:4].tolist() == [1, 0, 1]


def test_a_game_is_relaunched_between_episodes_before_its_loops_run_out(pool_of):
    pool = pool_of(2, length=[4, 4], settings={"relaunch_loops": 100})  # an episode has 4 · 8 + 3 loops
    player = Player(pool)
    player.play(16)
    assert pool.counters["restarts"] == pool.counters["lost_episodes"] == 0
    lives = {}
    for worker, generation, *_ in player.episodes:
        lives.setdefault((worker, generation), []).append(1)
    # Three episodes reach 100 loops. Worker 1's first game may have only 75 of them, which takes three as well.
    assert {len(each) for (_, life), each in lives.items() if (_, life + 1) in lives} == {3}
    assert pool.counters["planned_relaunches"] >= 3


def test_first_games_reach_their_end_at_different_times(pool_of):
    pool = pool_of(4, length=[4, 4], settings={"relaunch_loops": 280})
    player = Player(pool)
    player.play(60, min_ready=4)
    first = [sum(episode[:2] == (worker, 0) for episode in player.episodes) for worker in range(4)]
    assert first == [8, 7, 6, 5]


def test_every_game_has_a_seed_of_its_own(pool_of):
    pool = pool_of(3, faults=[{"what": "raise", "generation": 0}])
    player = Player(pool)
    player.play(9, min_ready=3)  # games know worker and generation by their seed, base + worker + 3 · generation
    assert {episode[:2] for episode in player.episodes} == {(0, 1), (1, 1), (2, 1)}


def test_the_time_limit_is_terminal_unless_episodes_continue(pool_of):
    for continuing, terminal in ((False, True), (True, False)):
        pool = pool_of(1, length=[60, 60], settings={"continuing_episode": continuing})
        pool.receive(1, 10.0)
        for _ in range(60):
            pool.send([0], lowest(pool, [0]))
            (event,) = pool.receive(1, 10.0)
        assert (event.done, event.terminal) == (True, terminal)
        pool.close()


def test_replays_are_moved_to_where_one_wants_them(pool_of, tmp_path):
    pool = pool_of(2)
    pool.receive(2, 10.0)
    target = tmp_path / "deep" / "replays"
    paths = [pool.save_replay(worker, target) for worker in (0, 1, 1)]
    assert [path.read_text() for path in paths] == ["worker 0", "worker 1", "worker 1"]
    assert len(set(paths)) == 3
    assert {path.parent for path in paths} == {target}
    pool.send([0, 1], lowest(pool, [0, 1]))
    path = pool.save_replay(0, target)  # waits for the step, whose event is still there afterwards
    assert path.suffix == ".SC2Replay"
    assert kinds(pool.receive(2, 10.0)) == [(0, STEP), (1, STEP)]


def test_a_replay_that_cannot_be_saved_says_why_and_harms_nothing(pool_of, tmp_path):
    pool = pool_of(1)
    pool.receive(1, 10.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"worker 0 could not save a replay: .*Error"):
        pool.save_replay(0, tmp_path / "file")
    pool.send([0], lowest(pool, [0]))
    assert kinds(pool.receive(1, 10.0)) == [(0, STEP)]


def test_a_pool_that_is_not_open_says_so(pool_of):
    pool = pool_of(1, start=False)
    with pytest.raises(HostError, match=r"call start\(\) first"):
        pool.receive(1, 1.0)
    pool.start()
    with pytest.raises(HostError, match="started already"):
        pool.start()
    pool.close()
    pool.close()
    with pytest.raises(HostError, match=r"call start\(\) first"):
        pool.receive(1, 1.0)


def test_without_the_game_start_tells_what_is_missing(tmp_path):
    pool = SmacPool(SmacConfig(map_name="MMM2", sc2_path=str(tmp_path / "nowhere")), 2, seed=BASE)
    with pytest.raises(HostError, match=r"no folder .*nowhere") as caught:
        pool.start()
    assert "s2client-proto" in str(caught.value)


@pytest.mark.slow
def test_hundreds_of_faults_lose_and_double_nothing(pool_of):
    kinds_of_faults = ["crash", "raise", "exit", "nan", "mask", "stale"]
    settings = {"max_restarts": 50, "deadline": 2.0, "relaunch_loops": 900}
    more = [{"worker": worker, "generation": 2, "episode": 0, "what": "hang"} for worker in range(3)]
    more += [{"generation": life, "episode": 0, "step": -1, "what": "health"} for life in (4, 7, 10)]
    pool = pool_of(8, rate=0.35, kinds=kinds_of_faults, faults=more, length=[2, 9], settings=settings)
    player = Player(pool)
    player.play(450, seconds=120)
    counters = pool.counters
    assert counters["restarts"] == sum(counters[kind] for kind in FAULTS) > 200
    assert all(counters[kind] for kind in ("crashes", "stale_resets", "wrong_max_rewards", "hangs"))
    assert player.lost == counters["lost_episodes"] > 100
    # Episodes of one game are numbered; all that it finished were delivered, each once, and only the last can be void.
    games = {}
    for worker, generation, episode, _ in player.episodes:
        games.setdefault((worker, generation), []).append(episode)
    assert all(numbers == list(range(len(numbers))) for numbers in games.values())
    running = {identity[:2]: identity[2] for identity, _ in player.open.values()}
    assert all(len(games.get(game, [])) == number for game, number in running.items())
