"""Games on the nodes of an emulated Ray cluster: training when a node is lost, and what is left of a killed trainer."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import psutil
import pytest

import lsf_jax
from lsf_jax.analysis.frames import load_run
from lsf_jax.config.composition import compose
from lsf_jax.envs.hosts.ray_cluster import GAMES
from lsf_jax.envs.workers.process import PREFIX
from tests.support.fake_nodes import ANY_SEED
from tests.support.smac_cases import BASE, SCRIPTED, SMALL, WORKERS, identity_of, wait_until

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
STORE = 80 * 2**20  # bytes
QUICK = (f"env.factory={SCRIPTED}:ScriptedEnv", "env.stagger=0", "env.backoff=0.02", "env.deadline=20")
WIDE = "env.store=float32"  # games know themselves by numbers that float16 does not hold


class Emulated:
    """A cluster whose nodes are processes of this machine."""

    def __init__(self, folder):
        from ray.cluster_utils import Cluster

        self.folder = folder
        head = {"include_dashboard": False, "object_store_memory": STORE, "num_cpus": 1}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self.cluster.address

    def add(self, slots):
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE, resources={GAMES: slots})

    def kill(self, node):
        self.cluster.remove_node(node, allow_graceful=False)

    def rest(self):
        """What is left of games: processes of workers and of actors, and folders."""
        found = []
        for process in psutil.process_iter():
            with_us = "ray::NodeGames", "workers/worker.py"
            try:
                line = " ".join(process.cmdline())
                if any(word in line for word in with_us) and process.environ().get("TMPDIR", "").startswith(
                    self.folder
                ):
                    found.append(line)
            except psutil.Error:
                continue
        return found, [path.name for path in Path(self.folder).glob(f"{PREFIX}*")]


@pytest.fixture(scope="module")
def emulated():
    """One cluster for all tests here; what its processes inherit was set before they started."""
    folder = tempfile.mkdtemp(prefix="hosts-")
    script = {"base": BASE, "workers": ANY_SEED, "rate": 0.15, "kinds": ["crash", "raise", "exit", "stale"]}
    script |= {"length": [3, 6], "seconds": [0.0, 0.01]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRIPTED_SMAC", json.dumps(script))
        patch.setenv("TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        made = Emulated(folder)
        yield made
        made.cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nodes(emulated):
    """Two nodes with slots; afterwards they are gone, and nothing of any game is left."""
    made = [emulated.add(WORKERS) for _ in range(2)]
    yield made
    assert wait_until(lambda: emulated.rest() == ([], [])), emulated.rest()
    for node in set(made) & set(emulated.cluster.list_all_nodes()):
        emulated.kill(node)


def words(emulated, tmp_path, *more):
    return [*SMALL, *QUICK, f"env.hosts={emulated.address}", f"train.run_dir={tmp_path}", "train.name=run", *more]


def command(emulated, tmp_path, *more):
    chosen = ["--algo", "qmix", "--env", "smac/3m", *words(emulated, tmp_path, *more)]
    return [sys.executable, "-m", "lsf_jax.cli", "train", *chosen]


def refused(emulated, tmp_path, *more):
    """The line with which a command refuses to start; within a minute."""
    started = time.monotonic()
    done = subprocess.run(command(emulated, tmp_path, *more), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert time.monotonic() - started < 60
    (line,) = done.stderr.strip().splitlines()
    return line


def test_training_goes_on_without_a_node_and_takes_every_episode_whole_and_once(emulated, nodes, tmp_path, taken):
    def lose_one():
        assert wait_until(lambda: len(taken) > 2, 900.0)
        emulated.kill(nodes[0])

    emulated.add(WORKERS)  # a third node: what one of them loses has room on the others
    loser = threading.Thread(target=lose_one)
    loser.start()
    result = lsf_jax.train(
        compose(algo="qmix", env="smac/3m", overrides=words(emulated, tmp_path, WIDE, "train.env_steps=600"))
    )
    loser.join()
    assert result.finished
    names = []
    for batch in taken:
        for seed in range(2):
            for place in range(WORKERS):
                names.append(identity_of(jax.tree.map(lambda leaf: leaf[seed, place], batch)))  # noqa: B023
    assert len(set(names)) == len(names) == len(taken) * 2 * WORKERS
    assert {game // 100_000 for game, _, _ in names} > {0, 1, 2}, "nobody played on elsewhere"
    counters = json.loads((result.path / "card.json").read_text())["host"]["counters"]
    assert counters["lost_nodes"] == 1
    assert counters["lost_episodes"] > 0


def test_nothing_is_left_of_a_trainer_that_was_killed(emulated, nodes, tmp_path):
    process = subprocess.Popen(command(emulated, tmp_path, "train.env_steps=1000000"), stdout=subprocess.PIPE)
    assert wait_until(lambda: len(emulated.rest()[0]) > 2 * WORKERS, 300.0), emulated.rest()
    process.kill()
    process.wait()
    assert wait_until(lambda: emulated.rest() == ([], []), 30.0), emulated.rest()


def test_ctrl_c_saves_and_leaves_nothing_and_resume_goes_on(emulated, nodes, tmp_path):
    process = subprocess.Popen(
        command(emulated, tmp_path, "train.env_steps=1000000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout or ():
        if "updates" in line and "updates 0" not in line and line.startswith("env steps"):
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    assert wait_until(lambda: emulated.rest() == ([], []), 5.0), emulated.rest()
    before = load_run(tmp_path / "run").train["env_steps"].max()
    again = ["resume", str(tmp_path / "run"), f"train.env_steps={before + 100}", QUICK[0]]
    done = subprocess.run(
        [sys.executable, "-m", "lsf_jax.cli", *again, f"env.hosts={emulated.address}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "run").train["env_steps"].max() >= before + 100


def test_a_cluster_without_slots_is_refused_in_one_line(emulated, tmp_path):
    line = refused(emulated, tmp_path)
    assert line.startswith(f"lsf-jax: env.hosts={emulated.address}: no node offers slots for games; offer slots where")
    assert not (tmp_path / "run").exists()


def test_more_games_than_slots_are_refused_in_one_line(emulated, nodes, tmp_path):
    line = refused(emulated, tmp_path, "train.n_envs=5")
    assert f"env.hosts={emulated.address}: 10 games wanted, but 8 slots free on 2 nodes; offer slots" in line


def test_a_game_that_nodes_cannot_play_is_refused_in_one_line(emulated, nodes, tmp_path):
    line = refused(emulated, tmp_path, "env.factory=no_such_module:Env")
    assert "node " in line
    assert "no_such_module" in line
    assert not (tmp_path / "run").exists()
    assert os.listdir(emulated.folder) == []
