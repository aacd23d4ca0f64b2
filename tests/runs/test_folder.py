"""Run folders: never overwritten, used by one process, described without telling on the user."""

import getpass
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lsf_jax.runs import folder
from lsf_jax.runs.folder import RunFolderError


def test_create_makes_parents_and_an_empty_folder(tmp_path):
    path = folder.create(tmp_path / "a" / "b", "first")
    assert path == tmp_path / "a" / "b" / "first"
    assert list(path.iterdir()) == []


def test_an_existing_folder_is_left_as_it_is(tmp_path):
    path = folder.create(tmp_path, "first")
    (path / "config.yaml").write_text("seeds: 1")
    with pytest.raises(RunFolderError, match=r"train\.name 'first': .*exists and is left as it is") as caught:
        folder.create(tmp_path, "first")
    assert "\n" not in str(caught.value)
    assert (path / "config.yaml").read_text() == "seeds: 1"


def test_a_file_of_that_name_is_left_as_it_is(tmp_path):
    (tmp_path / "first").write_text("mine")
    with pytest.raises(RunFolderError, match="exists and is left"):
        folder.create(tmp_path, "first")
    assert (tmp_path / "first").read_text() == "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "a\\b"])
def test_a_name_is_one_path_component(tmp_path, name):
    with pytest.raises(RunFolderError, match=r"train\.name .* is not a folder name"):
        folder.create(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_run_dir_that_is_a_file_or_lies_in_one_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match=r"train\.run_dir '.*file' is a file"):
        folder.create(tmp_path / "file", "first")
    with pytest.raises(RunFolderError, match=r"train\.run_dir '.*file/deeper': cannot make .* \(Not a directory\)"):
        folder.create(tmp_path / "file" / "deeper", "first")


def test_an_unwritable_run_dir_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunFolderError, match=r"train\.run_dir .*Permission denied.*choose a folder"):
            folder.create(tmp_path, "first")
    finally:
        tmp_path.chmod(0o700)


HOLD = """
import sys, pathlib, time
from lsf_jax.runs.folder import lock
with lock(pathlib.Path(sys.argv[1])):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    time.sleep(600)
"""


def test_two_processes_cannot_hold_one_folder_and_a_dead_one_does_not(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(folder.__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(RunFolderError, match=f"in use by process {process.pid};"), folder.lock(tmp_path):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    with folder.lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()};"), folder.lock(tmp_path):
            pass
    with folder.lock(tmp_path):
        pass


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be locked"), folder.lock(tmp_path / "missing"):
        pass


def test_an_atomic_write_replaces_whole_files_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    folder.write_json_atomic(path, {"b": 1, "a": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": "é"}
    folder.write_text_atomic(path, "short")
    assert path.read_text() == "short"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    folder.write_text_atomic(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        folder.write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError):
        folder.write_json_atomic(path, {"x": object()})
    assert path.read_text() == "old"


def test_the_card_describes_software_and_hardware():
    card = folder.card()
    assert json.loads(json.dumps(card)) == card
    assert card["versions"]["python"] == platform.python_version()
    assert card["versions"]["jax"] == jax.__version__
    assert card["devices"]["count"] == jax.device_count()
    assert card["cpu"]["memory_bytes"] > 2**28
    assert card["cpu"]["threads"] >= 1
    assert card["date_utc"].endswith("+00:00")


def test_the_card_does_not_tell_on_the_user(monkeypatch, tmp_path):
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
    card = folder.card()
    assert card["command"] == [
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
    text = json.dumps(card)
    for secret in ("alice", "bob", platform.node(), str(Path.home())):
        assert secret not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_source_commit_is_recorded_with_its_changes(tmp_path):
    assert folder._git(tmp_path) is None
    git(tmp_path, "init")
    assert folder._git(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    clean = folder._git(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert folder._git(tmp_path) == clean | {"dirty": True}
