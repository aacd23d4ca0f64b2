"""`lsf-jax plot` where no run is needed; with runs it is tried in tests/test_howto_results.py."""

from pathlib import Path

import pytest

from lsf_jax.cli import app

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "matrix_table" / "table-matrix_game.json"


def complaint(words, capsys) -> str:
    assert app.main(["plot", *words]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    return shown


def test_a_table_of_outcomes_is_drawn_beside_it_or_where_one_says(tmp_path, capsys):
    copy = tmp_path / TABLE.name
    copy.write_bytes(TABLE.read_bytes())
    assert app.main(["plot", str(copy), "--figure", "table_one"]) == 0
    made = [tmp_path / f"table-matrix_game-table_one{end}" for end in (".png", ".pdf")]
    assert [path.read_bytes()[:4] for path in made] == [b"\x89PNG", b"%PDF"]
    assert str(made[0]) in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path, capsys):
    assert "--figure is 'profil'; did you mean profile?" in complaint(["x", "--figure", "profil"], capsys)
    assert "finds no run folder" in complaint([str(tmp_path / "*")], capsys)
    table = [str(TABLE), "--figure", "table_one"]
    assert "expected uniform or own" in complaint([*table, "--exploration", "mine"], capsys)
    assert "2 files are given; expected one" in complaint([str(TABLE), *table], capsys)
    (tmp_path / "no.json").write_text("[]")
    assert "is no table that matrix-table wrote" in complaint([str(tmp_path / "no.json"), *table[1:]], capsys)


def test_the_help_names_every_figure(capsys):
    with pytest.raises(SystemExit):
        app.main(["plot", "--help"])
    shown = capsys.readouterr().out
    assert "improvement  who beats whom" in shown
    assert "table_one " in shown
