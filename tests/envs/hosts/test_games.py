"""Games on several nodes against scripted games and nodes that are lost; the nodes are threads of this process."""

import json
import tempfile
import threading
import time

import numpy as np
import pytest

from lsf_jax.envs.host import FIRST, LOST, STEP, HostError
from lsf_jax.envs.hosts import games as games_module
from lsf_jax.envs.hosts import line as lines
from lsf_jax.envs.hosts import node as node_module
from lsf_jax.envs.hosts import places
from tests.support.fake_nodes import ANY_SEED, RemotePlayer, await_call, remote_games
from tests.support.smac_cases import BASE, leftovers, lowest, wait_until


@pytest.fixture
def games_on(monkeypatch, tmp_path):
    """Makes scripted games on fake nodes, started; afterwards nothing of them may be left."""
    opened = []

    def make(slots, n_workers, start=True, settings=(), **script):
        told = {"base": BASE, "workers": ANY_SEED, "token": str(tmp_path), **script}
        monkeypatch.setenv("SCRIPTED_SMAC", json.dumps(told))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(node_module, "await_call", await_call)
        games, nodes = remote_games(slots, n_workers, **dict(settings))
        opened.append((games, nodes))
        if start:
            games.start()
        return games, nodes

    yield make
    for games, nodes in opened:
        games.close()
        assert all(door.is_gone for _, door in nodes.doors)
    assert wait_until(lambda: leftovers(tmp_path) == ([], [])), leftovers(tmp_path)


def events_of(games, kind, n, seconds=20.0):
    """Workers that report this kind, until there are n of them; others must report nothing."""
    found, end = [], time.monotonic() + seconds
    while len(found) < n and time.monotonic() < end:
        events = games.receive(1, 1.0)
        assert {event.kind for event in events} <= {kind}
        found += [event.worker for event in events]
    return sorted(found)


def test_workers_are_dealt_to_the_nodes_and_report_as_those_of_a_pool(games_on):
    games, nodes = games_on({"a": 2, "b": 4}, 5, length=[2, 2])
    assert [door.slots for _, door in nodes.doors] == [2, 3]
    assert events_of(games, FIRST, 5) == [0, 1, 2, 3, 4]
    seeds = games.observation.obs[:, 0, 0].astype(int).tolist()
    assert seeds == [0, 100_000, 1, 100_001, 100_002]  # worker 0 on a, 1 on b, 2 on a, and a is full
    before = [part.copy() for part in games.observation]
    games.send([1], lowest(games, [1]))
    assert events_of(games, STEP, 1) == [1]
    assert all((old[[0, 2, 3, 4]] == new[[0, 2, 3, 4]]).all() for old, new in zip(before, games.observation))
    games.send([1], lowest(games, [1]))
    (event,) = games.receive(1, 10.0)
    assert (event.done, event.terminal, event.info["battle_won"]) == (True, True, 1.0)
    assert events_of(games, FIRST, 1) == [1]
    assert games.receive(1, 10.0) == []  # nothing is under way


def test_faults_of_games_are_healed_where_they_play_and_counted(games_on):
    kinds = ["crash", "raise", "exit", "nan", "stale"]
    games, _ = games_on({"a": 2, "b": 2}, 4, rate=0.3, kinds=kinds, length=[2, 4])
    player = RemotePlayer(games)
    player.play(20)
    assert player.lost == games.counters["lost_episodes"] > 0
    assert games.counters["crashes"] > 0
    assert games.counters["restarts"] >= player.lost
    assert games.counters["lost_nodes"] == 0


def test_no_game_waits_for_another_one_nor_for_another_node(games_on):
    games, _ = games_on(
        {"a": 2, "b": 1}, 3, faults=[{"worker": 1, "what": "hang"}, {"worker": 100_000, "what": "hang"}]
    )
    assert events_of(games, FIRST, 3) == [0, 1, 2]
    games.send([2, 1], lowest(games, [2, 1]))  # the second game of a, and that of b
    time.sleep(0.3)
    start = time.monotonic()
    for _ in range(2):
        games.send([0], lowest(games, [0]))
        assert events_of(games, STEP, 1) == [0]
    assert time.monotonic() - start < 1.5  # BEAT is 2: actions reach a node whose turn is going on


def test_a_lost_node_voids_its_episodes_and_others_play_on(games_on):
    games, nodes = games_on({"a": 2, "b": 2}, 4)
    assert events_of(games, FIRST, 4) == [0, 1, 2, 3]
    nodes.kill("a")
    assert events_of(games, LOST, 2) == [0, 2]
    assert games.counters["lost_nodes"] == 1
    assert games.counters["lost_episodes"] == 2
    games.send([1, 3], lowest(games, [1, 3]))
    assert events_of(games, STEP, 2) == [1, 3]
    nodes.slots["c"] = 2
    games.send([1, 3], lowest(games, [1, 3]))
    found = []
    assert wait_until(lambda: found.extend(games.receive(1, 0.2)) or {0, 2} <= {event.worker for event in found})
    assert {event.kind for event in found if event.worker in (0, 2)} == {FIRST}
    assert games.observation.obs[[0, 2], 0, 0].tolist() == [200_000, 200_001]


def test_a_dead_node_that_is_still_offered_is_asked_last_and_counted_once(games_on, monkeypatch):
    monkeypatch.setattr(games_module, "LOOK", 0.05)
    games, nodes = games_on({"a": 2, "b": 2, "c": 2}, 5, length=[1, 1])
    player = RemotePlayer(games)
    player.play(10)
    nodes.kill_unnoticed("a")
    assert wait_until(lambda: player.turn() is None or sum(name == "a" for name, _ in nodes.doors) > 3)
    player.play(len(player.episodes) + 10)
    assert [door.slots for name, door in nodes.doors if name == "c"] == [1, 1]
    assert all(door.slots == 1 for name, door in nodes.doors[3:] if name == "a")
    assert games.counters["lost_nodes"] == 1
    assert games.counters["lost_episodes"] == player.lost


def test_every_episode_is_whole_and_counted_once_though_nodes_come_and_go(games_on):
    games, nodes = games_on({"a": 2, "b": 2, "c": 2}, 6, rate=0.1, kinds=["crash", "exit"], seconds=[0.0, 0.004])
    player = RemotePlayer(games)
    for dead, born in [("a", "d"), ("b", "e"), ("d", "f")]:
        player.play(len(player.episodes) + 6)
        assert wait_until(lambda: player.turn() is None or nodes.is_connected(dead))  # noqa: B023
        nodes.kill(dead)
        player.play(len(player.episodes) + 6)
        nodes.slots[born] = 2
    player.play(len(player.episodes) + 6)
    assert len({episode[:3] for episode in player.episodes}) == len(player.episodes)
    assert games.counters["lost_nodes"] == 3
    assert games.counters["lost_episodes"] == player.lost


def test_with_too_few_slots_left_workers_take_turns(games_on):
    games, nodes = games_on({"a": 2, "b": 2}, 4, length=[1, 1])
    player = RemotePlayer(games)
    player.play(8)
    nodes.kill("a")
    while not games.counters["lost_nodes"]:
        player.turn()
    count = len(player.episodes)
    counts = np.zeros(4, int)
    while counts.min() < 4 and len(player.episodes) < count + 200:
        counts += np.bincount([event.worker for event in player.turn() if event.done], minlength=4)
    assert counts.min() >= 4, counts


def test_a_worker_that_rests_makes_room_for_one_without_a_slot(games_on):
    games, nodes = games_on({"a": 1, "b": 1}, 2)
    assert events_of(games, FIRST, 2) == [0, 1]
    nodes.kill("a")
    assert events_of(games, LOST, 1) == [0]
    events = games.receive(1, 1.0)  # worker 1 is not asked to move, and 0 is waited for
    assert [(event.worker, event.kind) for event in events] == [(0, FIRST), (1, LOST)]
    assert games.observation.obs[0, 0, :4].tolist() == [100_000, 0, 0, 0]
    assert games.counters["lost_episodes"] == 1  # of worker 0: nothing was played of the other one
    games.send([0], lowest(games, [0]))
    assert events_of(games, STEP, 1) == [0]


def test_a_node_that_does_not_answer_is_given_up(games_on, monkeypatch):
    monkeypatch.setattr(games_module, "BEAT", 0.2)
    monkeypatch.setattr(node_module, "BEAT", 0.2)
    games, nodes = games_on({"a": 1, "b": 1}, 2, settings={"deadline": 1.0})
    assert events_of(games, FIRST, 2) == [0, 1]
    nodes.slots.pop("a")
    nodes.door_of("a").line.send = lambda *_: None
    games.send([0, 1], lowest(games, [0, 1]))
    found = []
    assert wait_until(lambda: found.extend(games.receive(1, 0.2)) or len(found) >= 2)
    assert sorted((event.worker, event.kind) for event in found) == [(0, LOST), (1, STEP)]
    assert games.last_fault == "node a: no answer within 1.2 s"


def test_a_trainer_that_was_away_for_long_blames_no_node(games_on, monkeypatch):
    monkeypatch.setattr(games_module, "BEAT", 0.1)
    games, _ = games_on({"a": 1}, 1, settings={"deadline": 0.5})
    assert events_of(games, FIRST, 1) == [0]
    time.sleep(1.0)
    games.send([0], lowest(games, [0]))
    assert events_of(games, STEP, 1) == [0]
    assert games.counters["lost_nodes"] == 0


def test_a_pool_that_gives_up_costs_its_node_alone(games_on):
    faults = [{"what": "raise", "step": 0, "worker": worker} for worker in range(10)]
    games, _ = games_on({"a": 1, "b": 1}, 2, faults=faults, settings={"max_restarts": 2}, length=[2, 2])
    player = RemotePlayer(games)
    assert wait_until(lambda: player.turn() is None or games.counters["lost_nodes"], 60.0)
    player.play(len(player.episodes) + 4)
    assert games.counters["lost_nodes"] == 1
    assert "node a: worker 0 of 3m: failed 3 times in a row, at last: ScriptedError" in games.last_fault


def test_games_that_cannot_start_end_in_one_line_with_the_node_and_the_cause(games_on):
    faults = [{"what": "raise", "step": -2, "worker": worker} for worker in range(100_000, 100_010)]
    games, _ = games_on({"a": 1, "b": 1}, 2, start=False, faults=faults, settings={"max_restarts": 1})
    with pytest.raises(HostError, match=r"^node b: worker 0 of 3m: failed 2 times in a row.*ScriptedError"):
        games.start()


def test_too_few_slots_are_refused_in_one_line(games_on, monkeypatch):
    monkeypatch.setattr(places, "JOIN", 0.1)
    games, _ = games_on({"a": 1, "b": 2}, 4, start=False)
    expected = (
        r"^env.hosts=auto: expected slots for 4 games, but 3 slots free on 2 nodes; "
        "lower train.n_envs, train.seeds or train.block, or offer some$"
    )
    with pytest.raises(HostError, match=expected):
        games.start()


def test_without_any_node_games_end_with_what_became_of_the_last(games_on, monkeypatch):
    monkeypatch.setattr(games_module, "ALONE", 0.3)
    monkeypatch.setattr(games_module, "LOOK", 0.1)
    games, nodes = games_on({"a": 1}, 1)
    assert events_of(games, FIRST, 1) == [0]
    nodes.kill("a")
    assert events_of(games, LOST, 1) == [0]
    assert games.receive(1, 0.1) == []
    time.sleep(0.5)
    with pytest.raises(
        HostError, match=r"has played for 0.3 s, .*node a: the node or its process is gone; start nodes"
    ):
        games.receive(1, 0.2)


def test_wrong_actions_are_refused_before_anything_is_sent(games_on):
    games, _ = games_on({"a": 1, "b": 1}, 2)
    assert events_of(games, FIRST, 2) == [0, 1]
    actions = lowest(games, [0, 1])
    actions[1, 2] = 0
    with pytest.raises(ValueError, match="worker 1: agent 2 cannot take action 0"):
        games.send([0, 1], actions)
    assert games.receive(1, 1.0) == []
    games.send([0, 1], lowest(games, [0, 1]))
    with pytest.raises(ValueError, match=r"workers \[0\]; expected some of those that wait for one: \[\]"):
        games.send([0], lowest(games, [0]))


def test_a_replay_comes_from_its_node(games_on, tmp_path):
    games, _ = games_on({"a": 1, "b": 1}, 2)
    assert events_of(games, FIRST, 2) == [0, 1]
    paths = [games.save_replay(worker, tmp_path / "replays") for worker in (0, 1, 1)]
    assert [path.read_text() for path in paths] == ["worker 0", "worker 100000", "worker 100000"]
    assert len(set(paths)) == 3


def test_an_answer_that_a_loss_overtakes_goes_nowhere(games_on, monkeypatch):
    pools = []
    serve = node_module._serve
    monkeypatch.setattr(node_module, "_serve", lambda pool, *rest: pools.append(pool) or serve(pool, *rest))
    games, _ = games_on({"a": 1}, 1)
    assert events_of(games, FIRST, 1) == [0]
    pools[0]._workers[0].process._supervisor.kill()
    assert wait_until(lambda: pools[0].counters["lost_episodes"])  # and we have not heard of it yet
    games.send([0], lowest(games, [0]))
    assert events_of(games, LOST, 1) == [0]
    assert events_of(games, FIRST, 1) == [0]
    games.send([0], lowest(games, [0]))
    assert events_of(games, STEP, 1) == [0]
    assert games.observation.obs[0, 0, 3] == 1  # one step, not two


def test_a_node_whose_code_breaks_says_so_and_is_lost(games_on, monkeypatch):
    def broken(service):
        raise ZeroDivisionError("by design")

    games, _ = games_on({"a": 1}, 1)
    assert events_of(games, FIRST, 1) == [0]
    monkeypatch.setattr(node_module._Service, "_report", broken)
    assert wait_until(lambda: games.receive(1, 0.2) or games.counters["lost_nodes"])
    assert games.last_fault == "node a: ZeroDivisionError: by design"


def test_who_does_not_know_the_secret_is_not_let_in():
    listener = lines.listen("127.0.0.1")
    address = listener.getsockname()
    answers = []
    node = threading.Thread(target=lambda: answers.append(lines.await_call(listener, b"s" * lines.SECRET, 20.0)))
    node.start()
    stranger = lines.call_up(*address, b"t" * lines.SECRET)
    stranger.wait(10.0)
    with pytest.raises(OSError, match="closed"):
        stranger.receive()
    trainer = lines.call_up(*address, b"s" * lines.SECRET)
    node.join()
    trainer.send(lines.ORDERS, b"x" * 300_000)
    found = []
    assert wait_until(lambda: found.extend(answers[0].receive()) or found)
    assert found == [(lines.ORDERS, b"x" * 300_000)]
    for each in (stranger, trainer, answers[0], listener):
        each.close()
