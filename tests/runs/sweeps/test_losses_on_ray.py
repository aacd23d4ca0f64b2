"""Emulated clusters whose nodes come, go and differ. Minutes each; LSF_JAX_TEST_ROUNDS=3 makes fewer of the longest."""

import os
import random
import re
import shutil
import time

import pytest

from tests.runs.sweeps.bits import assert_same_bits
from tests.runs.sweeps.emulated import ROOT, assert_nothing_is_left, wait_for_workers

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("LSF_JAX_TEST_ROUNDS", "30"))
KINDS = ("node", "worker", "driver")
STEPS, TOTAL = 5_000, 20_000
"""Env steps of a seed and of all."""


def test_a_node_with_another_version_is_refused_in_one_line(emulated, tmp_path):
    shutil.copytree(ROOT / "lsf_jax", tmp_path / "old" / "lsf_jax", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "old" / "lsf_jax" / "types.py", "a", encoding="utf-8") as file:
        file.write("# as it was before\n")
    emulated.add()
    emulated.add(env_vars={"PYTHONPATH": str(tmp_path / "old")})
    driver = emulated.driver(tmp_path, "refused")
    last = driver.wait(code=2).splitlines()[-1]
    assert re.search(r"^lsf-jax: node \S+ is not like the driver: lsf_jax \S+ \(\w+\) there, \S+ \(\w+\) here", last)
    assert not driver.path.exists()


def test_a_node_that_joins_takes_blocks(emulated, alone, tmp_path):
    emulated.add()
    driver = emulated.driver(tmp_path, "joined", steps=STEPS)
    driver.wait_for("1 in training")
    emulated.add()
    assert "2 in training" in driver.wait()
    assert_same_bits(alone(steps=STEPS), driver.path)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_whatever_is_killed_the_bits_are_the_same(number, three, alone, tmp_path):
    """Two SIGKILLs each, when a random part of the run is saved; no shared folder in every second round."""
    rng = random.Random(number)
    words = ("seeds=2", "--no-shared-folder")[: 1 + number % 2]  # two blocks: a node is to spare
    driver, killed = three.driver(tmp_path, "killed", *words, steps=STEPS), []
    driver.wait_for("[1-9] in training")
    for part, what in zip(sorted(rng.uniform(0.0, 0.8) for _ in range(2)), rng.choices(KINDS, k=2)):
        while driver.process.poll() is None and driver.saved() < part * TOTAL:
            time.sleep(0.05)
        if driver.process.poll() is not None:
            break
        if what == "node":
            three.lose(rng.choice(three.nodes))
            three.add()
        elif what == "worker":
            rng.choice(wait_for_workers()).kill()
        else:
            driver.process.kill()
            driver.process.wait()
            driver = three.driver(tmp_path, "killed", *words, steps=STEPS)
        killed.append(what)
    assert "2 of 2 finished" in driver.wait()
    print(f"round {number}: killed {', '.join(killed)}")
    assert killed
    assert_same_bits(alone("seeds=2", steps=STEPS), driver.path)
    assert_nothing_is_left(tmp_path)
