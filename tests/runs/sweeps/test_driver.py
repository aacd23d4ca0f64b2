"""Driver and workers in one process, without Ray: what they say to each other, and what is on disk in the end."""

import types

import pytest

from lsf_jax.cluster import connect
from lsf_jax.config.composition import compose
from lsf_jax.runs import experiment
from lsf_jax.runs.safe_files import RunFolderError
from lsf_jax.runs.sweeps import courier, driver, worker
from lsf_jax.runs.sweeps.cluster import Cluster
from lsf_jax.settings import ConfigError
from tests.runs.sweeps.bits import assert_same_bits
from tests.runs.sweeps.stand_in_ray import DiedError, Ray
from tests.support.run_cases import tiny


class Remote:
    """`ray.remote(x)`: a function is called, a class made, at once and here."""

    def __init__(self, thing, ray):
        self.thing, self.ray = thing, ray

    def options(self, **_):
        return self

    def remote(self, *arguments):
        if isinstance(self.thing, type):
            self.ray.made.append(self.thing(*arguments))
            return Handle(self.ray.made[-1], self.ray)
        return self.thing(*arguments)


class Handle:
    """An actor: its methods run when they are called, and one that is a generator when it is read."""

    def __init__(self, actor, ray):
        self.actor, self.ray = actor, ray

    def __getattr__(self, name):
        method = getattr(self.actor, name)
        if name == "plan" and self.ray.lost_planners:
            return Remote(lambda *_: self.ray.lost_planners.pop(), self.ray)
        return Remote(self.ray.failing(method) if name == "run" else method, self.ray)


class Here(Ray):
    """A cluster of two CPUs that is this process; `deaths` says after how many messages which runs of blocks die."""

    def __init__(self):
        super().__init__({"node-1": {"CPU": 2.0}})
        self.made, self.deaths, self.lost_planners = [], [], []
        affinity = types.SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *_, **__: None)
        self.util = types.SimpleNamespace(scheduling_strategies=affinity)

    def remote(self, thing):
        return Remote(thing, self)

    def put(self, value):
        return value

    def get_runtime_context(self):
        return types.SimpleNamespace(get_node_id=lambda: "node-1")

    def failing(self, run):
        def messages(job):
            left = self.deaths.pop(0) if self.deaths else None
            for number, message in enumerate(run(job)):
                yield DiedError() if number == left else message
                if number == left:
                    return

        return messages


@pytest.fixture
def here(monkeypatch, tmp_path):
    ray = Here()
    monkeypatch.setattr(driver, "connected", lambda where: _Open(ray))
    for module in (connect, worker, courier):
        monkeypatch.setattr(module, "import_ray", lambda: ray)
    monkeypatch.chdir(tmp_path)
    return ray


class _Open:
    def __init__(self, ray):
        self.ray = ray

    def __enter__(self):
        return self.ray

    def __exit__(self, *error):
        pass


def config_of(folder, name, *words):
    words = [
        *tiny("vdn", "matrix_game"),
        "train.seeds=5",
        "train.block=2",
        "train.n_envs=2",
        "algo.batch_size=4",
        *words,
    ]
    words += ["train.env_steps=40", "train.evaluate_every=20", "train.eval_episodes=1", "train.devices=1"]
    return compose(algo="vdn", env="matrix_game", overrides=[*words, f"train.run_dir={folder}", f"train.name={name}"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return experiment.train(config_of(tmp_path_factory.mktemp("alone"), "alone"))


@pytest.mark.default("shared")
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_blocks_of_two_workers_are_those_of_one_process(shared, here, alone, tmp_path):
    seen = []
    result = experiment.train(
        config_of(tmp_path, "run"), cluster=Cluster("auto", shared_folder=shared), on_evaluation=seen.append
    )
    assert result.finished
    assert_same_bits(alone.path, result.path)
    assert result.final["return"].tolist() == alone.final["return"].tolist()
    assert {evaluation.path for evaluation in seen} == {result.path}
    assert sum(evaluation.final for evaluation in seen) == 3
    assert len(here.made) == 2  # they are kept
    left = {path.name for path in result.path.iterdir()}
    assert left == {".lock", "card.json", "card.md", "config.yaml", "checkpoints", "metrics", "policies"}


@pytest.mark.default("apart")
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_a_block_whose_worker_dies_ends_with_the_same_bits(shared, here, alone, tmp_path):
    here.deaths = [3, 0]
    result = experiment.train(config_of(tmp_path, "run"), cluster=Cluster("auto", shared_folder=shared))
    assert result.finished
    assert_same_bits(alone.path, result.path)
    assert len(here.made) == 4


@pytest.mark.parametrize("times", [2, 3])
def test_a_worker_that_is_lost_while_it_plans_is_replaced_and_not_for_ever(times, here, tmp_path):
    here.lost_planners = [DiedError("gone")] * times
    if times == 3:
        with pytest.raises(ConfigError, match="the worker that plans the run was lost 3 times: gone"):
            experiment.train(config_of(tmp_path, "run"), cluster="auto")
        assert not (tmp_path / "run").exists()
    else:
        assert experiment.train(config_of(tmp_path, "run", "train.seeds=2"), cluster="auto").finished


@pytest.mark.slow
def test_what_one_block_cannot_do_is_told_after_the_others_are_finished(here, tmp_path):
    here.deaths = [0] * 9
    with pytest.raises(ConfigError, match=r"3 blocks, the first of them \d, failed again and again: its worker died"):
        experiment.train(config_of(tmp_path, "run"), cluster="auto")
    here.deaths = []
    assert experiment.train(config_of(tmp_path, "run"), cluster="auto").finished  # the same command goes on


def test_a_run_of_another_configuration_is_left_alone(here, alone):
    with pytest.raises(RunFolderError, match="holds a run with another"):
        experiment.train(config_of(alone.path.parent, "alone", "train.n_envs=4"), cluster="auto")


def test_a_callback_that_raises_ends_the_run(here, tmp_path):
    def refuse(evaluation):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        experiment.train(config_of(tmp_path, "run"), cluster="auto", on_evaluation=refuse)


def test_without_a_name_the_same_configuration_has_the_same_folder(tmp_path):
    names = [experiment._name_of(config_of(tmp_path, name, *more)) for name, more in (("a", ()), ("b", ()))]
    assert names[0] == names[1]
    assert experiment._name_of(config_of(tmp_path, "a", "train.seed=1")) != names[0]
