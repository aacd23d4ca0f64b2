"""Run folders from anywhere: hundreds of damaged and forged ones, each refused in one line, nothing harmed."""

import random
import shutil
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lsf_jax.analysis import compare, gallery, playback
from lsf_jax.cli import app
from lsf_jax.config.composition import Config, compose, from_yaml
from lsf_jax.programs.parts import bind
from lsf_jax.runs import checks, experiment, folder, policy_files
from lsf_jax.runs.folder import read_run
from tests.support.damage import EDITS, Damage, damages
from tests.support.engine_cases import quiet, shared_programs

SETTINGS = (
    "algo.hidden=4", "algo.recurrent=false", "algo.batch_size=2", "algo.target_interval=3", "algo.lr=1e-3",
    "seeds=3", "train.block=2", "train.devices=1", "train.n_envs=2", "train.buffer_capacity=4", "train.env_steps=8",
    "train.evaluate_every=4", "train.eval_episodes=1",
)  # fmt: skip
SECONDS = 20
"""For one command: whatever waits for a pipe's other end, or reads an endless file, is found out."""


class Reached(BaseException):
    """A command has found nothing wrong and begins its work."""


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Parts bound once for all commands of one configuration."""
    with shared_programs(), pytest.MonkeyPatch.context() as patch:
        for module in (experiment, playback, compare):
            patch.setattr(module, "bind", cache(bind))
        yield


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Two blocks of two rows, the last one padding."""
    folder = tmp_path_factory.mktemp("good")
    words = [*SETTINGS, f"train.run_dir={folder}", "train.name=run"]
    config = compose(algo="vdn", env="matrix_game", overrides=words)
    return experiment.train(config, progress=quiet(config)).path


@pytest.fixture
def stubs(monkeypatch, good):
    """The work itself is left out: what a command looks at before is all that runs."""

    def reached(*arguments: Any, **more: Any) -> Any:
        raise Reached

    known = {file.read_text(): read_run(good)[0] for file in [good / "config.yaml"]}

    def once(text: str, *more: Any) -> Config:
        return known[text] if text in known else from_yaml(text, *more)

    for module in (folder, checks, policy_files):
        monkeypatch.setattr(module, "from_yaml", once)

    def out_of_time(*arguments: Any) -> None:
        raise TimeoutError("it waits for something")

    before = signal.signal(signal.SIGALRM, out_of_time)
    parser = app.parser()
    monkeypatch.setattr(app, "parser", lambda: parser)
    monkeypatch.setattr(experiment, "_run", reached)
    monkeypatch.setattr(playback, "evaluate_policies", reached)
    monkeypatch.setattr(playback, "record_episode", reached)
    monkeypatch.setattr(gallery, "save", lambda figure, path: figure)
    yield
    signal.signal(signal.SIGALRM, before)


def state_of(folder: Path) -> dict[str, Any]:
    """Everything below a folder, links not followed; the lock's file may come and hold a number."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
        if path.name != ".lock" and not path.is_dir()
    }


def outside_state(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


def attempt(command: str, run: Path, capsys: Any) -> tuple[int, str]:
    """Exit code, 0 where the command would have begun to work, and what it said."""
    capsys.readouterr()
    arguments = [command, str(run)] + ([str(run)] if command == "compare" else [])
    signal.alarm(SECONDS)
    try:
        code = app.main(arguments)
    except Reached:
        code = 0
    finally:
        signal.alarm(0)
    return code, capsys.readouterr().err


def problems(damage: Damage, good: Path, folder: Path, capsys: Any) -> list[str]:
    """What is wrong with how the commands take a damage."""
    run, outside, found = folder / "run", folder / "outside", []
    shutil.copytree(good, run)
    leftovers = outside / "tmp-000000001-1"
    leftovers.mkdir(parents=True)
    (leftovers / "precious").write_text("precious")
    (outside / "precious").write_text("precious")
    damage.apply(run, outside)
    before, theirs = state_of(run), outside_state(outside)
    for command in dict.fromkeys((*damage.refused_by, *damage.tried_by)):
        code, said = attempt(command, run, capsys)
        if code not in ((2,) if command in damage.refused_by else (0, 2)):
            found.append(f"{damage.name}: {command} ends with {code}: {said}")
        if code and (said.count("\n") != 1 or not said.startswith("lsf-jax: ") or not said[:-1].isprintable()):
            found.append(f"{damage.name}: {command} says {said!r}")
    if state_of(run) != before:
        found.append(f"{damage.name}: the run folder was changed")
    if outside_state(outside) != theirs:
        found.append(f"{damage.name}: something outside was changed")
    shutil.rmtree(folder)
    return found


def all_problems(chosen: list[Damage], good: Path, tmp_path: Path, capsys: Any) -> list[str]:
    return [
        line for number, damage in enumerate(chosen) for line in problems(damage, good, tmp_path / str(number), capsys)
    ]


def test_a_good_run_is_refused_by_no_command(good, tmp_path, stubs, capsys):
    commands = ("resume", "evaluate", "render", "plot", "compare")
    nothing = Damage("none", lambda run, outside: None, (), commands)
    assert problems(nothing, good, tmp_path / "x", capsys) == []
    run = Path(shutil.copytree(good, tmp_path / "run"))
    assert [attempt(command, run, capsys) for command in commands] == [(0, "")] * 5


def test_hundreds_of_damaged_folders_are_refused_in_one_line_and_harm_nothing(good, tmp_path, stubs, capsys):
    rng = random.Random(16)
    chosen = rng.sample(damages(good, rng), 200)
    assert all_problems(chosen, good, tmp_path, capsys) == []


@pytest.mark.slow
def test_thousands_of_damaged_folders_are_refused_in_one_line_and_harm_nothing(good, tmp_path, stubs, capsys):
    assert all_problems(damages(good, random.Random(), more=20), good, tmp_path, capsys) == []


@pytest.mark.parametrize("key", EDITS)
def test_an_edited_configuration_is_refused_by_key_on_resume(good, tmp_path, stubs, capsys, key):
    run = Path(shutil.copytree(good, tmp_path / "run"))
    path = run / "config.yaml"
    path.write_text(path.read_text().replace(*EDITS[key]))
    code, said = attempt("resume", run, capsys)
    assert code == 2
    assert key in said


def test_the_root_of_a_run_folder_may_be_a_link(good, tmp_path, stubs, capsys):
    run = Path(shutil.copytree(good, tmp_path / "run"))
    link = tmp_path / "link"
    link.symlink_to(run)
    for command in ("resume", "evaluate", "render", "plot", "compare"):
        assert attempt(command, link, capsys) == (0, "")
