"""Run folders: never overwritten, used by one process, written whole, and read back with one set of errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lsf_jax.analysis.frames import load_run
from lsf_jax.config.composition import compose
from lsf_jax.config.documents import to_yaml
from lsf_jax.runs import folder
from lsf_jax.runs.folder import RunFolderError, read_documents, read_run
from lsf_jax.settings import ConfigError


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


def test_what_dead_processes_left_half_written_goes_when_the_folder_is_next_held(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    (tmp_path / "policies").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / "policies").mkdir()
    gone = [f".tmp-card.json-{dead.pid}", f"policies/.tmp-block-0000.safetensors-{dead.pid}"]
    stays = [f".tmp-card.json-{os.getpid()}", f"linked/.tmp-notes-{dead.pid}", ".tmp-mine", f"tmp-card.json-{dead.pid}"]
    for name in (*gone, *stays):
        (tmp_path / "run" / name).write_text("half")
    with folder.lock(tmp_path / "run"):
        pass
    assert [name for name in (*gone, *stays) if (tmp_path / "run" / name).exists()] == stays


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


CONFIG = compose(algo="qmix", env="matrix_game")


def documents_in(path: Path, config: str | bytes = to_yaml(CONFIG), card: str | bytes = '{"setup": {}}') -> Path:
    """A run folder of which nothing has been trained."""
    path.mkdir()
    for name, content in (("config.yaml", config), ("card.json", card)):
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_run_folder_gives_back_its_configuration_and_its_card(tmp_path):
    path = documents_in(tmp_path / "run", card='{"git": null, "nonfinite": [1]}')
    assert read_run(path) == (CONFIG, {"git": None, "nonfinite": [1]})
    assert read_documents(path).config == to_yaml(CONFIG)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("", b"", "run is not a run folder: there is no such folder; give the path"),
        ("config.yaml", None, "run is not a run folder: it has no config.yaml; give the path"),
        ("card.json", None, "run is not a run folder: it has no card.json; give the path"),
        ("config.yaml", b"\xff\xfe", "config.yaml is damaged: no UTF-8 text; restore"),
        ("card.json", b"\xff\xfe{}", "card.json is damaged: no UTF-8 text; restore"),
        ("card.json", b"{", "card.json is damaged: no JSON at line 1; restore"),
        ("card.json", b"[1]", "card.json is damaged: expected a JSON object, found list; restore"),
        ("card.json", b'{"setup": [1]}', "card.json is damaged: expected an object as its setup, found list; restore"),
        ("config.yaml", b"a: b: c", "config.yaml"),
        ("config.yaml", b"- 1", "config.yaml: expected 'key: value' lines at the top level"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line_the_same_for_every_reader(tmp_path, file, content, message):
    path = tmp_path / "run"
    if file:
        documents_in(path)
        (path / file).unlink()
        if content is not None:
            (path / file).write_bytes(content)
    said = []
    for read in (read_run, load_run):
        with pytest.raises(ConfigError) as caught:
            read(path)
        said.append(str(caught.value))
    assert message in said[0]
    assert said[0] == said[1]
    assert "\n" not in said[0]


def test_settings_that_todays_code_does_not_know_are_read_as_they_are_but_make_no_configuration(tmp_path):
    old = to_yaml(CONFIG).replace("train:\n", "train:\n  forgotten: 3\n")
    path = documents_in(tmp_path / "run", config=old)
    assert load_run(path).config["train"]["forgotten"] == 3
    with pytest.raises(ConfigError, match=r"unknown key train\.forgotten.*config\.yaml"):
        read_run(path)
