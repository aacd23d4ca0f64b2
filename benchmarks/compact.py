"""What notebooks and figures read of long runs, small enough to be tracked: two CSV tables and one JSON file.

    python -m benchmarks.compact runs/NAME --out benchmarks/results/NAME --eval return success --train episode_return

`eval.csv` and `train.csv` hold the named metrics of every seed and moment, four digits each; `runs.json` each run's
configuration and card. Together they stay below 300 KB, or it says which table is too large.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

import lsf_jax

KEYS = ["algo.name", "run", "seed", "env_steps"]
MOST_BYTES = 300_000


def table_of(runs: lsf_jax.Runs, table: str, metrics: list[str]) -> pd.DataFrame:
    frame = runs.to_frame(table)
    if missing := set(metrics) - set(frame):
        raise SystemExit(f"{', '.join(sorted(missing))}: no metric of the {table} table; there are: {', '.join(frame)}")
    return frame[[*KEYS, *(["final"] if table == "eval" else []), *metrics]]


def texts_of(runs: lsf_jax.Runs, metrics: dict[str, list[str]]) -> dict[str, str]:
    """File name -> content."""
    found = {
        f"{table}.csv": table_of(runs, table, names).to_csv(index=False, float_format="%.4g", lineterminator="\n")
        for table, names in metrics.items()
        if names
    }
    told = {run.path.name: {"config": run.config, "card": run.card} for run in runs}
    return found | {"runs.json": json.dumps(told, separators=(",", ":"), ensure_ascii=False) + "\n"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders, or folders of them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--eval", nargs="*", default=[], metavar="METRIC")
    parser.add_argument("--train", nargs="*", default=[], metavar="METRIC")
    options = parser.parse_args()
    texts = texts_of(lsf_jax.load_runs(options.runs), {"eval": options.eval, "train": options.train})
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    if sum(sizes.values()) > MOST_BYTES:
        raise SystemExit(f"{sizes} are more than {MOST_BYTES:,} bytes; name fewer metrics")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (options.out / name).write_text(text, encoding="utf-8")
    print(sizes)


if __name__ == "__main__":
    main()
