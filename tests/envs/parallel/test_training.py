"""Training on games of others: tiny ones with faults, stopped and resumed by command, and those of real packages."""

import json
import tempfile

import jax
import numpy as np
import pytest

import lsf_jax
from lsf_jax.analysis.frames import load_run
from lsf_jax.cli import app
from lsf_jax.config.composition import compose
from lsf_jax.envs import ENVS
from lsf_jax.envs.workers.process import PREFIX
from tests.support.parallel_cases import FILE, ZOO, has_packages

pytestmark = pytest.mark.slow
SMALL = (
    *("algo.hidden=8", "algo.mixer_embed=4", "algo.hyper_hidden=8", "algo.batch_size=8", "algo.recurrent=false"),
    *("algo.updates=1", "train.seeds=2", "train.n_envs=4", "train.buffer_capacity=64", "train.lengths=1"),
    *("train.evaluate_every=2000", "train.eval_episodes=5", "env.stagger=0", "env.backoff=0.02"),
)
needs_mpe2 = pytest.mark.skipif(not has_packages("pettingzoo", "mpe2"), reason="pip install pettingzoo mpe2")
needs_foraging = pytest.mark.skipif(not has_packages("gymnasium", "lbforaging"), reason="pip install lbforaging")


def words(tmp_path, *more):
    return [*SMALL, f"train.run_dir={tmp_path}", "train.name=run", *more]


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def check_episode(episode):
    """That a delivered episode of `Zoo` is whole; returns its number."""
    length = int(episode.valid.sum())
    obs = np.asarray(episode.world.obs, np.float32)[: length + 1]
    assert obs[:, 1, :3].tolist() == [[obs[0, 1, 0], step, 1] for step in range(length + 1)]
    assert episode.reward[:length].tolist() == [111, 111, 110, 110][:length]
    assert episode.terminal.tolist() == [length == 3 and step == 2 for step in range(4)]
    assert episode.info["time"][:length].tolist() == [0] * (length - 1) + [length]
    return int(obs[0, 1, 0])


def test_training_under_faults_takes_every_episode_whole_and_once(tmp_path, taken):
    faults = json.dumps({"step": {"what": "raise", "step": 2, "episode": 2}, "until_seed": 10**6})
    more = [f"env.make={ZOO}", f"env.arguments={{faults: {faults}}}", "env.info=[time]", "env.team_reward=sum"]
    result = lsf_jax.train(
        compose(algo="qmix", env="parallel", overrides=words(tmp_path, *more, "train.env_steps=300"))
    )
    assert result.finished
    assert result.final["return"].shape == (2,)
    numbers = [
        check_episode(jax.tree.map(lambda leaf: leaf[seed, place], batch))  # noqa: B023
        for batch in taken
        for seed in range(2)
        for place in range(4)
    ]
    assert set(numbers) == {0, 1}  # every game fails in its third episode
    card = json.loads((result.path / "card.json").read_text())
    assert card["host"]["counters"]["lost_episodes"] == card["host"]["counters"]["crashes"] > 8


def test_a_run_is_resumed_and_evaluated_by_command_once_its_code_is_named_again(tmp_path, capsys):
    code = [f"env.make={ZOO}", f"env.state={FILE}:counted"]
    train = ["train", "--algo", "qmix", "--env", "parallel", *words(tmp_path, *code, "train.env_steps=100")]
    assert app.main(train) == 0
    run = str(tmp_path / "run")
    before = load_run(run).train["env_steps"].max()
    capsys.readouterr()
    assert app.main(["resume", run, "train.env_steps=300"]) == 2
    assert f"name it again: env.make={ZOO} env.state={FILE}:counted" in capsys.readouterr().err
    assert app.main(["resume", run, "train.env_steps=300", "env.deadline=9", *code]) == 0
    assert load_run(run).train["env_steps"].max() >= 300 > before
    assert app.main(["evaluate", run, "--episodes", "3", *code]) == 0
    assert "3 greedy episodes for each of 2 rows" in capsys.readouterr().out


def test_an_environment_made_in_python_trains_and_its_run_needs_no_other_word(tmp_path, monkeypatch):
    entry = lsf_jax.from_parallel_env(ZOO, name="zoo", arguments={"max_cycles": 3}, max_return=333.0)
    monkeypatch.setitem(ENVS, "zoo", entry)
    config = compose(algo="qmix", env="zoo", overrides=words(tmp_path, "train.env_steps=60", "env.team_reward=sum"))
    result = lsf_jax.train(config)
    policies = lsf_jax.load_policies(result.path)
    assert lsf_jax.evaluate_policies(policies, 2)["return"].tolist() == [332.0, 332.0]


@needs_mpe2
def test_a_game_of_pettingzoo_trains(tmp_path):
    more = ["env.make=mpe2.simple_spread_v3:parallel_env", "env.arguments={N: 2, max_cycles: 10}", "env.state=game"]
    result = lsf_jax.train(
        compose(algo="qmix", env="parallel", overrides=words(tmp_path, *more, "train.env_steps=400"))
    )
    assert (result.final["return"] < 0).all()
    assert (result.final["length"] == 10).all()
    assert "mpe2" in json.loads((result.path / "card.json").read_text())["setup"]["environment"]


@needs_foraging
def test_a_game_of_gymnasium_trains(tmp_path):
    more = ["env.make=gymnasium:make", "env.arguments={id: 'lbforaging:Foraging-5x5-2p-1f-v3'}", "env.team_reward=sum"]
    more += ["env.limit_truncates=true", "env.max_return=1"]
    result = lsf_jax.train(
        compose(algo="lsf_sac", env="parallel", overrides=words(tmp_path, *more, "train.env_steps=400"))
    )
    assert ((result.final["return"] >= 0) & (result.final["return"] <= 1)).all()
    assert (result.final["length"] <= 50).all()
