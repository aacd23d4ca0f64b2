"""Files of a run folder: found without following links, read only where they are plain, written whole or not at all."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from lsf_jax.config.composition import compose
from lsf_jax.runs import experiment, safe_files, tables
from lsf_jax.runs.folder import lock
from lsf_jax.runs.safe_files import RunFolderError, file_inside, folder_inside
from lsf_jax.settings import ConfigError
from tests.support.engine_cases import QUICK, quiet, shared_programs


def test_what_is_not_there_yet_may_be_made(tmp_path):
    assert file_inside(tmp_path, "a", "b") == tmp_path / "a" / "b"
    (tmp_path / "a").mkdir()
    assert folder_inside(tmp_path, "a", "c") == tmp_path / "a" / "c"
    (tmp_path / "a" / "b").write_text("x")
    assert safe_files.read_bytes(file_inside(tmp_path, "a", "b")) == b"x"


def test_only_the_root_may_be_a_link(tmp_path):
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "root").symlink_to("run")
    assert folder_inside(tmp_path / "root", "a") == tmp_path / "root" / "a"
    (tmp_path / "run" / "b").symlink_to("a")
    for wanted in (lambda: folder_inside(tmp_path / "run", "b"), lambda: file_inside(tmp_path / "run", "b", "x", "y")):
        with pytest.raises(RunFolderError, match=r"run/b is a link; links in a run folder are not followed"):
            wanted()


def make(path: Path, kind: str) -> None:
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # like /dev/zero


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device"])
def test_where_a_file_belongs_nothing_else_is_taken_for_one(tmp_path, kind):
    try:
        make(tmp_path / "x", kind)
    except PermissionError:
        pytest.skip("not allowed to make one")
    with pytest.raises(RunFolderError, match=f"x is {kind}; expected a file; move it away"):
        file_inside(tmp_path, "x")
    with pytest.raises((RunFolderError, OSError)):  # nor is it, where nobody asked before
        safe_files.read_bytes(tmp_path / "x")
    (tmp_path / "y").write_text("x")
    with pytest.raises(RunFolderError, match="y is a file; expected a folder"):
        folder_inside(tmp_path, "y")


def test_a_file_larger_than_it_can_be_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    os.truncate(tmp_path / "x", 2**40)
    with pytest.raises(RunFolderError, match=r"1,099,511,627,776 bytes; expected at most 10"):
        safe_files.read_bytes(tmp_path / "x", 10)


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / "x").symlink_to("theirs")
    with safe_files.replacing(tmp_path / "x") as file:
        file.write(b"mine")
    assert (tmp_path / "theirs").read_text() == "precious"
    assert (tmp_path / "x").read_text() == "mine"
    assert not (tmp_path / "x").is_symlink()


def test_what_a_killed_write_left_goes_with_the_next_lock_and_a_living_ones_stays(tmp_path):
    child = subprocess.Popen(["true"])
    child.wait()
    (tmp_path / "policies").mkdir()
    gone = [
        tmp_path / f".tmp-card.json-{child.pid}",
        tmp_path / "policies" / f".tmp-block-0000.safetensors-{child.pid}",
    ]
    kept = [tmp_path / f".tmp-card.json-{os.getppid()}", tmp_path / ".tmp-mine", tmp_path / ".tmp-card.json-x"]
    for path in (*gone, *kept):
        path.write_text("half")
    with lock(tmp_path):
        assert [path.exists() for path in gone] == [False, False]
        assert all(path.exists() for path in kept)


# Output that a person asks for.


def test_an_output_replaces_a_file_and_follows_the_persons_own_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "name").symlink_to("real/picture")
    for path in ("link/picture", "name"):
        safe_files.write_output(tmp_path / path, path.encode())
        assert (tmp_path / "real" / "picture").read_text() == path
    assert (tmp_path / "name").is_symlink()
    safe_files.write_output("/dev/null", b"x")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(("place", "cause"), [("folder", "Is a directory"), ("file/below", "(File exists|Not a dir)")])
def test_an_output_that_cannot_be_is_one_line(tmp_path, place, cause):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=rf"{place} cannot be written \({cause}.*; name a file in a folder") as caught:
        safe_files.write_output(tmp_path / place, b"x")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_an_output_on_a_full_device_is_one_line():
    with pytest.raises(ConfigError, match=r"/dev/full cannot be written \(No space left on device\)"):
        safe_files.write_output("/dev/full", b"x")


# Full disks.


def config_of(folder: Path):
    words = ("train.env_steps=24", f"train.run_dir={folder}", "train.name=full")
    return compose(env="m_step", overrides=[*QUICK, *words])


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
def test_a_disk_that_fills_up_at_a_metrics_flush_is_one_line_and_the_run_goes_on_later(tmp_path, monkeypatch):
    config = config_of(tmp_path)

    def full(*arguments, **more):
        raise NO_SPACE

    with monkeypatch.context() as patch:
        patch.setattr(tables.pq, "write_table", full)
        with pytest.raises(RunFolderError) as caught:
            experiment.train(config, progress=quiet(config))
    said = str(caught.value)
    assert "\n" not in said
    assert "No space left on device" in said
    assert f"continue with `lsf-jax resume {tmp_path / 'full'}`" in said
    assert not list((tmp_path / "full" / "metrics").rglob("*.parquet*"))
    assert experiment.resume(tmp_path / "full", progress=quiet(config)).finished


def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    written, replacing = [], safe_files.replacing

    def second_fails(path):
        written.append(path)
        if len(written) > 1:
            raise NO_SPACE
        return replacing(path)

    monkeypatch.setattr(safe_files, "replacing", second_fails)
    with pytest.raises(
        RunFolderError, match=r"train\.run_dir .*full cannot be written \(No space.*nothing was trained"
    ):
        experiment.train(config, progress=quiet(config))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("disks cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_real_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(small_disk, monkeypatch):
    config, ballast = config_of(small_disk), small_disk / "ballast"
    run_block = experiment.run_block

    def fill_up_first(*arguments):
        with open(ballast, "wb") as file:
            while True:
                try:
                    os.write(file.fileno(), bytes(4096))
                except OSError:
                    break
        return run_block(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run_block", fill_up_first)
        with pytest.raises(RunFolderError, match=r"No space left on device.*continue with `lsf-jax resume") as caught:
            experiment.train(config, progress=quiet(config))
    assert "\n" not in str(caught.value)
    with pytest.raises(RunFolderError, match="No space left on device"):
        experiment.resume(small_disk / "full", progress=quiet(config))
    ballast.unlink()
    assert experiment.resume(small_disk / "full", progress=quiet(config)).finished


def test_an_output_on_a_disk_for_reading_only_is_one_line(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ConfigError, match=r"cannot be written \(Read-only file system\)"):
        safe_files.write_output(small_disk / "a" / "b.png", b"x")
