"""Runs that are killed at any moment, again and again: they end with the bits of one that was left in peace."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lsf_jax.cli import app
from lsf_jax.runs import checkpoint
from lsf_jax.runs.leaves import record_of
from lsf_jax.runs.params_file import load_params
from tests.support.engine_cases import (
    HUNT,
    NETWORKS,
    QUICK,
    assert_same_bits,
    assert_same_tables,
    shared_programs,
)

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("--env", "m_step", *QUICK, "train.env_steps=900", "train.evaluate_every=24")
PREY = ("--env", "predator_prey", *NETWORKS, *HUNT, "seeds=2", "train.env_steps=6000", "train.evaluate_every=48")


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


def started(arguments: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "lsf_jax.cli", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_progress(process: subprocess.Popen, run: Path, patience: float = 240.0) -> None:
    """Until the process has saved something new."""
    folder = run / "checkpoints" / "block-0000"
    before, end = checkpoint.latest(folder), time.monotonic() + patience
    while checkpoint.latest(folder) == before:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.005)


def endure(folder: Path, words: tuple[str, ...], n_kills: int, rng: random.Random) -> Path:
    """Train in processes that are killed at random moments, then one that gets Ctrl-C; resume to the end here."""
    arguments = ["train", *words, "train.checkpoint_minutes=1e-9", f"train.run_dir={folder}", "train.name=killed"]
    run = folder / "killed"
    for _ in range(n_kills):
        with started(arguments) as process:
            wait_for_progress(process, run)
            time.sleep(rng.uniform(0.0, 0.3))  # mostly in the middle of writing tables or a checkpoint
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
        arguments = ["resume", str(run)]
    with started(arguments) as process:
        wait_for_progress(process, run)
        process.send_signal(signal.SIGINT)
        shown = process.stdout.read()
        assert process.wait() == 130, shown
    assert f"lsf-jax resume {run}" in shown
    assert app.main(["resume", str(run), "train.checkpoint_minutes=10"]) == 0
    return run


def undisturbed(folder: Path, words: tuple[str, ...]) -> Path:
    assert app.main(["train", *words, f"train.run_dir={folder}", "train.name=calm"]) == 0
    return folder / "calm"


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), STEPS)


def arrays_of(path: Path) -> dict[str, Any]:
    """Everything that was learned and stored, as its checkpoint holds it."""
    step = checkpoint.newest(checkpoint.block_folder(path, 0))
    records = [record_of(entry) for entry in checkpoint.verify(step)["leaves"]]
    return checkpoint._in_thread(lambda: checkpoint._read_arrays(step / checkpoint.ARRAYS, records))


def assert_same_end(left: Path, right: Path) -> None:
    assert_same_tables(left, right)
    policies = [load_params(path / "policies" / "block-0000.safetensors")[0] for path in (left, right)]
    assert_same_bits(*policies)
    ours, theirs = arrays_of(left), arrays_of(right)
    assert len(ours) > 50
    assert_same_bits(ours, theirs)
    cards = [json.loads((path / "card.json").read_text()) for path in (left, right)]
    assert cards[0]["layout"] == cards[1]["layout"]
    assert not [path for path in left.rglob("*") if "tmp-" in path.name]


@pytest.mark.slow
def test_a_run_killed_once_and_stopped_by_ctrl_c_ends_with_the_bits_of_an_undisturbed_one(tmp_path, calm):
    assert_same_end(endure(tmp_path, STEPS, 1, random.Random(0)), calm)


@pytest.mark.slow
def test_a_hunt_killed_twenty_times_ends_with_the_bits_of_an_undisturbed_one(tmp_path):
    killed = endure(tmp_path, PREY, 20, random.Random(os.getpid()))
    assert_same_end(killed, undisturbed(tmp_path, PREY))
