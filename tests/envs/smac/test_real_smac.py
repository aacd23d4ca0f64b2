"""The pool with oxwhirl's `smac` and DeepMind's `pysc2` themselves; only Blizzard's program is a stand-in.

Skipped unless `smac` can be imported, here or by the interpreter that the environment variable LSF_JAX_SMAC_PYTHON
names (`python -m pip install git+https://github.com/oxwhirl/smac.git` in an environment of its own).
"""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from lsf_jax.envs.host import FIRST, LOST, STEP, HostError
from lsf_jax.envs.smac.config import SmacConfig, game_arguments, spec_of
from lsf_jax.envs.smac.maps import MAPS
from lsf_jax.envs.smac.pool import COUNTERS, SmacPool
from lsf_jax.envs.smac.requirements import examine
from lsf_jax.envs.workers.process import PREFIX
from tests.support.smac_cases import wait_until


def has_smac():
    try:
        return importlib.util.find_spec("smac.env") is not None
    except ModuleNotFoundError:
        return False


PYTHON = os.environ.get("LSF_JAX_SMAC_PYTHON", "")
GAME = Path(__file__).resolve().parents[2] / "support" / "stand_in_game.py"
FLAGS = (
    "obs_all_health",
    "obs_own_health",
    "obs_last_action",
    "obs_pathing_grid",
    "obs_terrain_height",
    "obs_timestep_number",
    "obs_instead_of_state",
    "state_last_action",
    "state_timestep_number",
)

pytestmark = pytest.mark.skipif(not PYTHON and not has_smac(), reason="oxwhirl's smac is not installed")


@pytest.fixture
def sc2_path(tmp_path, monkeypatch):
    """A tree like StarCraft II's, and a temporary folder that must be empty in the end."""
    program = tmp_path / "game" / "Versions" / "Base75689" / "SC2_x64"
    program.parent.mkdir(parents=True)
    command = shlex.join([PYTHON or sys.executable, str(GAME)])
    program.write_text(f'#!/bin/sh\nexport PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python\nexec {command} "$@"\n')
    program.chmod(0o755)
    for name in MAPS:
        file = tmp_path / "game" / "Maps" / "SMAC_Maps" / f"{name}.SC2Map"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a map")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield tmp_path / "game"
    assert list(scratch.glob(f"{PREFIX}*")) == []


def make_pool(sc2_path, n_workers=1, **settings):
    cfg = SmacConfig(map_name="3m", python=PYTHON, sc2_path=str(sc2_path), stagger=0.0, **settings)
    return SmacPool(cfg, n_workers, seed=7)


def attack(pool, worker=0):
    """Each agent's last available action: attack if it can, else stop."""
    avail = pool.observation.avail[[worker]]
    return avail.shape[-1] - 1 - avail[..., ::-1].argmax(-1)


def play(pool, steps, workers=(0,)):
    """Feeds the workers until that many steps were answered; returns every event."""
    seen = []
    while sum(event.kind == STEP for event in seen) < steps:
        events = pool.receive(len(workers), 60.0)
        assert events
        seen += events
        for event in events:
            if event.kind == FIRST or (event.kind == STEP and not event.done):
                pool.send([event.worker], attack(pool, event.worker))
    return seen


def ask_smac(code, *arguments):
    done = subprocess.run(
        [PYTHON or sys.executable, "-c", code, *arguments],
        env=os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_sizes_of_all_maps_and_flags_are_those_of_the_package():
    arguments = []
    for name in MAPS:
        flags = product([False, True], repeat=len(FLAGS)) if name in ("3s_vs_5z", "MMM2") else [(True,) * len(FLAGS)]
        arguments += [SmacConfig(map_name=name), *(SmacConfig(map_name=name, **dict(zip(FLAGS, row))) for row in flags)]
    code = """
import json, sys
from smac.env import StarCraft2Env
infos = []
for arguments in json.load(open(sys.argv[1])):
    env = StarCraft2Env(seed=1, **arguments)
    info = env.get_env_info()
    infos.append([info[key] for key in ("n_agents", "n_actions", "obs_shape", "state_shape", "episode_limit")])
print(json.dumps(infos))
"""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([game_arguments(cfg) for cfg in arguments], file)
        file.flush()
        assert ask_smac(code, file.name) == [list(spec_of(cfg)) for cfg in arguments]


def test_the_defaults_are_those_of_the_package():
    code = """
import inspect, json
from smac.env import StarCraft2Env
print(json.dumps({name: p.default for name, p in inspect.signature(StarCraft2Env).parameters.items()}))
"""
    defaults = ask_smac(code)
    assert {name: defaults[name] for name in game_arguments(SmacConfig())} == game_arguments(SmacConfig())


def test_everything_that_is_needed_is_found(sc2_path):
    cfg = SmacConfig(python=PYTHON, sc2_path=str(sc2_path))
    findings = examine(cfg, MAPS)
    assert all(finding.good for finding in findings), findings
    assert [finding.name for finding in findings][:2] == ["interpreter", "smac"]
    assert any(finding.name == "game version" and "4.10.0" in finding.text for finding in findings)


def test_two_games_play_to_the_end_and_save_a_replay(sc2_path, tmp_path):
    with make_pool(sc2_path, 2) as pool:
        pool.start()
        events = play(pool, 24, (0, 1))
        wins = [event.info["battle_won"] for event in events if event.done]
        assert wins == [0.0] * len(wins)  # all shoot at the same marine on either side: a draw after ten steps
        assert all(event.terminal for event in events if event.done)
        assert len(wins) >= 2
        assert pool.counters == dict.fromkeys(COUNTERS, 0)
        assert np.isfinite(pool.observation.obs).all()
        assert pool.observation.obs.any(axis=(1, 2)).all()
        replay = pool.save_replay(1, tmp_path / "replays")
        assert replay.name.startswith("3m_")
        assert replay.suffix == ".SC2Replay"
        assert replay.read_text().startswith("seed 8, ")
        assert not (sc2_path / "Replays").exists()


@pytest.mark.parametrize("fault", ["die_at_loop", "end_at_loop"])
def test_a_game_that_goes_down_in_a_step_costs_one_episode(sc2_path, monkeypatch, fault):
    monkeypatch.setenv("STAND_IN", json.dumps({fault: 30, "lives": 1}))
    with make_pool(sc2_path) as pool:
        pool.start()
        events = play(pool, 6)
        assert [event.kind for event in events if event.kind != STEP] == [FIRST, LOST, FIRST]
        assert pool.counters == dict.fromkeys(COUNTERS, 0) | {"crashes": 1, "restarts": 1, "lost_episodes": 1}
        assert "the game was restarted inside step()" in pool.last_fault


def test_a_game_that_goes_down_in_a_reset_is_rebuilt(sc2_path, monkeypatch):
    monkeypatch.setenv("STAND_IN", json.dumps({"die_at_loop": 81, "lives": 1}))  # ten steps, then a reset
    with make_pool(sc2_path) as pool:
        pool.start()
        events = play(pool, 11)
        assert [event.done for event in events if event.kind == STEP] == [False] * 9 + [True, False]
        assert [event.kind for event in events if event.kind != STEP] == [FIRST, FIRST]
        assert pool.counters == dict.fromkeys(COUNTERS, 0) | {"stale_resets": 1, "restarts": 1}


def test_a_game_that_hangs_meets_our_deadline_not_that_of_pysc2(sc2_path, monkeypatch):
    monkeypatch.setenv("STAND_IN", json.dumps({"hang_at_loop": 16, "lives": 1}))
    with make_pool(sc2_path, deadline=2.0) as pool:
        pool.start()
        events = play(pool, 3)
        assert [event.kind for event in events if event.kind != STEP] == [FIRST, LOST, FIRST]
        assert pool.counters["hangs"] == 1
        assert wait_until(lambda: pool.receive(1, 0.1) is not None and not pool._retired)


def test_a_game_is_relaunched_before_its_loops_run_out(sc2_path, monkeypatch):
    monkeypatch.setenv("STAND_IN", json.dumps({"end_at_loop": 100}))
    with make_pool(sc2_path, relaunch_loops=60) as pool:  # an episode has ten steps
        pool.start()
        play(pool, 12)
        assert pool.counters == dict.fromkeys(COUNTERS, 0) | {"planned_relaunches": 1}


def test_other_units_than_the_tables_are_refused(sc2_path, monkeypatch):
    monkeypatch.setenv("STAND_IN", json.dumps({"health": 50}))
    with make_pool(sc2_path) as pool, pytest.raises(HostError, match=r"max_reward is 380 .*expected 365"):
        pool.start()
    with make_pool(sc2_path, max_reward=380.0) as pool:
        pool.start()
