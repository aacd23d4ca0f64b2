"""`lsf-jax reproduce`: keeping runs, judging without training, bad input; a rehearsal is among the slow tests."""

import dataclasses
from pathlib import Path

import pytest

from lsf_jax.analysis.paper.definition import read_definition
from lsf_jax.analysis.paper.evidence import cells_of
from lsf_jax.analysis.paper.kept import read_tables
from lsf_jax.cli.app import main
from lsf_jax.runs import tables
from tests.support.paper_cases import run_folder

DOCS = Path(__file__).parents[2] / "docs"
PUBLISH = "`lsf-jax reproduce all --report --page docs/results/paper` writes them anew"


@pytest.fixture(scope="module")
def cell():
    return cells_of(read_definition("table1"))["own", "vdn"]


def folder_of(path, cell, seed=0, **settings):
    config = cell.member.config
    train = dataclasses.replace(config.train, seeds=70, seed=seed, env_steps=500)
    algo = dataclasses.replace(config.algo, **settings)
    config = dataclasses.replace(config, train=train, algo=algo)
    run = run_folder(path, config, cell.setting["environment"], [[0.0, 1.0]] * 70)
    columns = tables.to_arrays(tables.read_table(run, "eval"))
    columns["optimal"] = columns["row"] % 35 == 0
    columns["env_steps"] = columns["env_steps"] * (cell.budget // 500 + 1)
    for part in tables.part_paths(run, "eval"):
        part.unlink()
    tables.write_part(run, "eval", 0, 0, columns)
    return run


def test_runs_are_kept_merged_and_judged_without_training(tmp_path, cell, capsys):
    first = folder_of(tmp_path / "first", cell)
    other = folder_of(tmp_path / "other", cell, lr=0.5)
    more = folder_of(tmp_path / "more", cell, seed=3)
    kept = ["--kept", str(tmp_path / "kept")]
    assert main(["reproduce", "table1", *kept, "--keep", str(first), str(other), str(more)]) == 0
    out = capsys.readouterr().out
    assert "own-vdn.json: 70 seeds (report) of vdn in own, " in out
    assert "own-vdn-variant.json: 70 seeds (search) of vdn in own, " in out
    assert "a variant: algo.lr is 0.5, in the suite 0.001" in out
    table, variant = read_tables(tmp_path / "kept" / "table1")
    assert (len(table.seeds), len(variant.seeds)) == (140, 70)
    page = tmp_path / "page"
    assert main(["reproduce", "table1", "--report", *kept, "--page", str(page), "--out", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert (
        "  REPRODUCED: VDN misses (A, A) [its own exploration]: 2.9% of 70 seeds" in out
    )  # the others chose a setting
    assert out.count("  NOT TESTED: ") == 11
    assert {path.name for path in page.iterdir()} == {"table1.md", "table1.png"}


def pages_in(folder):
    paths = [folder / "paper.md", *(folder / "paper").glob("*.md")]
    return {path.relative_to(folder): path.read_text(encoding="utf-8") for path in paths}


def test_the_published_pages_are_what_the_kept_tables_say(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lsf_jax.analysis.paper.page.draw_figure", lambda *given, hours: None)
    words = ["reproduce", "all", "--report", "--page", str(tmp_path / "paper"), "--out", str(tmp_path / "runs")]
    assert main(words) == 0
    made = pages_in(tmp_path)
    assert made == pages_in(DOCS / "results"), PUBLISH
    assert Path("paper/fig6_smac.md") not in made  # nothing was trained for it: counted, and no empty page
    assert "(`lsf-jax reproduce fig6_smac`) | 0 | 0 | " in made[Path("paper.md")]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["fig7"], "unknown figure 'fig7'; did you mean fig6?"),
        (["all", "--keep"], "all goes with --report alone; expected the name of one figure"),
        (["all"], "all goes with --report alone; expected the name of one figure"),
        (["table1", "--keep", "nowhere"], "nowhere is not a run folder: there is no such folder"),
        (["table1", "--keep", "--out", "nowhere"], "--keep names no run, and nowhere/table1 has none"),
        (["table1", "--system", "vnd"], "--system is 'vnd'; did you mean vdn?"),
        (["table1", "--panel", "owl"], "--panel is 'owl'; did you mean own?"),
        (["table1", "--scale", "huge"], "--scale is 'huge'; expected one of smoke, laptop, full"),
    ],
)
def test_bad_input_is_one_line(words, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["reproduce", *words])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_game_is_not_kept(tmp_path, cell, capsys):
    config = dataclasses.replace(
        cell.member.config, env=dataclasses.replace(cell.member.config.env, payoff=((1, 2), (3, 4)))
    )
    run = run_folder(tmp_path / "run", config, cell.setting["environment"], [[0.0, 1.0]] * 64)
    assert main(["reproduce", "table1", "--kept", str(tmp_path / "kept"), "--keep", str(run)]) == 2
    assert "with settings of env that no panel of table1 has" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_a_rehearsal_runs_through_and_tests_nothing(tmp_path, capsys):
    words = ["reproduce", "table1", "--scale", "smoke", "--system", "vdn", "--out", str(tmp_path / "runs")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "[1/1] vdn on matrix_game" in out
    assert "REPRODUCED:" not in out
    assert out.count("NOT TESTED: ") == 12
    assert {"table1.md", "table1.png"} <= {path.name for path in (tmp_path / "runs" / "table1").iterdir()}
    assert main(words) == 0
    assert "compiling" not in capsys.readouterr().out  # what is there is not trained again
