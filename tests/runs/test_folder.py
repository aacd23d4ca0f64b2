"""Run folders: never overwritten, used by one process, written whole, and read back with one set of errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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
