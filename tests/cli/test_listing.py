"""`list` and `config`: names with a line each, every key with its range, and a file to start from."""

import subprocess
import sys
from pathlib import Path

import pytest

from lsf_jax import algorithms, envs
from lsf_jax.cli import app
from lsf_jax.config import files
from lsf_jax.config.composition import compose
from lsf_jax.config.documents import to_documented_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A folder of the user's own."""
    monkeypatch.delenv(files.VARIABLE, raising=False)
    for section in files.SECTIONS:
        (tmp_path / "mine" / section).mkdir(parents=True)
    (tmp_path / "mine" / "env" / "tiny.yaml").write_text("# a hunt of mine\nname: predator_prey\ngrid_size: 4\n")
    (tmp_path / "mine" / "preset" / "quick.yaml").write_text("# a protocol of mine\ntrain: {n_envs: 4}\n")
    (tmp_path / "mine" / "suite" / "one.yaml").write_text("# a suite of mine\nenv: tiny\nalgorithms: {vdn: []}\n")
    return tmp_path / "mine"


def test_list_shows_what_is_registered_and_the_files_with_their_lines(capsys):
    assert app.main(["list"]) == 0
    shown = capsys.readouterr().out
    lines = [line.split(None, 1) for line in shown.splitlines() if line.startswith("  ")]
    for name, entry in {**algorithms.ALGORITHMS, **envs.ENVS}.items():
        assert [name, entry.doc] in lines
    assert {"predator_prey_p2", "smax/8m", "default", "paper", "release", "matrix_table"} <= {line[0] for line in lines}
    assert [line for line in shown.splitlines() if not line.startswith(" ")] == [
        "algo",
        "env",
        "train",
        "preset",
        "suite",
    ]


def test_list_of_one_section_shows_that_alone(capsys):
    assert app.main(["list", "train"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["train", "default", "million"]


def test_list_keys_shows_every_setting_with_its_range(capsys):
    assert app.main(["list", "keys", "--env", "m_step"]) == 0
    shown = capsys.readouterr().out
    assert "env.n_steps = 10" in shown
    assert "algo.trace" in shown
    assert "[sweep]" in shown.split("algo.lr = ")[1].splitlines()[0]
    assert "[sweep]" not in shown.split("algo.hidden = ")[1].splitlines()[0]


def test_config_writes_a_file_to_start_from(tmp_path, capsys):
    words = ["--algo", "qmix", "--env", "smax/8m", "--preset", "pymarl2", "--train", "million", "algo.lr=1e-3,3e-4"]
    assert app.main(["config", *words, "seeds=7"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    made = compose("qmix", "smax/8m", "million", ["pymarl2"], overrides=["algo.lr=1e-3,3e-4", "seeds=7"])
    assert compose(files=[path]) == made
    assert path.read_text() == to_documented_yaml(made)
    assert app.main(["config", "--config", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text()


def test_the_module_runs_as_the_command_does():
    command = [sys.executable, "-m", "lsf_jax.cli", "list", "suite"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("suite\n  ")
    assert "\n  matrix_table " in done.stdout


def test_a_folder_of_ones_own_is_listed_and_composed_from(mine, capsys, monkeypatch):
    assert app.main(["list", "--config-dir", str(mine)]) == 0
    shown = capsys.readouterr().out
    assert all(
        line in shown for line in ("a hunt of mine", "a protocol of mine", "a suite of mine", "predator_prey_p2")
    )
    assert app.main(["list", "keys", "--env", "tiny", "--config-dir", str(mine)]) == 0
    assert app.main(["config", "--env", "tiny", "--preset", "quick", "--config-dir", str(mine)]) == 0
    shown = capsys.readouterr().out
    assert "  grid_size: 4\n" in shown
    assert "  n_envs: 4\n" in shown
    monkeypatch.setenv(files.VARIABLE, str(mine))
    assert app.main(["plan", "--env", "tiny", "--preset", "quick", "--no-compile"]) == 0
    assert "4 environments" in capsys.readouterr().out


BAD = {
    "an unknown algorithm": (["config", "--algo", "qmx"], "unknown algo 'qmx'; did you mean qmix?"),
    "an unknown environment": (["config", "--env", "tinny"], "unknown env 'tinny'; did you mean tiny?"),
    "an unknown preset": (["config", "--preset", "quik"], "unknown preset 'quik'; did you mean quick?"),
    "a wrong key": (["config", "algo.lrr=1"], "unknown key algo.lrr of lsf_sac; did you mean algo.lr?"),
    "an unknown suite": (["suite", "on"], "unknown suite 'on'; did you mean one?"),
    "a name of the suite": (
        ["suite", "one", "--algo", "vdm"],
        "algorithm 'vdm' is not in the suite; did you mean vdn?",
    ),
    "no such folder": (["list", "--config-dir", "gone"], "--config-dir gone does not exist; expected a folder with"),
    "a file": (["list", "--config-dir", __file__], f"--config-dir {__file__} is no folder; expected a folder with"),
    "no folder for the table": (["matrix-table", "--config-dir", "gone"], "--config-dir gone does not exist"),
    "no folder for a plan": (["plan", "--config-dir", "gone"], "--config-dir gone does not exist"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_line(case, mine, capsys, monkeypatch):
    monkeypatch.setenv(files.VARIABLE, str(mine))
    arguments, message = BAD[case]
    assert app.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"lsf-jax: {message}")
    assert shown.err.count("\n") == 1


def test_a_name_in_two_folders_is_one_line_that_names_both(mine, capsys):
    (mine / "preset" / "paper.yaml").write_text("# mine\n")
    for command in (["list"], ["config"], ["suite", "one"], ["matrix-table"]):
        assert app.main([*command, "--config-dir", str(mine)]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        assert str(mine / "preset" / "paper.yaml") in shown
        assert str(files.config_folder() / "preset" / "paper.yaml") in shown
