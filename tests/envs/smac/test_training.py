"""Training on SMAC's bridge, games scripted: under faults, stopped and resumed, and without the game."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import pytest

import lsf_jax
from lsf_jax.analysis.frames import load_run
from lsf_jax.config.composition import compose, make_env
from lsf_jax.envs.host import HostError
from tests.support.smac_cases import BASE, SCRIPTED, SMALL, WORKERS, identity_of, leftovers, marked_processes

GAMES = (f"env.factory={SCRIPTED}:ScriptedEnv", "env.stagger=0", "env.backoff=0.02", "env.deadline=20")


def scripted(monkeypatch, tmp_path, **script):
    """What the workers of this test find in their environment."""
    text = json.dumps({"base": BASE, "workers": 2 * WORKERS, "token": str(tmp_path), **script})
    monkeypatch.setenv("SCRIPTED_SMAC", text)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def words(tmp_path, *more):
    return [*SMALL, *GAMES, f"train.run_dir={tmp_path}", "train.name=run", *more]


@pytest.mark.parametrize("algo", [pytest.param("lsf_sac", marks=pytest.mark.slow), "qmix"])
def test_training_under_faults_takes_every_episode_whole_and_once(monkeypatch, tmp_path, taken, algo):
    kinds = ["crash", "raise", "exit", "stale"]
    scripted(monkeypatch, tmp_path, rate=0.25, kinds=kinds, length=[3, 6], seconds=[0.0, 0.002])
    own = ("algo.encoder_hidden=8", "algo.decoder_hidden=8") if algo == "lsf_sac" else ()
    result = lsf_jax.train(compose(algo=algo, env="smac/3m", overrides=words(tmp_path, *own, "train.env_steps=250")))
    assert result.finished
    assert leftovers(tmp_path) == ([], [])
    assert result.final["return"].shape == (2,)
    names = []
    for batch in taken:
        for seed in range(2):
            for place in range(WORKERS):
                episode = jax.tree.map(lambda leaf: leaf[seed, place], batch)  # noqa: B023
                names.append(identity_of(episode))
                assert names[-1][0] // WORKERS == seed
    assert len(set(names)) == len(names) == len(taken) * 2 * WORKERS
    assert len({generation for _, generation, _ in names}) > 2, "no fault has happened"
    card = json.loads((result.path / "card.json").read_text())
    assert card["host"]["counters"]["lost_episodes"] > 0
    assert sum(card["host"]["seconds"].values()) > 0
    run = load_run(result.path)
    learned = run.train["updates"] > 0
    assert np.isfinite(run.train["td"][learned]).all()
    assert {"battle_won", "dead_allies", "dead_enemies"} <= set(run.evaluation)


def test_games_that_never_start_end_the_run_with_the_cause(monkeypatch, tmp_path):
    faults = [{"what": "raise", "step": -2}]
    scripted(monkeypatch, tmp_path, faults=faults)
    config = compose(algo="qmix", env="smac/3m", overrides=words(tmp_path, "env.max_restarts=1", "train.env_steps=50"))
    with pytest.raises(HostError, match="ScriptedError"):
        lsf_jax.train(config)
    assert leftovers(tmp_path) == ([], [])


def test_without_the_game_nothing_is_made_and_one_line_says_what_is_missing(tmp_path):
    words = [f"env.sc2_path={tmp_path / 'none'}", f"train.run_dir={tmp_path}", "train.name=run", "train.seeds=1"]
    with pytest.raises(HostError, match=r"no folder .*none \(env\.sc2_path\)") as raised:
        lsf_jax.train(compose(algo="qmix", env="smac/3m", overrides=words))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_game_that_cannot_be_imported_is_refused_before_anything_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    overrides = words(tmp_path, "env.factory=no_such_module:Env")
    with pytest.raises(HostError, match=r"^env\.factory is no_such_module:Env: cannot import .*ModuleNotFoundError"):
        lsf_jax.train(compose(algo="qmix", env="smac/3m", overrides=overrides))
    assert not (tmp_path / "run").exists()
    assert leftovers(tmp_path) == ([], [])


def test_the_environment_has_sizes_and_refuses_to_be_a_function():
    env = make_env(compose(env="smac/27m_vs_30m"))
    assert tuple(env.spec) == (27, 36, 285, 1170, 180)
    assert env.ends_early
    with pytest.raises(HostError, match="not functions"):
        env.reset(jax.random.key(0))


@pytest.mark.slow
def test_ctrl_c_saves_ends_every_game_and_resume_goes_on(monkeypatch, tmp_path):
    scripted(monkeypatch, tmp_path, length=[3, 6], seconds=[0.0, 0.005])
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "lsf_jax.cli"]
    train = [*command, "train", "--algo", "qmix", "--env", "smac/3m", *words(tmp_path, "train.env_steps=100000")]
    process = subprocess.Popen(train, env=environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout or ():
        if "updates" in line and "updates 0" not in line and line.startswith("env steps"):
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert marked_processes(str(tmp_path)) == []
    before = load_run(tmp_path / "run").train["env_steps"].max()
    more = [*command, "resume", str(tmp_path / "run"), f"train.env_steps={before + 200}", GAMES[0]]
    done = subprocess.run(more, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "run").train["env_steps"].max() >= before + 200
    assert leftovers(tmp_path) == ([], [])
