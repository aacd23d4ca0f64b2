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
from tests.support import ray_nodes
from tests.support.fake_nodes import ANY_SEED
from tests.support.smac_cases import BASE, SCRIPTED, SMALL, WORKERS, identity_of, wait_until

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
QUICK = (f"env.factory={SCRIPTED}:ScriptedEnv", "env.stagger=0", "env.backoff=0.02", "env.deadline=20")
WIDE = "env.store=float32"  # games know themselves by numbers that float16 does not hold
LONG = "train.env_steps=1000000"
STORE = {"object_store_memory": 80 * 2**20}  # bytes


class Emulated(ray_nodes.Nodes):
    """A cluster whose nodes, and all that they start, keep their temporary files in a folder."""

    def __init__(self, folder):
        self.folder, self.alive = folder, []
        super().__init__({"num_cpus": 1} | STORE)

    def add(self, slots):
        self.alive.append(self.ask("add", {"num_cpus": 1, "resources": {GAMES: slots}} | STORE))
        return self.alive[-1]

    def kill(self, node):
        self.alive.remove(node)
        self.ask("kill", node)

    def processes(self, kind):
        """Running processes: those of nodes ("actors"), of pools ("workers"), or what games start ("games")."""
        word = {"actors": "ray::NodeGames", "workers": "workers/worker.py", "games": "sleep 600"}[kind]
        found = []
        for process in psutil.process_iter():
            try:  # Ray writes its actors' titles over their environments
                is_ours = kind == "actors" or process.environ().get("TMPDIR", "").startswith(self.folder)
                if word in " ".join(process.cmdline()) and is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def rest(self):
        """What is left of games: processes, and folders."""
        left = [" ".join(each.cmdline()) for kind in ("actors", "workers", "games") for each in self.processes(kind)]
        return left, sorted(path.name for path in Path(self.folder).glob(f"{PREFIX}*"))


@pytest.fixture(scope="module")
def emulated():
    """One cluster for all tests here; what its processes inherit was set before they started."""
    folder = tempfile.mkdtemp(prefix="hosts-")
    script = {"base": BASE, "workers": ANY_SEED, "rate": 0.15, "kinds": ["crash", "raise", "exit", "stale"]}
    script |= {"length": [3, 6], "seconds": [0.0, 0.01], "game": "daemon"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRIPTED_SMAC", json.dumps(script))
        patch.setenv("TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        made = Emulated(folder)
        yield made
        made.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nodes(emulated):
    """Two nodes with slots; afterwards they are gone, and nothing of any game is left."""
    made = [emulated.add(WORKERS) for _ in range(2)]
    yield made
    assert wait_until(lambda: emulated.rest() == ([], [])), emulated.rest()
    for node in list(emulated.alive):
        emulated.kill(node)
    emulated.ask("settle")


def words(emulated, tmp_path, *more):
    return [*SMALL, *QUICK, f"env.hosts={emulated.address}", f"train.run_dir={tmp_path}", "train.name=run", *more]


def command(emulated, tmp_path, *more):
    chosen = ["--algo", "qmix", "--env", "smac/3m", *words(emulated, tmp_path, *more)]
    return [sys.executable, "-m", "lsf_jax.cli", "train", *chosen]


def run(emulated, tmp_path, *more):
    return subprocess.Popen(
        command(emulated, tmp_path, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def refused(emulated, tmp_path, *more):
    """The line with which a command refuses to start, within a minute; it makes no run."""
    started = time.monotonic()
    done = subprocess.run(command(emulated, tmp_path, *more), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert time.monotonic() - started < 60
    (line,) = done.stderr.strip().splitlines()
    assert os.listdir(tmp_path) == []
    return line


def steps_on_record(tmp_path):
    """Env steps of a seed that the run folder knows of; 0 while there is none."""
    if not (tmp_path / "run" / "card.json").exists():
        return 0
    train = load_run(tmp_path / "run").train
    return int(train["env_steps"].max()) if "env_steps" in train else 0


def go_on(emulated, tmp_path, steps):
    """Resume the run until it has so many steps more."""
    before = steps_on_record(tmp_path)
    again = ["resume", str(tmp_path / "run"), f"train.env_steps={before + steps}", QUICK[0]]
    done = subprocess.run(
        [sys.executable, "-m", "lsf_jax.cli", *again, f"env.hosts={emulated.address}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert steps_on_record(tmp_path) >= before + steps


def assert_each_is_whole_and_taken_once(batches):
    """Of the batches that learning was given; the games that played them, by node: `[number of the node's seeds]`."""
    names = []
    for batch in batches:
        for seed in range(2):
            for place in range(WORKERS):
                names.append(identity_of(jax.tree.map(lambda leaf: leaf[seed, place], batch)))  # noqa: B023
    assert len(set(names)) == len(names) == len(batches) * 2 * WORKERS
    return {game // 100_000 for game, _, _ in names}


def train_through(emulated, tmp_path, taken, happen, places):
    """Train; after some batches something happens; stop once games of a further place than these were learned from."""

    def act():
        try:
            assert wait_until(lambda: len(taken) > 2, 900.0)
            happen()
            wait_until(lambda: taken[-1].world.obs[:, :, 0, 0, 0].max() >= 100_000 * places, 300.0)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=act)
    other.start()
    result = lsf_jax.train(compose(algo="qmix", env="smac/3m", overrides=words(emulated, tmp_path, WIDE, LONG)))
    other.join()
    assert result.stopped
    assert assert_each_is_whole_and_taken_once(taken) > set(range(places)), "nobody played on elsewhere"
    counters = json.loads((result.path / "card.json").read_text())["host"]["counters"]
    assert counters["lost_nodes"] == 1
    assert counters["lost_episodes"] > 0


def test_training_goes_on_without_a_node_and_takes_every_episode_whole_and_once(emulated, nodes, tmp_path, taken):
    emulated.add(WORKERS)  # a third node: what one of them loses has room on the others
    train_through(emulated, tmp_path, taken, lambda: emulated.kill(nodes[0]), 3)


def test_games_whose_process_was_killed_are_played_on_by_another_of_that_node(emulated, nodes, tmp_path, taken):
    train_through(emulated, tmp_path, taken, lambda: emulated.processes("actors")[0].kill(), 2)


def test_nothing_is_left_of_a_trainer_that_was_killed_and_resume_goes_on(emulated, nodes, tmp_path):
    process = run(emulated, tmp_path, LONG, "train.checkpoint_minutes=0.001")
    assert wait_until(lambda: steps_on_record(tmp_path) or process.poll() is not None, 300.0)
    assert len(emulated.processes("actors")) == 2
    assert len(emulated.processes("games")) >= WORKERS
    process.kill()
    process.communicate()
    assert wait_until(lambda: emulated.rest() == ([], []), 30.0), emulated.rest()
    go_on(emulated, tmp_path, 100)


def test_ctrl_c_saves_and_leaves_nothing_and_resume_goes_on(emulated, nodes, tmp_path):
    process = run(emulated, tmp_path, LONG)
    for line in process.stdout or ():
        if "updates" in line and "updates 0" not in line and line.startswith("env steps"):
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    assert wait_until(lambda: emulated.rest() == ([], []), 5.0), emulated.rest()
    go_on(emulated, tmp_path, 100)


def test_a_cluster_without_slots_is_refused_in_one_line(emulated, tmp_path):
    line = refused(emulated, tmp_path)
    assert line.startswith(f"lsf-jax: env.hosts={emulated.address}: no node offers slots for games; offer slots where")


def test_more_games_than_slots_are_refused_in_one_line(emulated, nodes, tmp_path):
    line = refused(emulated, tmp_path, "train.n_envs=5", "train.buffer_capacity=60")
    expected = f"lsf-jax: env.hosts={emulated.address}: expected slots for 10 games, but 8 slots free on 2 nodes; lower"
    assert line.startswith(expected)


def test_a_game_that_nodes_cannot_play_is_refused_in_one_line(emulated, nodes, tmp_path):
    line = refused(emulated, tmp_path, "env.factory=no_such_module:Env")
    assert line.startswith(f"lsf-jax: env.hosts={emulated.address}: node ")
    assert "no_such_module" in line
