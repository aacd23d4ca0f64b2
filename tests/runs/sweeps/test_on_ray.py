"""Runs on emulated clusters: several nodes on this machine, drivers as processes of their own. Minutes each.

python -m pytest -m slow -n 0 tests/runs/sweeps/test_on_ray.py
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.runs.sweeps.bits import assert_same_bits

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
ROUNDS = int(os.environ.get("LSF_JAX_TEST_ROUNDS", "30"))
PATIENCE = float(os.environ.get("LSF_JAX_TEST_PATIENCE", "600"))
WORDS = [
    *("sweep", "--algo", "qmix", "--env", "matrix_game", "seeds=4", "algo.lr=1e-3,3e-3"),
    *("algo.hidden=8", "algo.mixer_embed=4", "algo.hyper_hidden=4", "algo.batch_size=8", "train.n_envs=4"),
    *("train.block=2", "train.evaluate_every=100", "train.eval_episodes=2", "train.checkpoint_minutes=0.01"),
]


def environment():
    """That of these tests, which compiles cheaply, with as many devices as there are."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "XLA_FLAGS": flags.strip()}


class Driver:
    """A command in a process of its own, its output in a file."""

    def __init__(self, folder, name, *words, steps=400, **variables):
        self.path, self.log = folder / name, folder / f"{name}-{time.monotonic_ns()}.log"
        words = [*WORDS, f"train.run_dir={folder}", f"train.name={name}", f"train.env_steps={steps}", *words]
        with open(self.log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lsf_jax.cli", *words],
                cwd=folder,
                env=environment() | variables,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, code=0):
        try:
            self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        assert self.process.returncode == code, self.output[-3000:]
        return self.output

    def wait_for(self, pattern):
        until = time.monotonic() + PATIENCE
        while not re.search(pattern, self.output):
            assert self.process.poll() is None, self.output[-3000:]
            assert time.monotonic() < until, self.output[-3000:]
            time.sleep(0.1)


class Emulated:
    """A cluster of nodes that offer CPUs; the head offers none."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = []

    @property
    def address(self):
        return self.cluster.address

    def add(self, cpus=1, **settings):
        self.nodes.append(self.cluster.add_node(num_cpus=cpus, **settings))
        return self.nodes[-1]

    def lose(self, node):
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def _quiet():
    before = dict(os.environ)
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def emulated(_quiet):
    made = Emulated()
    yield made
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def three(_quiet):
    """A cluster of three nodes with one CPU each, for tests that take nothing away."""
    made = Emulated()
    for _ in range(3):
        made.add()
    yield made
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on this machine alone with as many threads, by its number of env steps."""
    folder, made = tmp_path_factory.mktemp("alone"), {}

    def run(steps):
        if steps not in made:
            driver = Driver(folder, f"alone-{steps}", "train.cpu_devices=1", steps=steps, NPROC="1")
            driver.wait()
            made[steps] = driver.path
        return made[steps]

    return run


def workers():
    """Processes that train blocks."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"]
        if line and line[0].startswith("ray::BlockWorker"):
            found.append(process)
    return found


def assert_nothing_is_left(folder):
    until = time.monotonic() + 20
    while workers() and time.monotonic() < until:
        time.sleep(0.2)
    assert workers() == []
    left = [path for path in folder.rglob("*") if re.match(r"(\.?tmp-|\.leases|\.seen)", path.name)]
    assert left == []
    stages = [path for path in Path(tempfile.gettempdir()).glob("lsf_jax-stage-*")]
    assert stages == []


def test_a_grid_of_seeds_on_three_nodes_equals_the_run_on_one_machine(three, alone, tmp_path):
    """And a worker's second block compiles nothing and trains within two seconds of the first's end."""
    driver = Driver(tmp_path, "three", "--cluster", three.address)
    assert "3 nodes, 3 slots" in driver.wait()
    assert_same_bits(alone(400), driver.path)
    assert_nothing_is_left(tmp_path)
    made = json.loads((driver.path / "card.json").read_text())["cluster"]
    assert [sorted(blocks) for blocks in made["blocks_by_machine"].values()] == [[0, 1, 2, 3]]
    between = made["seconds_between_blocks"]
    assert between["blocks"] >= 1
    assert between["compiled"] == 0
    assert between["most"] < 2.0


def test_one_machine_as_its_own_cluster_leaves_nothing(alone, tmp_path):
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    driver = Driver(tmp_path, "local", "--cluster", "local:2", HOME=str(tmp_path), XDG_CACHE_HOME=cache)
    driver.wait()
    assert_same_bits(alone(400), driver.path)
    assert_nothing_is_left(tmp_path)
    assert not list(Path(tempfile.gettempdir()).glob(f"lsf_jax-ray-{driver.process.pid}"))
    assert not (tmp_path / ".ray").exists()
    children = [
        p for p in psutil.process_iter(["cmdline"]) if str(driver.process.pid) in " ".join(p.info["cmdline"] or [])
    ]
    assert children == []


def test_without_a_shared_folder_the_bits_are_the_same(three, alone, tmp_path):
    driver = Driver(tmp_path, "apart", "--cluster", three.address, "--no-shared-folder")
    driver.wait()
    assert_same_bits(alone(400), driver.path)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_whatever_is_killed_the_bits_are_the_same(number, emulated, alone, tmp_path):
    rng, steps = random.Random(number), 20_000
    shared = [] if number % 2 else ["--no-shared-folder"]
    for _ in range(3):
        emulated.add()
    driver = Driver(tmp_path, "killed", "--cluster", emulated.address, *shared, steps=steps)
    killed = []
    for _ in range(3):
        driver.wait_for("finished, [1-9][0-9]* in training")
        time.sleep(rng.uniform(0.0, 4.0))
        if driver.process.poll() is not None:
            break
        what = rng.choice(("worker", "node", "driver"))
        if what == "worker" and (found := workers()):
            rng.choice(found).kill()
        elif what == "node":
            emulated.lose(rng.choice(emulated.nodes))
            emulated.add()
        else:
            driver.process.kill()
            driver.process.wait()
            driver = Driver(tmp_path, "killed", "--cluster", emulated.address, *shared, steps=steps)
        killed.append(what)
    driver.wait()
    assert killed
    assert_same_bits(alone(steps), driver.path)
    assert_nothing_is_left(tmp_path)


def test_a_node_that_joins_takes_blocks(emulated, alone, tmp_path):
    emulated.add()
    driver = Driver(tmp_path, "joined", "--cluster", emulated.address, steps=20_000)
    driver.wait_for("1 in training")
    emulated.add()
    assert "2 in training" in driver.wait()
    assert_same_bits(alone(20_000), driver.path)


def test_two_sweeps_share_a_cluster(three, alone, tmp_path):
    drivers = [Driver(tmp_path, name, "--cluster", three.address) for name in ("first", "second")]
    for driver in drivers:
        driver.wait()
        assert_same_bits(alone(400), driver.path)
    assert_nothing_is_left(tmp_path)


def test_a_node_with_another_version_is_refused_in_one_line(emulated, tmp_path):
    shutil.copytree(ROOT / "lsf_jax", tmp_path / "old" / "lsf_jax", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "old" / "lsf_jax" / "types.py", "a", encoding="utf-8") as file:
        file.write("# as it was before\n")
    emulated.add()
    emulated.add(env_vars={"PYTHONPATH": str(tmp_path / "old")})
    driver = Driver(tmp_path, "refused", "--cluster", emulated.address)
    last = driver.wait(code=2).splitlines()[-1]
    assert re.search(r"^lsf-jax: node \S+ is not like the driver: lsf_jax \S+ \(\w+\) there, \S+ \(\w+\) here", last)
    assert not driver.path.exists()


def test_resources_that_no_node_has_are_refused(three, tmp_path):
    begun = time.monotonic()
    driver = Driver(tmp_path, "greedy", "--cluster", three.address, "--per-block", "GPU=1,CPU=3")
    assert "a block needs CPU 3, GPU 1 and no node of the cluster has that; there is" in driver.wait(code=2)
    assert time.monotonic() - begun < 60
    assert not driver.path.exists()


def test_a_plug_in_that_a_node_lacks_is_named(three, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "at_home.py").write_text("import lsf_jax\nlsf_jax.register(plugin='at_home')\n")
    path = f"{ROOT}{os.pathsep}{tmp_path / 'mine'}"
    driver = Driver(tmp_path, "plugged", "--cluster", three.address, "--plugin", "at_home", PYTHONPATH=path)
    assert re.search(r"node \S+: plug-in at_home \(the driver\): cannot be imported", driver.wait(code=2))


def test_ctrl_c_saves_and_releases_and_the_same_command_goes_on(three, alone, tmp_path):
    driver = Driver(tmp_path, "stopped", "--cluster", three.address, steps=20_000)
    driver.wait_for("[1-9] in training · cluster.*\n.*env steps [1-9]")
    os.killpg(driver.process.pid, signal.SIGINT)
    assert "stopped and saved" in driver.wait(code=130)
    assert_nothing_is_left(tmp_path)
    driver = Driver(tmp_path, "stopped", "--cluster", three.address, steps=20_000)
    assert "resuming" in driver.wait()
    assert_same_bits(alone(20_000), driver.path)
