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
def test_shipped_suites_are_well_formed(name):
    chosen = suite.read_suite(name)
    first = next(iter(chosen.envs))
    runs = suite.members(chosen, "out", envs=[first])
    assert {run.label for run in runs} == set(chosen.algorithms)
    assert len({run.path for run in runs}) == len(runs)
    if name in ("matrix_table", "predator_prey_p2"):
        assert set(chosen.algorithms) == set(ALGORITHMS)
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

    def run_member(member, cluster):
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


VARIANTS = """env: {matrix_game: [train.env_steps=30], climbing: []}
overrides: [train.seeds=2, algo.lr=2e-3]
variants: {short: [algo.epsilon_anneal=10], long: [algo.epsilon_anneal=20]}
algorithms:
  vdn: []
  wide: {algo: qmix, presets: [pymarl], overrides: [algo.hidden=128], variants: [long]}
  own: {algo: vdn, overrides: [algo.lr=0.5], variants: {short: [algo.epsilon_anneal=7]}}
"""


def test_systems_take_part_in_their_variants_and_the_last_word_is_the_most_special(tmp_path):
    (tmp_path / "mine.yaml").write_text(VARIANTS)
    runs = suite.members(suite.read_suite(str(tmp_path / "mine.yaml")), "out")
    game = {run.path.as_posix(): run.config for run in runs if run.env == "matrix_game"}
    assert {path: (c.algo_name, c.algo.epsilon_anneal, c.algo.lr) for path, c in game.items()} == {
        "out/matrix_game/short/vdn": ("vdn", 10, 2e-3),
        "out/matrix_game/short/own": ("vdn", 7, 0.5),
        "out/matrix_game/long/vdn": ("vdn", 20, 2e-3),
        "out/matrix_game/long/wide": ("qmix", 20, 2e-3),
    }
    wide = game["out/matrix_game/long/wide"]
    assert (wide.algo.hidden, wide.algo.optimizer, wide.train.env_steps) == (128, "rmsprop", 30)
    assert {run.config.train.env_steps for run in runs if run.env == "climbing"} == {200_000}
    (chosen,) = suite.members(
        suite.read_suite(str(tmp_path / "mine.yaml")), "out", envs=["climbing"], algorithms=["own"]
    )
    assert (chosen.label, chosen.variant) == ("own", "short")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("variants: [long]", "variants: [lang]", "algorithms wide has variant 'lang'; did you mean long? (in "),
        ("algo: qmix,", "algos: qmix,", "unknown key algorithms wide algos; did you mean algo? (in "),
        ("variants: {short: [algo", "variants: {short: [3, algo", "variants short is "),
        ("  vdn: []", "  a/b: []", "algorithms a/b holds a '/'; expected the name of a folder (in "),
    ],
)
def test_a_wrong_system_is_one_line(tmp_path, old, new, complaint):
    (tmp_path / "mine.yaml").write_text(VARIANTS.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        suite.read_suite(str(tmp_path / "mine.yaml"))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
