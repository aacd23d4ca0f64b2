import types

import pytest

from lsf_jax.cluster.connect import Node
from lsf_jax.runs.sweeps import cluster as clusters
from lsf_jax.runs.sweeps.cluster import (
    Cluster,
    Probed,
    check_probed,
    devices_of,
    environment,
    find_nodes,
    needs_of,
    probe,
    probe_nodes,
    threads_of,
)
from lsf_jax.runs.sweeps.machines import describe
from lsf_jax.settings import ConfigError
from tests.runs.sweeps.stand_in_ray import DiedError, Method, Ray

CPUS = Node("node-1", "10.0.0.1", {"CPU": 4.0})
GPUS = Node("node-2", "10.0.0.2", {"CPU": 64.0, "GPU": 8.0})
HERE = describe("cpu", 1)


def test_a_block_needs_a_device_where_there_are_any_and_else_a_cpu():
    assert needs_of(Cluster("auto"), [CPUS]) == {"CPU": 1.0}
    assert needs_of(Cluster("auto"), [CPUS, GPUS]) == {"CPU": 1.0, "GPU": 1.0}
    assert needs_of(Cluster("auto", per_block={"CPU": 3.0}), [GPUS]) == {"CPU": 3.0}
    assert (devices_of({"GPU": 2.0}), devices_of({"CPU": 8.0})) == (2, 1)
    assert (threads_of({"CPU": 3.0}), threads_of({"CPU": 3.0, "GPU": 1.0})) == (3, 0)


def test_workers_on_cpus_have_the_threads_of_their_block_and_settings_of_the_driver(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_x")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("SECRET", "1")
    found = environment({"CPU": 2.0})
    assert (found["NPROC"], found["JAX_PLATFORMS"], found["XLA_FLAGS"]) == ("2", "cpu", "--xla_x")
    assert "SECRET" not in found
    assert "JAX_PLATFORMS" not in environment({"GPU": 1.0})


def test_what_no_node_has_is_refused_with_what_there_is(monkeypatch):
    monkeypatch.setattr(clusters, "PATIENCE", 0.0)
    ray = Ray({"node-1": {"CPU": 4.0}, "node-2": {"CPU": 2.0, "GPU": 1.0}})
    with pytest.raises(
        ConfigError, match=r"needs CPU 3, GPU 1 and no node .* 10\.0\.0\.0: CPU 4; 10\.0\.0\.1: CPU 2, GPU 1"
    ):
        find_nodes(ray, Cluster("auto", per_block={"CPU": 3.0, "GPU": 1.0}), lambda _: None)


def test_nodes_may_join_while_one_waits(monkeypatch):
    ray, said = Ray({"node-1": {"CPU": 0.0}}), []
    monkeypatch.setattr(clusters.time, "sleep", lambda _: ray.named.update({"node-2": {"CPU": 2.0}}))
    assert [node.id for node in find_nodes(ray, Cluster("auto"), said.append)] == ["node-2"]
    assert said == ["waiting up to 30 s for a node with CPU 1"]


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_node_that_cannot_be_asked_is_left_out_if_it_is_lost_and_else_named(is_lost):
    class Asked(Ray):
        util = types.SimpleNamespace(
            scheduling_strategies=types.SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        )

        def remote(self, function):
            def options(scheduling_strategy, **_):
                answer = {"node-1": Probed(HERE, "", True), "node-2": DiedError("not schedulable")}[scheduling_strategy]
                return Method(lambda *_: answer)

            return types.SimpleNamespace(options=options)

    ray = Asked({"node-1": {"CPU": 1.0}} | ({} if is_lost else {"node-2": {"CPU": 1.0}}))
    if is_lost:
        assert set(probe_nodes(ray, [CPUS, GPUS], {"CPU": 1.0}, None)) == {"node-1"}
    else:
        with pytest.raises(ConfigError, match=r"node 10\.0\.0\.2 cannot be used: not schedulable"):
            probe_nodes(ray, [CPUS, GPUS], {"CPU": 1.0}, None)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Probed(HERE, "plug-in mine: cannot be imported", True), "node 10.0.0.2: plug-in mine"),
        (Probed(HERE, "", False), "does not see the folder of the runs"),
        (Probed(HERE._replace(jaxlib="0.0.1"), "", True), "is not like the driver: jaxlib 0.0.1 there"),
        (Probed(HERE._replace(cpu="arm64"), "", True), "would give other last bits than the rest: cpu arm64 there"),
        (Probed(HERE._replace(flags="--xla_x"), "", True), "would give other last bits than the rest: flags --xla_x"),
    ],
)
def test_an_unlike_node_is_refused_in_one_line(answer, text):
    nodes, answers = [CPUS, GPUS], {"node-1": Probed(HERE, "", True), "node-2": answer}
    with pytest.raises(ConfigError, match=text):
        check_probed(nodes, answers, Cluster("auto"), None)


def test_a_mixture_of_devices_is_taken_if_asked_for_but_never_one_of_versions():
    answers = {"node-1": Probed(HERE, "", True), "node-2": Probed(HERE._replace(cpu="arm64"), "", True)}
    check_probed([CPUS, GPUS], answers, Cluster("auto", mixed=True), None)
    answers["node-2"] = Probed(HERE._replace(lsf_jax="0.0.1"), "", True)
    with pytest.raises(ConfigError, match=r"lsf_jax 0\.0\.1 there"):
        check_probed([CPUS, GPUS], answers, Cluster("auto", mixed=True), None)


def test_a_run_goes_on_with_the_machines_that_it_has_on_record():
    answers = {"node-1": Probed(HERE, "", True)}
    check_probed([CPUS], answers, Cluster("auto"), HERE)
    with pytest.raises(ConfigError, match="threads 1 there, 4 here"):
        check_probed([CPUS], answers, Cluster("auto"), HERE._replace(threads=4))


def test_a_probe_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = probe(str(tmp_path), ["no_such_module"], "cpu", 1, str(tmp_path / "token"))
    assert found.machine.device == "cpu"
    assert "no_such_module" in found.plugin_problem
    assert not found.sees_folder
