"""Clusters of several nodes on this machine, and drivers as processes of their own: for slow tests."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

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
