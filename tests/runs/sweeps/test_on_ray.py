"""Runs on an emulated cluster of three nodes. Minutes each.

python -m pytest -m slow -n 0 tests/runs/sweeps
"""

import json
import os
import re
import signal
import time

import pytest

from tests.runs.sweeps.bits import assert_same_bits
from tests.runs.sweeps.emulated import ROOT, assert_nothing_is_left

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def test_a_grid_of_seeds_on_three_nodes_equals_the_run_on_one_machine(three, alone, tmp_path):
    """And a worker's second block compiles nothing and trains within two seconds of the first's end."""
    driver = three.driver(tmp_path, "three")
    assert "3 nodes, 3 slots" in driver.wait()
    assert_same_bits(alone(), driver.path)
    assert_nothing_is_left(tmp_path)
    made = json.loads((driver.path / "card.json").read_text())["cluster"]
    assert [sorted(blocks) for blocks in made["blocks_by_machine"].values()] == [[0, 1, 2, 3]]
    between = made["seconds_between_blocks"]
    assert between["blocks"] >= 1
    assert between["compiled"] == 0
    assert between["most"] < 2.0


def test_without_a_shared_folder_the_bits_are_the_same(three, alone, tmp_path):
    driver = three.driver(tmp_path, "apart", "--no-shared-folder")
    driver.wait()
    assert_same_bits(alone(), driver.path)
    assert_nothing_is_left(tmp_path)


def test_two_sweeps_share_a_cluster(three, alone, tmp_path):
    drivers = [three.driver(tmp_path, name) for name in ("first", "second")]
    for driver in drivers:
        driver.wait()
        assert_same_bits(alone(), driver.path)
    assert_nothing_is_left(tmp_path)


def test_resources_that_no_node_has_are_refused(three, tmp_path):
    begun = time.monotonic()
    driver = three.driver(tmp_path, "greedy", "--per-block", "GPU=1,CPU=3")
    assert "a block needs CPU 3, GPU 1 and no node of the cluster has that; there is" in driver.wait(code=2)
    assert time.monotonic() - begun < 60
    assert not driver.path.exists()


def test_a_plug_in_that_a_node_lacks_is_named(three, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "at_home.py").write_text("import lsf_jax\nlsf_jax.register(plugin='at_home')\n")
    path = f"{ROOT}{os.pathsep}{tmp_path / 'mine'}"
    driver = three.driver(tmp_path, "plugged", "--plugin", "at_home", PYTHONPATH=path)
    assert re.search(r"node \S+: plug-in at_home \(the driver\): cannot be imported", driver.wait(code=2))


def test_a_block_that_fails_again_and_again_is_reported_while_the_others_finish(three, alone, tmp_path):
    driver = three.driver(tmp_path, "hindered")
    driver.wait_for("in training")
    hindrance = driver.path / "policies" / "block-0001.safetensors"
    hindrance.mkdir(parents=True)  # where a file is to be written
    told = driver.wait(code=2)
    assert f"block 1 failed 3 times and is given up: {hindrance} is a folder; expected a file; move it away" in told
    assert "3 of 4 blocks are finished; when the cause is mended, the same command goes on" in told
    assert_nothing_is_left(tmp_path)
    hindrance.rmdir()
    three.driver(tmp_path, "hindered").wait()
    assert_same_bits(alone(), driver.path)


def test_ctrl_c_saves_and_releases_and_the_same_command_goes_on(three, alone, tmp_path):
    driver = three.driver(tmp_path, "stopped", steps=5_000)
    driver.wait_for("[1-9] in training · cluster.*\n.*env steps [1-9]")
    os.killpg(driver.process.pid, signal.SIGINT)
    assert "stopped and saved" in driver.wait(code=130)
    assert_nothing_is_left(tmp_path)
    driver = three.driver(tmp_path, "stopped", steps=5_000)
    assert "resuming" in driver.wait()
    assert_same_bits(alone(steps=5_000), driver.path)
