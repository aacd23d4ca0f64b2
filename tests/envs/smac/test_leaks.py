"""However a pool ends, no process, temporary file or shared memory of it is left."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lsf_jax.config.files import config_folder
from lsf_jax.envs.host import FIRST, LOST, HostError
from lsf_jax.envs.workers.process import PREFIX, PoolFolder
from tests.support.smac_cases import BASE, QUICK, Player, leftovers, lowest, marked_processes, scripted_pool, wait_until

SHARED = Path("/dev/shm")
TRAINER = """
import json, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from lsf_jax.envs.smac.pool import SmacPool
from lsf_jax.envs.smac.config import SmacConfig
pool = SmacPool(SmacConfig(**json.loads(sys.argv[1])), 3, seed=int(sys.argv[2]))
pool.start()
pool.receive(3, 10.0)
print("ready", flush=True)
{}
"""


def shared_files():
    return sorted(path.name for path in SHARED.iterdir()) if SHARED.is_dir() else []


@pytest.fixture
def trainer(tmp_path):
    """Starts a program with a running pool of three games whose tail is the given code."""
    running = []

    def start(tail, **script):
        variables = {
            "SCRIPTED_SMAC": json.dumps({"base": BASE, "workers": 3, "token": str(tmp_path), "game": True, **script}),
            "PYTHONPATH": os.pathsep.join([str(config_folder().parent), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(tmp_path),
        }
        arguments = [sys.executable, "-c", TRAINER.format(tail), json.dumps(QUICK), str(BASE)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(arguments, env=os.environ | variables, cwd=tmp_path, **pipes)
        running.append(process)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def games(tmp_path):
    return [line for line in marked_processes(str(tmp_path)) if line.startswith("sleep")]


def test_close_ends_workers_and_games_and_removes_their_folders(monkeypatch, tmp_path):
    before = shared_files()
    with scripted_pool(monkeypatch, tmp_path, 3, game=True) as pool:
        pool.start()
        assert wait_until(lambda: len(games(tmp_path)) == 3)
        assert len(list(tmp_path.glob(f"{PREFIX}*/worker-*-0/sc-*"))) == 3
        start = time.monotonic()
        pool.close()
        assert time.monotonic() - start < 3
        assert leftovers(tmp_path) == ([], [])
    assert shared_files() == before


def test_games_of_lost_and_relaunched_workers_are_gone_long_before_the_end(monkeypatch, tmp_path):
    faults = [{"worker": 0, "generation": life, "step": 1, "what": "raise"} for life in range(3)]
    with scripted_pool(monkeypatch, tmp_path, 2, {"relaunch_loops": 60}, game=True, faults=faults) as pool:
        pool.start()
        player = Player(pool)
        player.play(12)
        assert wait_until(lambda: player.turn() is not None and pool.counters["crashes"] == 3)
        assert pool.counters["planned_relaunches"] > 2
        assert wait_until(lambda: pool.receive(1, 0.1) is not None and len(pool._retired) == 0)
        assert len(games(tmp_path)) <= 2
        assert len(list(tmp_path.glob(f"{PREFIX}*/worker-*"))) <= 2


def test_a_game_that_left_its_process_group_is_found(monkeypatch, tmp_path):
    with scripted_pool(monkeypatch, tmp_path, 1, game="daemon") as pool:
        pool.start()
        assert wait_until(lambda: len(games(tmp_path)) == 1)
        pool.close()
        assert marked_processes(str(tmp_path)) == []


def test_close_does_not_wait_for_a_worker_that_hangs(monkeypatch, tmp_path):
    with scripted_pool(monkeypatch, tmp_path, 1, game=True, faults=[{"what": "hang"}]) as pool:
        pool.start()
        pool.receive(1, 10.0)
        pool.send([0], lowest(pool, [0]))
        time.sleep(0.2)
        start = time.monotonic()
        pool.close()
        assert time.monotonic() - start < 3


def test_a_failed_start_leaves_nothing(monkeypatch, tmp_path):
    faults = [{"worker": 1, "step": -1, "what": "raise"}]
    with scripted_pool(monkeypatch, tmp_path, 2, {"max_restarts": 0}, game=True, faults=faults) as pool:
        with pytest.raises(HostError):
            pool.start()
        assert leftovers(tmp_path) == ([], [])


def test_a_worker_whose_supervisor_is_killed_dies_and_is_replaced(monkeypatch, tmp_path):
    with scripted_pool(monkeypatch, tmp_path, 1, game=True) as pool:
        pool.start()
        pool.receive(1, 10.0)
        pid = pool._workers[0].process.pid
        pool._workers[0].process._supervisor.kill()
        assert wait_until(lambda: not psutil.pid_exists(pid))
        assert [event.kind for event in pool.receive(1, 10.0)] == [LOST]
        assert [event.kind for event in pool.receive(1, 10.0)] == [FIRST]
        assert wait_until(lambda: len(games(tmp_path)) == 1)


def test_nothing_survives_a_trainer_that_is_killed(trainer, tmp_path):
    before = shared_files()
    process = trainer("time.sleep(600)")
    assert wait_until(lambda: len(games(tmp_path)) == 3)
    process.kill()
    process.wait()
    assert wait_until(lambda: leftovers(tmp_path) == ([], [])), leftovers(tmp_path)
    assert shared_files() == before


@pytest.mark.parametrize(
    "gone", ["True", "all(each._supervisor.poll() is not None for each in pool._retired)"], ids=["at once", "late"]
)
def test_nothing_survives_a_trainer_that_is_killed_while_it_ends_its_games(trainer, tmp_path, gone):
    process = trainer(f"pool._forget_the_gone = lambda: {gone} and signal.raise_signal(signal.SIGKILL); pool.close()")
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert wait_until(lambda: leftovers(tmp_path) == ([], [])), leftovers(tmp_path)


def test_nothing_survives_a_trainer_that_is_killed_at_the_end_of_a_question(trainer, tmp_path):
    tail = """
from lsf_jax.envs.workers.ask import IMPORT, ask_worker
from lsf_jax.envs.workers.process import PoolFolder
pool.close()
PoolFolder.remove = lambda folder: signal.raise_signal(signal.SIGKILL)
ask_worker(pool._game, pool._cfg, IMPORT)
"""
    process = trainer(tail)
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert wait_until(lambda: leftovers(tmp_path) == ([], [])), leftovers(tmp_path)


def test_nothing_survives_a_trainer_that_is_killed_while_it_starts_a_worker(trainer, tmp_path):
    process = trainer("(pool._folder.path / 'worker-2-1').mkdir(); signal.raise_signal(signal.SIGKILL)")
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert wait_until(lambda: leftovers(tmp_path) == ([], [])), leftovers(tmp_path)


def test_nothing_survives_a_killed_trainer_even_if_its_workers_hang(trainer, tmp_path):
    tail = "[__import__('os').kill(each.process.pid, 19) for each in pool._workers]; print('stopped'); time.sleep(600)"
    process = trainer(tail.replace("'stopped'", "'stopped', flush=True"))
    assert process.stdout.readline() == "stopped\n"
    process.kill()
    process.wait()
    assert wait_until(lambda: leftovers(tmp_path) == ([], [])), leftovers(tmp_path)


@pytest.mark.parametrize(
    ("tail", "number", "word"),
    [
        ("time.sleep(600)", signal.SIGINT, "KeyboardInterrupt"),
        ("pool.save_replay(0, 'replays'); time.sleep(600)", signal.SIGTERM, ""),
        ("raise ValueError('training failed')", None, "training failed"),
        ("sys.exit(0)", None, ""),
    ],
    ids=["ctrl-c", "sigterm", "exception", "exit without close"],
)
def test_nothing_survives_a_trainer_that_ends_by(trainer, tmp_path, tail, number, word):
    process = trainer(tail)
    if number is not None:
        process.send_signal(number)
    assert word in process.communicate(timeout=30)[1]
    assert wait_until(lambda: leftovers(tmp_path) == ([], [])), leftovers(tmp_path)


def test_folders_of_dead_pools_are_swept_and_those_of_live_ones_are_not(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, alive, young = (tmp_path / f"{PREFIX}{name}" for name in ("dead", "alive", "young"))
    for folder in (dead, alive, young):
        (folder / "worker-0-0").mkdir(parents=True)
    for folder in (dead, alive):
        os.utime(folder, (0, 0))
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    folder = PoolFolder()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, young.name, folder.path.name])
    folder.remove()
    os.close(lock)
