"""What is looked at before games on other machines start: that there is a cluster, slots, the games, the same ones."""

import importlib.util
import pickle
import sys
import threading
from functools import partial
from types import SimpleNamespace

import psutil
import pytest

from lsf_jax.cli import app
from lsf_jax.envs.host import HostError
from lsf_jax.envs.hosts import opening, places
from lsf_jax.envs.hosts.node import Report, code_version
from lsf_jax.envs.hosts.opening import check_nodes, check_room
from lsf_jax.envs.hosts.ray_cluster import GAMES, RayDoor, RayNodes, check_hosts
from lsf_jax.envs.smac.config import SmacConfig
from lsf_jax.envs.smac.hosted import host_smac
from lsf_jax.settings import ConfigError
from tests.support.fake_nodes import FakeNodes
from tests.support.smac_cases import QUICK, SCRIPTED


def looked_at(reports=None, slots=(("a", 1), ("b", 1)), **settings):
    """Has fake nodes looked at; with reports they say that instead of looking."""
    nodes = FakeNodes(partial(host_smac, SmacConfig(**(QUICK | settings))), slots)
    if reports is not None:
        nodes.reports = reports
    check_nodes(nodes.connect, "auto")
    assert all(door.is_gone for _, door in nodes.doors)


def report(**versions):
    return Report({"lsf-jax": code_version(), **versions}, "")


def test_nodes_that_have_the_game_pass():
    looked_at()


def test_games_that_are_missing_on_a_node_are_named_in_one_line():
    missing = Report({}, "real SMAC cannot be started. StarCraft II: no folder")
    expected = r"^env.hosts=auto: node b: real SMAC cannot be started. StarCraft II: no folder$"
    with pytest.raises(HostError, match=expected):
        looked_at({"a": report(), "b": missing})


def test_a_file_that_a_node_does_not_have_is_named():
    with pytest.raises(
        HostError, match=r"^env.hosts=auto: node a: env.factory is nowhere/game.py:Env; there is no file"
    ):
        looked_at(slots=[("a", 1)], factory="nowhere/game.py:Env")


def test_code_that_a_node_cannot_import_is_named(monkeypatch):
    module = type(sys)("my_plugin_of_here")
    module.describe = lambda: None
    module.describe.__module__, module.describe.__qualname__ = "my_plugin_of_here", "describe"
    monkeypatch.setitem(sys.modules, "my_plugin_of_here", module)
    nodes = FakeNodes(module.describe, [("a", 1)])
    monkeypatch.delitem(sys.modules, "my_plugin_of_here")
    with pytest.raises(HostError, match=r"node a: cannot be imported: ModuleNotFoundError: .*my_plugin_of_here"):
        check_nodes(nodes.connect, "auto")


def test_versions_that_differ_between_nodes_are_refused_in_one_line_with_who_has_which():
    reports = {"a": report(smac="1.0", pysc2="3.0"), "b": report(smac="1.1", pysc2="3.0"), "c": report(smac="1.1")}
    expected = (
        r"^env.hosts=auto: the games would differ: smac is 1.0 \(node a\), 1.1 \(node b, node c\); "
        r"pysc2 is 3.0 \(node a, node b\), missing \(node c\); make it the same everywhere$"
    )
    with pytest.raises(HostError, match=expected):
        looked_at(reports, slots=[("a", 1), ("b", 1), ("c", 1)])


def test_another_version_of_ours_on_a_node_is_refused():
    other = Report({"lsf-jax": "9.9 of abc123"}, "")
    with pytest.raises(HostError, match=r"lsf-jax is 9.9 of abc123 \(node a\), .* \(here\)"):
        looked_at({"a": other}, slots=[("a", 1)])


def test_without_any_slot_one_line_says_how_to_offer_some(monkeypatch):
    monkeypatch.setattr(places, "JOIN", 0.1)
    with pytest.raises(HostError, match=r"^env.hosts=auto: no node offers slots for games; offer some$"):
        looked_at(slots=[])


def test_too_few_slots_are_refused_before_anything_is_opened(monkeypatch):
    monkeypatch.setattr(places, "JOIN", 0.1)
    nodes = FakeNodes(partial(host_smac, SmacConfig(**QUICK)), [("a", 1), ("b", 2)])
    check_room(nodes.connect, "auto", 3)
    with pytest.raises(HostError, match=r"^env.hosts=auto: expected slots for 4 games, but 3 slots free on 2 nodes; "):
        check_room(nodes.connect, "auto", 4)
    assert nodes.doors == []


def test_nodes_that_are_joining_are_waited_for():
    nodes = FakeNodes(partial(host_smac, SmacConfig(**QUICK)), [("a", 1)])
    joining = threading.Timer(0.5, nodes.slots.update, [{"b": 1}])
    joining.start()
    check_room(nodes.connect, "auto", 2)
    joining.join()


def test_a_node_that_does_not_say_what_it_has_is_named(monkeypatch):
    monkeypatch.setattr(opening, "PATIENCE", 0.3)
    with pytest.raises(HostError, match=r"^env.hosts=auto: node a: no answer within 0.3 s$"):
        looked_at({"a": None}, slots=[("a", 1)])


@pytest.mark.parametrize("hosts", ["local", "local:2", "somewhere", "ray://head:10001", "head:port"])
def test_what_names_no_cluster_is_refused(hosts):
    with pytest.raises(ConfigError, match=r"^expected auto or HOST:PORT"):
        check_hosts(hosts)


@pytest.mark.parametrize(
    ("hosts", "said"),
    [("somewhere", "expected auto or HOST:PORT"), ("127.0.0.1:1", "Connection refused"), ("auto", "any running Ray")],
)
def test_bad_addresses_end_a_command_with_one_line_and_exit_code_2(hosts, said, tmp_path, capsys, monkeypatch):
    pytest.importorskip("ray")
    if hosts == "auto" and any(each.info["name"] == "gcs_server" for each in psutil.process_iter(["name"])):
        pytest.skip("this machine belongs to a cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ["train", "--algo", "qmix", "--env", "smac/3m", f"env.factory={SCRIPTED}:ScriptedEnv"]
    assert app.main([*words, f"env.hosts={hosts}", "train.seeds=1", f"train.run_dir={tmp_path / 'runs'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"lsf-jax: env.hosts={hosts}: ")
    assert said in line
    assert not (tmp_path / "runs").exists()


class RayOfTests:
    """What `RayNodes` asks a connected Ray for: two nodes with 4 slots each, of which 5 are free in all."""

    def __init__(self, told):
        self.cloudpickle = pickle
        self._private = SimpleNamespace(state=SimpleNamespace(available_resources_per_node=told))

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "head")

    def nodes(self):
        of = {"head": {}, "aaaaaaa": {GAMES: 4.0}, "bbbbbbb": {GAMES: 4.0}}
        return [{"NodeID": n, "NodeManagerAddress": n[0], "Resources": r, "Alive": True} for n, r in of.items()]

    def available_resources(self):
        return {GAMES: 5.0}


def no_longer():
    raise AttributeError("by design")


@pytest.mark.parametrize(
    ("told", "free"),
    [(lambda: {"aaaaaaa": {GAMES: 1.0}, "bbbbbbb": {"CPU": 1.0}}, [1, 0]), (no_longer, [1, 4]), (dict, [1, 4])],
    ids=["told", "unknown name", "unknown form"],
)
def test_free_slots_are_those_that_ray_tells_or_may_be_free(told, free):
    nodes = RayNodes(RayOfTests(told), partial(host_smac, SmacConfig(**QUICK)))
    nodes._doors = [RayDoor(nodes._ray, None, "aaaaaaa", 3)]
    assert [(offer.node, offer.slots) for offer in nodes.offers()] == list(zip(["aaaaaaa", "bbbbbbb"], free))


def test_without_ray_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    words = ["train", "--algo", "qmix", "--env", "smac/3m", "env.hosts=auto", f"train.run_dir={tmp_path / 'runs'}"]
    assert app.main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lsf-jax: env.hosts=auto: ")
    assert "pip install 'lsf-jax[cluster]'" in line
