"""The worker's script: it needs no package, runs under other versions of Python and looks at nothing of ours."""

import ast
import glob
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsf_jax.envs.host import HostError
from lsf_jax.envs.parallel import game as parallel_game
from lsf_jax.envs.smac import game, maps
from lsf_jax.envs.smac.config import SmacConfig, worker_variables
from lsf_jax.envs.workers import process
from lsf_jax.envs.workers.process import WORKER
from tests.support.smac_cases import Player, scripted_pool

OLDEST = (3, 8)


def other_interpreters():
    """One of every other version of Python on this machine that is new enough, by version."""
    root = os.environ.get("PYENV_ROOT", "")
    found = {}
    for path in sorted([*glob.glob(f"{root}/versions/*/bin/python"), *glob.glob("/usr/bin/python3.*[0-9]")]):
        done = subprocess.run([path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
        if done.returncode == 0:
            found.setdefault(tuple(map(int, done.stdout.split())), path)
    return {version: path for version, path in found.items() if version >= OLDEST and version != sys.version_info[:2]}


@pytest.mark.parametrize(
    ("file", "packages"),
    [(WORKER, set()), (maps.__file__, set()), (game.__file__, set()), (parallel_game.__file__, {"numpy"})],
)
def test_files_that_other_interpreters_read_import_the_standard_library_only(file, packages):
    tree = ast.parse(Path(file).read_text(encoding="utf-8"), feature_version=OLDEST)
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names) | packages


def test_workers_run_under_other_interpreters(monkeypatch, tmp_path):
    interpreters = other_interpreters()
    if not interpreters:
        pytest.skip("no other Python of 3.8 or newer on this machine")
    for version in {min(interpreters), max(interpreters)}:
        settings = {"python": interpreters[version], "map_name": "5m_vs_6m", "relaunch_loops": 200}
        with scripted_pool(monkeypatch, tmp_path, 2, settings, rate=0.2, kinds=["crash", "exit", "raise"]) as pool:
            pool.start()
            player = Player(pool)
            player.play(20)
            assert pool.counters["crashes"] + pool.counters["planned_relaunches"] > 0


def test_another_interpreter_does_not_inherit_the_paths_of_this_one(monkeypatch, tmp_path):
    for name in ("PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "ours")
    assert process.worker_environment(tmp_path, "", {})["PYTHONPATH"] == "ours"
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(process.worker_environment(tmp_path, "another", {}))


def test_the_environment_finds_the_game_a_folder_and_parsing_that_every_protobuf_can_do(monkeypatch, tmp_path):
    monkeypatch.setenv("SC2PATH", "from outside")
    variables = process.worker_environment(tmp_path, "", worker_variables(SmacConfig()))
    assert variables["SC2PATH"] == "from outside"
    assert variables["TMPDIR"] == str(tmp_path)
    assert variables["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] == "python"
    assert worker_variables(SmacConfig(sc2_path="here"))["SC2PATH"] == "here"


def test_memory_without_room_goes_to_disk_and_without_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "MEMORY_FOLDER", str(tmp_path / "full"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with process.shared_memory(100) as file:
        assert os.fstat(file.fileno()).st_size == 100
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    with pytest.raises(OSError, match="no room for 100 bytes"):
        process.shared_memory(100)


def test_an_environment_sees_neither_our_files_nor_our_arguments(monkeypatch, tmp_path):
    (tmp_path / "curious.py").write_text(
        "import os, sys\n"
        "class Env:\n"
        "    def __init__(self, **arguments):\n"
        f"        assert sys.argv == [{str(WORKER)!r}], sys.argv\n"
        "        assert os.environ['TMPDIR'].endswith('worker-0-0')\n"
        "        import jsonpool, pool\n"
    )
    (tmp_path / "jsonpool.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = {"factory": f"{tmp_path}/curious.py:Env", "max_restarts": 0}
    expected = pytest.raises(HostError, match="ModuleNotFoundError: No module named 'pool'")
    with scripted_pool(monkeypatch, tmp_path, 1, settings) as pool, expected:
        pool.start()


def test_a_machine_without_room_is_tried_again_and_then_named(monkeypatch, tmp_path):
    calls = []

    def shared_memory(size):
        calls.append(size)
        if len(calls) in failing:
            raise OSError(11, "Resource temporarily unavailable")
        return given(size)

    given = process.shared_memory
    monkeypatch.setattr(process, "shared_memory", shared_memory)
    failing = {2, 3}
    with scripted_pool(monkeypatch, tmp_path, 2) as pool:
        pool.start()
        assert pool.counters["launch_failures"] == pool.counters["restarts"] == 2
    failing = range(1000)
    expected = pytest.raises(HostError, match=r"failed 2 times in a row, .*no process could be started: .*unavail")
    with scripted_pool(monkeypatch, tmp_path, 1, {"max_restarts": 1}) as pool, expected:
        pool.start()


def test_an_interpreter_that_is_not_there_is_named(monkeypatch, tmp_path):
    expected = pytest.raises(HostError, match=r"cannot run the workers' interpreter 'no-such-python'.*env\.python")
    with scripted_pool(monkeypatch, tmp_path, 1, {"python": "no-such-python"}) as pool, expected:
        pool.start()
