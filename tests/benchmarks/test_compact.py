"""What is tracked of long runs: small tables, no raw ones."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import compact
from lsf_jax.analysis.frames import load_runs
from lsf_jax.config.composition import compose
from tests.support.search_cases import write_run

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_a_compact_table_holds_the_named_metrics_of_every_seed_and_moment(tmp_path):
    overrides = ["seeds=2", f"train.run_dir={tmp_path}", "train.name=mine"]
    write_run(compose(algo="qmix", env="matrix_game", overrides=overrides), np.array([[1.23456, 2.0]]))
    runs = load_runs(tmp_path / "mine")
    texts = compact.texts_of(runs, {"eval": ["return"], "train": []})
    assert set(texts) == {"eval.csv", "runs.json"}
    table = pd.read_csv(io.StringIO(texts["eval.csv"]))
    assert table[table["final"]]["return"].tolist() == [1.235, 2.0]
    assert list(table) == ["algo.name", "run", "seed", "env_steps", "final", "return"]
    assert json.loads(texts["runs.json"])["mine"]["config"]["algo"]["name"] == "qmix"
    with pytest.raises(SystemExit, match=r"captures: no metric of the eval table; there are: run, "):
        compact.texts_of(runs, {"eval": ["captures"]})


def test_no_raw_tables_are_tracked_and_compact_ones_are_small_with_their_command_beside_them():
    assert list(RESULTS.rglob("*.parquet")) == []
    folders = [table.parent for table in RESULTS.rglob("eval.csv")]
    assert folders
    for folder in folders:
        sizes = [file.stat().st_size for file in folder.iterdir() if file.suffix in (".csv", ".json")]
        assert sum(sizes) <= compact.MOST_BYTES
        assert "python -m benchmarks.compact " in (folder / "README.md").read_text(encoding="utf-8")
