import importlib.util
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lsf_jax.cluster import connect
from lsf_jax.cluster.connect import Address, Node, read_address, resources_text, slots_on
from lsf_jax.settings import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", Address("auto")),
        ("local", Address("local")),
        ("local:3", Address("local", slots=3)),
        ("10.0.0.1:6379", Address("at", at="10.0.0.1:6379")),
        ("head.example:6379", Address("at", at="head.example:6379")),
        ("[::1]:6379", Address("at", at="[::1]:6379")),
    ],
)
def test_an_address_is_read(text, expected):
    assert read_address(text) == expected


@pytest.mark.parametrize("text", ["", "local:0", "local:x", "somewhere", "head:port", "ray://head:10001"])
def test_what_is_no_address_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=r"^cluster is [^\n]+$"):
        read_address(text)


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lsf-jax\[cluster\]'"):
        connect.import_ray()


def test_statistics_are_off_before_ray_is_imported(monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    seen = {}
    monkeypatch.setattr(connect.importlib, "import_module", lambda name: seen.update({name: dict(os.environ)}))
    connect.import_ray()
    assert seen["ray"]["RAY_USAGE_STATS_ENABLED"] == "0"


def test_slots_are_what_the_scarcest_resource_allows():
    node = Node(id="a", ip="10.0.0.1", resources={"CPU": 16.0, "GPU": 2.0, "node:10.0.0.1": 1.0, "memory": 1e9})
    assert slots_on(node, {"CPU": 1, "GPU": 1}) == 2
    assert slots_on(node, {"CPU": 5}) == 3
    assert slots_on(node, {"TPU": 1}) == 0
    assert resources_text(node.resources) == "CPU 16, GPU 2"


def test_an_address_where_nothing_listens_is_refused_in_one_line():
    pytest.importorskip("ray")
    with (
        pytest.raises(ConfigError, match=r"^cluster 127\.0\.0\.1:1 cannot be used: [^\n]+$"),
        connect.connected("127.0.0.1:1"),
    ):
        pass


def test_what_listens_there_and_is_not_ray_is_refused_in_one_line():
    pytest.importorskip("ray")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request).start()
        where = f"127.0.0.1:{server.server_port}"
        with (
            pytest.raises(ConfigError, match=f"^cluster {where} cannot be used: what listens there is not the head"),
            connect.connected(where),
        ):
            pass


def test_folders_of_killed_commands_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(connect.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(connect, "LONGEST_TEMPORARY", 1000)
    (tmp_path / "lsf_jax-ray-999999999").mkdir()
    (tmp_path / "lsf_jax-ray-mine").mkdir()
    with connect._temporary_folder() as folder:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, "lsf_jax-ray-mine"])
    assert [path.name for path in tmp_path.iterdir()] == ["lsf_jax-ray-mine"]


LOCAL = """
import json, sys
import psutil, ray  # imported already, as in a user's own script
from lsf_jax.cluster.connect import connected
with connected("local:1"):
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [each for process in mine for each in process.net_connections("inet")]
    listening = [each.laddr.ip for each in sockets if each.status == "LISTEN"]
    address = ray.get_runtime_context().gcs_address
    print(json.dumps([sorted(set(listening)), len(listening), address, len(mine)]), flush=True)
    sys.stdin.readline()
"""
KNOCK = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print(len(ray.nodes()))"


@pytest.mark.slow
def test_a_cluster_of_this_machine_listens_to_it_alone_and_refuses_whoever_lacks_its_token():
    pytest.importorskip("ray")
    free = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", LOCAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=free
    ) as process:
        ips, n_listening, address, n_processes = json.loads(process.stdout.readline())
        assert set(ips) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert n_listening > 2 < n_processes
        variables = [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}]
        for strange in variables:
            command = [sys.executable, "-c", KNOCK, address]
            here = free | strange | {connect.SEVERAL_MACHINES: "0"}  # else it would not even reach the port
            tried = subprocess.run(command, capture_output=True, text=True, env=here, check=False)
            assert tried.returncode != 0
            assert "token is missing or incorrect" in tried.stderr
        process.stdin.close()
    assert process.returncode == 0
