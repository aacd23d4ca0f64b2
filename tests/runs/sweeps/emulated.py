"""Clusters of several nodes on this machine, and drivers as processes of their own: for slow tests."""

import contextlib
import ctypes
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from lsf_jax.runs import checkpoint
from tests.support import ray_nodes

ROOT = Path(__file__).resolve().parents[3]
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

    def saved(self):
        """Env steps that checkpoints hold, of all rows."""
        found = [checkpoint.read_block(self.path, index) for index in range(4)]
        return sum(sum(block.env_steps) for block in found if block is not None)

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


class Emulated(ray_nodes.Nodes):
    """A cluster of nodes that offer CPUs; the head offers none. Whoever joins it must show its token."""

    def __init__(self):
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        super().__init__({"num_cpus": 0}, **environment() | settings | self.variables)
        self.nodes = []

    def add(self, **settings):
        """A node, by the number that `lose` takes."""
        self.nodes.append(self.ask("add", {"num_cpus": 1} | settings))
        return self.nodes[-1]

    def lose(self, node):
        """SIGKILL to everything of a node but its workers, which find out by themselves as on a network that is cut."""
        self.nodes.remove(node)
        self.ask("kill", node)

    def driver(self, folder, name, *words, **settings):
        """A command on this cluster."""
        return Driver(folder, name, "--cluster", self.address, *words, **self.variables | settings)


def workers():
    """Processes that train blocks."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"]
        if line and line[0].startswith("ray::BlockWorker"):
            found.append(process)
    return found


def wait_for_workers():
    """Processes that train blocks, once there are any."""
    assert within(PATIENCE, workers)
    return workers()


def assert_nothing_is_left(folder):
    assert within(20, lambda: not workers()), workers()
    left = [path for path in folder.rglob("*") if re.match(r"(\.?tmp-|\.leases|\.seen)", path.name)]
    assert left == []
    stages = [path for path in Path(tempfile.gettempdir()).glob("lsf_jax-stage-*")]
    assert stages == []


def cluster_folder(driver):
    """Where a driver with a cluster of its own keeps that."""
    return Path(tempfile.gettempdir()) / f"lsf_jax-ray-{driver.process.pid}"


def adopt_orphans():
    """Make this process the parent of whatever its children leave behind, so that `descendants` finds it."""
    subreaper = 36  # PR_SET_CHILD_SUBREAPER
    assert ctypes.CDLL(None, use_errno=True).prctl(subreaper, 1, 0, 0, 0) == 0


def descendants():
    """Living processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def within(seconds, condition):
    """Whether something comes true in time."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return condition()
