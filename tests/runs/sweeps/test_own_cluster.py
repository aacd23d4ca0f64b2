"""Commands that make a cluster of this machine alone: what is left of them. Minutes each."""

import os
from pathlib import Path

import pytest

from tests.runs.sweeps.bits import assert_same_bits
from tests.runs.sweeps.emulated import (
    PATIENCE,
    Driver,
    adopt_orphans,
    assert_nothing_is_left,
    cluster_folder,
    descendants,
    within,
)

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def test_one_machine_as_its_own_cluster_leaves_nothing(alone, tmp_path):
    adopt_orphans()
    before, cache = set(descendants()), os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    driver = Driver(tmp_path, "local", "--cluster", "local:2", HOME=str(tmp_path), XDG_CACHE_HOME=cache)
    driver.wait_for("2 in training")
    assert len(set(descendants()) - before) > 4  # so that what is missing below was there
    assert cluster_folder(driver).is_dir()
    driver.wait()
    assert within(5, lambda: not set(descendants()) - before), set(descendants()) - before
    assert not cluster_folder(driver).exists()
    assert not (tmp_path / ".ray").exists()
    assert_same_bits(alone(), driver.path)
    assert_nothing_is_left(tmp_path)


def test_a_killed_command_takes_its_own_cluster_with_it(alone, tmp_path):
    adopt_orphans()
    before = set(descendants())
    killed = Driver(tmp_path, "local", "--cluster", "local:2", steps=5_000)
    assert within(PATIENCE, lambda: killed.saved() > 10_000)
    killed.process.kill()
    killed.process.wait()
    # Ray's agents first try to tell the head, which is dead too, and give up after a minute or so.
    assert within(150, lambda: not set(descendants()) - before), set(descendants()) - before
    driver = Driver(tmp_path, "local", "--cluster", "local:2", steps=5_000)
    driver.wait()
    assert not cluster_folder(killed).exists()
    assert_same_bits(alone(steps=5_000), driver.path)
    assert_nothing_is_left(tmp_path)
