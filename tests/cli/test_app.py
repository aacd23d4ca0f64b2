"""The command line: help, one flow through every command, and one line for every kind of bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lsf_jax.analysis.frames import load_run
from lsf_jax.cli import app
from lsf_jax.runs import tables
from tests.support.engine_cases import (
    HUNT,
    NETWORKS,
    QUICK,
    assert_same_tables,
    shared_programs,
    tables_of,
)

ROOT = Path(__file__).resolve().parents[2]
GAME = ("--env", "m_step", *QUICK)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


def contents(folder: Path) -> dict[Path, Any]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*") if path.name != ".lock"}


def picture_format(path: Path) -> str | None:
    with Image.open(path) as picture:
        return picture.format


# Help.


@pytest.mark.parametrize("command", list(app.COMMANDS))
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        app.main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: lsf-jax {command}")
    assert len(shown.splitlines()) > 5


def test_help_names_every_command_and_every_command_runs_something(capsys):
    with pytest.raises(SystemExit):
        app.main(["--help"])
    shown = capsys.readouterr().out
    words = shown.split()
    assert all(command in words for command in app.COMMANDS)


def test_importing_the_package_and_asking_for_help_load_no_jax():
    code = (
        "import sys, lsf_jax; from lsf_jax.cli import app\n"
        "try: app.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules, 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "COMMAND" in done.stdout


def test_a_reader_that_leaves_early_does_no_harm():
    command = [sys.executable, "-m", "lsf_jax.cli", "list", "keys"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # before anything is written, as a pipe to `head -0` would
        complaint = process.stderr.read()
        assert process.wait() == 0
    assert complaint == ""


@pytest.mark.slow
def test_plan_shows_components_blocks_and_the_compiled_program(capsys):
    arguments = ["plan", *GAME, "seeds=4", "train.memory_gib=1"]
    assert app.main(arguments) == 0
    shown = capsys.readouterr().out
    for word in ("replay", "activations", "optimiser", "1 block(s) of 4", "seeds per GiB", "temporary", "compiled in"):
        assert word in shown
    assert app.main([*arguments, "--no-compile"]) == 0
    assert "compiled in" not in capsys.readouterr().out


# One flow.


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    settings = (*NETWORKS, *HUNT, "seeds=2", "train.env_steps=48", "train.evaluate_every=16")
    arguments = ["train", "--env", "predator_prey", *settings, f"train.run_dir={folder}", "train.name=hunt"]
    assert app.main(arguments) == 0
    return folder / "hunt"


def test_training_leaves_a_folder_with_everything(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "card.json", "card.md", "metrics", "checkpoints", "policies", "curves-return.png"} <= names
    assert picture_format(trained / "curves-return.png") == "PNG"
    run = load_run(trained)
    assert {"return", "length", "success", "captures", "lone_catches"} <= run.evaluation.keys()
    wanted = {"td", "message_ce", "message_kl", "policy", "temperature", "alpha", "entropy", "kl_per_message"}
    wanted |= {"decoder_accuracy", "q_total", "critic_gradient_norm", "actor_parameter_norm"}
    assert wanted <= run.train.keys()


@pytest.mark.slow
def test_sweep_ends_with_a_table_and_the_path(tmp_path, capsys):
    arguments = ["sweep", *GAME, "seeds=2", "algo.lr=1e-3,3e-3", "train.env_steps=12", f"train.run_dir={tmp_path}"]
    assert app.main([*arguments, "train.name=grid"]) == 0
    shown = capsys.readouterr().out
    assert "2 grid points" in shown.splitlines()[0]
    assert shown.splitlines()[-1].split() == ["run", "folder:", str(tmp_path / "grid")]
    assert load_run(tmp_path / "grid").evaluation["grid"].max() == 1


def test_evaluate_prints_a_row_for_each_seed(trained, capsys):
    before = contents(trained)
    assert app.main(["evaluate", str(trained), "--episodes", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 greedy episodes for each of 2 rows"
    assert lines[-1].startswith("return over rows: median")
    assert len(lines) == 5
    assert contents(trained) == before


def test_render_writes_a_gif_or_prints_the_boards(trained, tmp_path, capsys):
    target = tmp_path / "episode.gif"
    assert app.main(["render", str(trained), "--row", "1", "--output", str(target)]) == 0
    with Image.open(target) as picture:
        assert picture.format == "GIF"
        assert picture.n_frames == int(capsys.readouterr().out.split("seed 1: ")[1].split()[0]) + 1
    assert app.main(["render", str(trained), "--ascii"]) == 0
    assert "step 0" in capsys.readouterr().out


def test_plot_draws_several_runs(trained, tmp_path, capsys):
    target = tmp_path / "both.png"
    assert app.main(["plot", str(trained), str(trained), "--metric", "captures", "--output", str(target)]) == 0
    assert f"wrote {target}" in capsys.readouterr().out
    assert picture_format(target) == "PNG"


def test_several_runs_do_not_overwrite_the_first_ones_own_curve(trained, tmp_path, capsys):
    first, second = (Path(shutil.copytree(trained, tmp_path / name)) for name in ("first", "second"))
    own = (first / "curves-return.png").read_bytes()
    assert app.main(["plot", str(first), str(second)]) == 0
    assert (first / "curves-return.png").read_bytes() == own
    assert picture_format(first / "compared-return.png") == "PNG"
    assert "environments of these runs differ" not in capsys.readouterr().out
    text = (second / "config.yaml").read_text()
    (second / "config.yaml").write_text(text.replace("punishment:", "punishment: 3  #"))
    assert app.main(["plot", str(first), str(second)]) == 0
    assert "environments of these runs differ" in capsys.readouterr().out


def test_ctrl_c_before_there_is_a_run_is_one_line(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_parse", interrupted)
    assert app.main(["train"]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_resume_extends_a_run(trained, tmp_path, capsys):
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    assert "| budget | 48 env steps a seed |" in (copy / "card.md").read_text()
    assert app.main(["resume", str(copy), "train.env_steps=96"]) == 0
    assert "| budget | 96 env steps a seed |" in (copy / "card.md").read_text()
    assert json.loads((copy / "card.json").read_text())["setup"]["budget"] == "96 env steps a seed"
    assert "resuming" in capsys.readouterr().out
    final = tables.to_arrays(tables_of(copy)["eval"])
    assert (final["env_steps"][final["final"]] >= 96).all()


@pytest.mark.slow
@pytest.mark.parametrize("words", [pytest.param([], marks=pytest.mark.slow), ["train.checkpoint_minutes=9"]])
def test_a_run_from_before_updates_were_one_number_goes_on(trained, tmp_path, words):
    copy, new = (Path(shutil.copytree(trained, tmp_path / name)) for name in ("old", "new"))
    text = (copy / "config.yaml").read_text()
    assert "  updates: 1\n" in text
    text = text.replace("  updates: 1\n", "  updates: 4\n").replace(
        "  log_every:", "  updates_per_iteration: 1\n  log_every:"
    )
    (copy / "config.yaml").write_text(text)
    assert app.main(["evaluate", str(copy), "--episodes", "2"]) == 0
    assert app.main(["compare", str(copy), str(new)]) == 0
    assert app.main(["plot", str(copy), str(new)]) == 0
    assert app.main(["resume", str(copy), *words]) == 0
    assert app.main(["resume", str(copy), "train.env_steps=96"]) == 0
    assert app.main(["resume", str(new), "train.env_steps=96"]) == 0
    assert_same_tables(copy, new)
    assert "updates_per_iteration" not in (copy / "config.yaml").read_text()


# Bad input: one line that names key, value and expectation; exit code 2; nothing is made or overwritten.

BAD = {
    "misspelt key": (["algo.lrr=1e-3"], ["algo.lrr", "algo.lr"]),
    "unknown section": (["algos.lr=1e-3"], ["algos", "algo"]),
    "a key that has gone": (
        ["train.updates_per_iteration=2"],
        ["train.updates_per_iteration", "it is algo.updates now"],
    ),
    "no folder": (["--config-dir", "nowhere"], ["--config-dir nowhere does not exist"]),
    "misspelt environment": (["--env", "predator_pray"], ["predator_pray", "predator_prey"]),
    "misspelt algorithm": (["--algo", "lsf_sak"], ["lsf_sak", "lsf_sac"]),
    "unknown preset": (["--preset", "papre"], ["papre", "paper"]),
    "no equals sign": (["seeds"], ["seeds"]),
    "wrong type": (["seeds=two"], ["train.seeds", "two", "whole number"]),
    "a fraction of a seed": (["seeds=1.5"], ["train.seeds", "1.5"]),
    "zero seeds": (["seeds=0"], ["train.seeds", "0", ">= 1"]),
    "negative steps": (["train.env_steps=-5"], ["train.env_steps", "-5", ">= 1"]),
    "a trace above one": (["algo.trace=1.5"], ["algo.trace", "1.5", "<= 1"]),
    "not a number": (["algo.lr=.nan"], ["algo.lr", "nan"]),
    "batch above replay": (["algo.batch_size=9000"], ["algo.batch_size", "9000", "train.buffer_capacity", "5000"]),
    "uneven replay": (["train.buffer_capacity=5001"], ["train.buffer_capacity", "5001", "train.n_envs", "8"]),
    "micro-batch": (["algo.batch_size=32", "train.micro_batch=5"], ["train.micro_batch", "5", "divisor"]),
    "flat payoff": (["--env", "matrix_game", "env.payoff=[1, 2]"], ["env.payoff", "nested 2 deep"]),
    "ragged payoff": (["--env", "matrix_game", "env.payoff=[[1, 2], [3]]"], ["env.payoff", "same length"]),
    "crowded board": (["env.grid_size=2"], ["env."]),
    "static sweep": (["algo.hidden=8,16"], ["algo.hidden", "shapes the program"]),
    "missing file": (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
    "too many devices": (["train.devices=99"], ["train.devices", "99"]),
    "too little memory": (
        ["--algo", "vdn", *GAME[:2], "train.memory_gib=0.001"],
        ["one seed needs", "train.memory_gib", "train.buffer_capacity"],
    ),
    "a name with a slash": (["train.name=a/b"], ["train.name", "a/b"]),
}


def complaint(arguments: list[str], capsys: Any) -> str:
    assert app.main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("lsf-jax: ")
    return shown


@pytest.mark.parametrize("case", list(BAD))
def test_bad_settings_end_in_one_line_and_make_nothing(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[case]
    shown = complaint(["train", *arguments], capsys)
    assert [word for word in words if word not in shown] == []
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("precious")
    before = contents(tmp_path)
    shown = complaint(["train", *GAME, f"train.run_dir={tmp_path}", "train.name=mine"], capsys)
    assert "train.name 'mine'" in shown
    assert "exists" in shown
    assert contents(tmp_path) == before


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    shown = complaint(["train", *GAME, f"train.run_dir={tmp_path / 'file' / 'deeper'}"], capsys)
    assert "train.run_dir" in shown
    shown = complaint(["train", *GAME, f"train.cache_dir={tmp_path / 'file' / 'cache'}"], capsys)
    assert "train.cache_dir" in shown


@pytest.mark.parametrize("command", ["resume", "evaluate", "render", "plot", "compare"])
def test_a_folder_that_is_no_run_is_named(command, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    shown = complaint([command, str(tmp_path)], capsys)
    assert f"{tmp_path} is not a run folder" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resume_refuses_another_learning_rate_and_a_misspelt_key(trained, capsys):
    before = contents(trained)
    assert "algo.lr: 0.001 -> 0.5" in complaint(["resume", str(trained), "algo.lr=0.5"], capsys)
    assert "algo.lr" in complaint(["resume", str(trained), "algo.lrr=0.5"], capsys)
    assert contents(trained) == before


def test_damage_is_named_and_the_files_are_left_alone(trained, tmp_path, capsys):
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    manifest = next((copy / "checkpoints").rglob("manifest.json"))
    manifest.write_text(manifest.read_text()[:-40])
    policies = next((copy / "policies").iterdir())
    policies.write_bytes(policies.read_bytes()[:-10])
    before = contents(copy)
    assert "manifest.json" in complaint(["resume", str(copy), "train.env_steps=960"], capsys)
    assert policies.name in complaint(["evaluate", str(copy)], capsys)
    assert policies.name in complaint(["render", str(copy)], capsys)
    (copy / "card.json").write_text("{")
    assert "card.json" in complaint(["resume", str(copy)], capsys)
    (copy / "card.json").write_bytes(before[copy / "card.json"])
    assert contents(copy) == before


def test_a_damaged_table_is_named_on_resume_and_left_alone(trained, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    part = max((copy / "metrics" / "train").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    assert part.name in complaint(["resume", str(copy), "train.env_steps=960"], capsys)
    assert part.stat().st_size == 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["trian"], "'trian'"),
        (["train", "--nope"], "--nope"),
        (["evaluate", "x", "--episodes", "0"], "0 is no whole number"),
        (["matrix-table", "--seeds", "x"], "x is no whole number"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, named, capsys):
    with pytest.raises(SystemExit) as stop:
        app.main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert named in lines[0]


def test_a_row_or_a_metric_that_is_not_there_is_named(trained, capsys):
    before = contents(trained)
    assert "--row is 2; expected 0 to 1" in complaint(["render", str(trained), "--row", "2"], capsys)
    assert "captures" in complaint(["plot", str(trained), "--metric", "captuers"], capsys)
    assert contents(trained) == before


def test_an_unfinished_run_has_no_policies_yet(trained, tmp_path, capsys):
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    shutil.rmtree(copy / "policies")
    assert "no finished policies" in complaint(["evaluate", str(copy)], capsys)


def test_a_picture_that_cannot_be_written_is_named_and_nothing_is_made(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file" / "curve.png"):
        shown = complaint(["plot", str(trained), "--output", str(place)], capsys)
        assert f"{place} cannot be written (" in shown
        assert "name a file in a folder" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
