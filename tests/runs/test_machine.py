"""What a run ran on, described without a name of user or machine."""

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import jax

from lsf_jax.runs import machine
from lsf_jax.runs.machine import describe_machine


def test_software_and_hardware_are_described():
    found = describe_machine()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["jax"] == jax.__version__
    assert found["devices"]["count"] == jax.device_count()
    assert found["cpu"]["memory_bytes"] > 2**28
    assert found["cpu"]["threads"] >= 1
    assert found["date_utc"].endswith("+00:00")


def test_no_name_of_the_user_or_the_machine_is_written(monkeypatch, tmp_path):
    home = tmp_path / "home" / "alice"
    monkeypatch.setenv("HOME", str(home))
    arguments = [
        f"{home}/env/bin/lsf-jax",
        "train",
        f"train.run_dir={home}/runs",
        f"--config={home}",
        "/data/bob/x.yaml",
    ]
    arguments += ["algo.lr=3e-4", "a=[/home/bob/p,/home/bob/q]", "1/2", "relative/path"]
    monkeypatch.setattr(sys, "argv", arguments)
    found = describe_machine()
    assert found["command"] == [
        "lsf-jax",
        "train",
        "train.run_dir=~/.../runs",
        "--config=~",
        ".../x.yaml",
        "algo.lr=3e-4",
        "a=[.../p,.../q]",
        "1/2",
        "relative/path",
    ]
    text = json.dumps(found)
    for secret in ("alice", "bob", platform.node(), str(Path.home())):
        assert secret not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_source_commit_is_recorded_with_its_changes(tmp_path):
    assert machine._git(tmp_path) is None
    git(tmp_path, "init")
    assert machine._git(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    clean = machine._git(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert machine._git(tmp_path) == clean | {"dirty": True}
