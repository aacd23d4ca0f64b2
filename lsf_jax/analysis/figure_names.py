"""The names of all figures, for the help of the command line: nothing is imported to read them."""

OF_RUNS = {
    "curves": "learning curves, median in the range of the seeds",
    "iqm": "learning curves, interquartile mean in its bootstrap interval",
    "fan": "every seed's curve, best and worst named",
    "histogram": "what the seeds end with",
    "map": "final values over two swept keys (--x, --y)",
    "dynamics": "temperature, policy entropy and KL of messages over time",
    "aggregate": "IQM, median and range of each system",
    "profile": "performance profiles: share of runs above each score",
    "improvement": "who beats whom: probability of improvement",
}
"""Figures of runs; `lsf_jax.analysis.gallery` draws them."""
OF_TABLES = {
    "table_one": "Q tables beside those of the paper's Table I; give a table-matrix_game.json",
    "outcomes": "shares of greedy joint actions; give a table-GAME.json",
}
"""Figures of the files that `lsf-jax matrix-table` writes."""
EVERY = {**OF_RUNS, **OF_TABLES}
