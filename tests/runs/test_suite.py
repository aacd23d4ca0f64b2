"""Suites: reading them, the configurations they make, and running, continuing and extending them."""

from dataclasses import replace

import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.analysis.frames import load_run
from lsf_jax.cli.app import main
from lsf_jax.config.files import config_files
from lsf_jax.runs import suite
from lsf_jax.runs.experiment import Result
from lsf_jax.settings import ConfigError
from tests.support.engine_cases import NETWORKS, shared_programs

TEXT = """# two algorithms
env: [matrix_game, climbing]
overrides: [train.seeds=2, algo.lr=2e-3]
where_known: [algo.mixer_embed=4, algo.alpha=3]
algorithms:
  vdn: []
  lsf_sac: [algo.lr=1e-3, "algo.epsilon_finish=1,0"]
"""
SMALL = [word for word in NETWORKS if word.startswith("train.")]
SIZES = ["algo.hidden=4", "algo.recurrent=false", "algo.batch_size=4", "train.seeds=2", "train.env_steps=20"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def test_a_suite_of_ones_own_makes_one_run_for_each_algorithm_and_environment(file):
    runs = suite.members(suite.read_suite(str(file)), "out")
    assert [(run.env, run.algo) for run in runs] == [
        (env, algo) for env in ("matrix_game", "climbing") for algo in ("vdn", "lsf_sac")
    ]
    vdn, lsf_sac = (run.config for run in runs[:2])
    assert (vdn.algo.lr, lsf_sac.algo.lr) == (2e-3, 1e-3)  # an algorithm's own word is the last
    assert (lsf_sac.algo.mixer_embed, lsf_sac.algo.alpha) == (4, 3.0)  # VDN has neither
    assert lsf_sac.grid == (("epsilon_finish", (1, 0)),) or lsf_sac.grid == (("epsilon_finish", (1.0, 0.0)),)
    assert runs[3].path.as_posix() == "out/climbing/lsf_sac"


def test_a_choice_and_overrides_of_the_command_line_win(file):
    chosen = suite.read_suite(str(file))
    (run,) = suite.members(chosen, "out", algorithms=["lsf_sac"], envs=["climbing"], overrides=["algo.lr=0.5"])
    assert (run.algo, run.env, run.config.algo.lr) == ("lsf_sac", "climbing", 0.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("env: climbing\n", "algorithms is null; expected lines"),
        ("algorithms: {vdn: []}\nenvs: climbing\n", "unknown key envs; did you mean env?"),
        ("env: climbing\nalgorithms: {vdn: [3]}\n", "algorithms vdn is"),
        (
            "env: climbing\nalgorithms: {vnd: []}\n",
            "unknown algo 'vnd'; did you mean vdn? (suite bad, vnd on climbing)",
        ),
        ("algorithms: {vdn: []}\n", "env is missing; expected the name of an environment"),
        (
            "env: climbing\nalgorithms: {vdn: [algo.lr=x]}\n",
            "algo.lr is x; expected a number (in an override) (suite bad",
        ),
    ],
)
def test_a_wrong_suite_is_one_line(tmp_path, text, complaint):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        suite.members(suite.read_suite(str(path)), "out")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_game_of_the_table_is_refused_with_all_there_are(capsys):
    assert main(["matrix-table", "--game", "chess"]) == 2
    assert "--game is 'chess'; expected all or one of matrix_game, climbing" in capsys.readouterr().err


def test_unknown_names_are_refused_with_the_nearest(file):
    with pytest.raises(ConfigError, match="unknown suite 'matrix_tabel'; did you mean matrix_table"):
        suite.read_suite("matrix_tabel")
    with pytest.raises(ConfigError, match="algorithm 'qmix' is not in the suite"):
        suite.members(suite.read_suite(str(file)), "out", algorithms=["qmix"])


@pytest.mark.parametrize("name", sorted(config_files("suite")))
def test_shipped_suites_hold_every_algorithm(name):
    chosen = suite.read_suite(name)
    assert set(chosen.algorithms) == set(ALGORITHMS)
    runs = suite.members(chosen, "out")
    assert len(runs) == len(chosen.envs) * len(ALGORITHMS)
    if name == "matrix_table":
        for run in runs:
            (key, points), *others = run.config.grid
            assert key == "epsilon_finish"
            assert points[0] >= 0.98
            assert len(points) == 2
            assert not others
            assert run.config.algo.epsilon_start == 1.0
            assert run.config.algo.batch_size == 32


@pytest.mark.slow
def test_the_same_command_skips_what_is_finished_and_extends_what_has_a_larger_budget(file, tmp_path, capsys):
    def command(*words):
        small = [*SMALL, *SIZES, *words]
        return main(["suite", str(file), "--algo", "vdn", "--folder", str(tmp_path / "out"), *small])

    with shared_programs():
        assert command() == 0
        first = capsys.readouterr().out
        assert "`vdn`" in (tmp_path / "out" / "summary-climbing.md").read_text()
        assert (tmp_path / "out" / "curves-matrix_game.png").is_file()
        stamp = (tmp_path / "out" / "climbing" / "vdn" / "card.json").stat().st_mtime_ns
        assert command() == 0
        assert "compiling" in first
        assert "compiling" not in capsys.readouterr().out
        assert (tmp_path / "out" / "climbing" / "vdn" / "card.json").stat().st_mtime_ns == stamp
        assert command("train.env_steps=40") == 0
        assert load_run(tmp_path / "out" / "climbing" / "vdn").evaluation["env_steps"].max() >= 40
        assert command("algo.lr=0.25") == 2
        assert "algo.lr" in capsys.readouterr().err


@pytest.mark.parametrize("finished", [True, False])
def test_a_stop_asked_for_in_a_runs_last_chunk_stops_the_suite_too(file, tmp_path, monkeypatch, capsys, finished):
    seen = []

    def run_member(member):
        seen.append(member.algo)
        return Result(member.path, member.config, finished=finished, stopped=True, final={}, timing={}, trouble=[])

    monkeypatch.setattr(suite, "run_member", run_member)
    assert main(["suite", str(file), "--folder", str(tmp_path / "out"), *SMALL, *SIZES]) == 130
    assert seen == ["vdn"]
    assert "the same command continues" in capsys.readouterr().out


def test_an_empty_folder_of_a_killed_start_is_no_obstacle(file, tmp_path):
    chosen = suite.read_suite(str(file))
    words = [*SMALL, *SIZES]
    (run,) = suite.members(chosen, tmp_path, algorithms=["vdn"], envs=["climbing"], overrides=words)
    run.path.mkdir(parents=True)
    assert not suite.is_finished(run)
    with shared_programs():
        assert suite.run_member(run).finished
    assert suite.is_finished(run)
    longer = replace(run.config, train=replace(run.config.train, env_steps=400))
    assert not suite.is_finished(run._replace(config=longer))
