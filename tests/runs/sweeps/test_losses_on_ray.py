"""Emulated clusters whose nodes come, go and differ. Minutes each; LSF_JAX_TEST_ROUNDS=3 makes fewer of the longest."""

import os
import random
import re
import shutil
import time

import pytest

from tests.runs.sweeps.bits import assert_same_bits
from tests.runs.sweeps.emulated import ROOT, Driver, assert_nothing_is_left, workers

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("LSF_JAX_TEST_ROUNDS", "30"))


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


def test_a_node_that_joins_takes_blocks(emulated, alone, tmp_path):
    emulated.add()
    driver = Driver(tmp_path, "joined", "--cluster", emulated.address, steps=20_000)
    driver.wait_for("1 in training")
    emulated.add()
    assert "2 in training" in driver.wait()
    assert_same_bits(alone(20_000), driver.path)


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
