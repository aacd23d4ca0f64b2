"""Shapes and types are what annotations say: whole training steps are traced with each call checked."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = "lsf_sac or coma or ndq"
"""Which between them call nearly everything; CONTRIBUTING has the command that checks all."""
CHECKED = "--jaxtyping-packages=lsf_jax,beartype.beartype"


def test_every_call_of_every_training_step_keeps_its_annotations():
    """In a process of its own: the check is woven in when modules are imported, and slows everything down."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", CHECKED]
    traced = [
        "tests/algorithms/test_contract.py",
        "-k",
        f"test_it_can_be_built_for_predator_prey and ({FAMILIES})",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*command, *traced], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
