"""The benchmarks run, write JSON and name no place on the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsf_jax.config.files import config_folder

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "algorithms": ("one update",),
    "update": ("updates", "dearest products of the last"),
    "env": ("predator_prey", "against NumPy", "matrix_game"),
    "train": ("fused chunk", "pieces, compiled apart", "whole run, `lsf_jax.train`"),
    "smac_pool": ("pool against games alone", "LSF-SAC against games alone"),
    "remote_games": ("nodes against games alone",),
    "memory": ("one seed, by component", "planner against the compiled chunk", "the same small chunk, 20 times"),
}


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(config_folder().parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_benchmark_runs_quickly_and_writes_json_without_paths(name, tmp_path):
    file = tmp_path / "result.json"
    done = run(name, "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    assert tuple(content["tables"]) == TABLES[name]
    assert all(rows for rows in content["tables"].values())
    assert content["quick"] is True
    assert all(title in done.stdout for title in TABLES[name])
    assert str(tmp_path) not in file.read_text()
    assert str(Path.home()) not in file.read_text()


@pytest.mark.slow
def test_a_map_of_one_line_joins_the_lines_that_are_there(tmp_path):
    old = {"mixer 4 wide": [{"actor": 0.25, "critic": 0.5, "error": 1.0, "seeds": 2}] * 2, "forgotten": []}
    (tmp_path / "optimum_map.json").write_text(json.dumps(old))
    words = ["--line", "mixer 1 wide", "--seeds", "2", "--env-steps", "400", "--folder", str(tmp_path)]
    done = run("optimum_map", *words)
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "optimum_map.json").read_text())
    assert list(table) == ["mixer 1 wide", "mixer 4 wide"]
    assert table["mixer 4 wide"] == old["mixer 4 wide"]
    assert all(point["seeds"] == 2 and 0 <= point["actor"] <= 1 for point in table["mixer 1 wide"])
    assert "| mixer 4 wide | 25 / 50 | 25 / 50 |" in (tmp_path / "optimum_map.md").read_text()
    assert (tmp_path / "optimum_map.png").stat().st_size > 1000


def test_an_unknown_line_of_the_map_is_one_line_and_exit_code_2(tmp_path):
    done = run("optimum_map", "--line", "mixer 3 wide", "--folder", str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "mixer 3 wide" in done.stderr
    assert "mixer 4 wide" in done.stderr


def test_a_misspelt_setting_of_a_benchmark_is_one_line_and_exit_code_2():
    done = run("env", "env.grid_sise=3")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "env.grid_size" in done.stderr
