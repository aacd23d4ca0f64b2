# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A sweep in one compile
#
# Numbers of an algorithm (learning rates, weights, temperatures) are inputs of the compiled program, not part of it. So a grid over them is one more axis of the arrays, beside the seeds: compiled once, trained together. This notebook sweeps two numbers of LSF-SAC on the paper's one-step game, turns the run into a frame, and draws maps.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from IPython.utils.capture import capture_output

import lsf_jax
from lsf_jax.analysis.statistics import wilson

folder = tempfile.mkdtemp()
grid = ["algo.overestimate_weight=1,0.4,0.1", "algo.lr=1e-3,1e-2"]
protocol = [
    "seeds=12",
    "train.seed=1",  # the default, 0, happens to begin with a run of lucky seeds
    "train.block=96",  # all rows side by side, here and below
    "train.env_steps=2400",  # 300 updates: by then much is decided
    "train.evaluate_every=2400",
    f"train.run_dir={folder}",
]
config = lsf_jax.compose(presets=["matrix"], overrides=[*protocol, *grid])
config

# %% [markdown]
# A comma list in an override makes a grid (`lsf-jax sweep` on the command line). `overestimate_weight` below 1 is OW-QMIX's idea and **not in the paper**: TD errors of joint actions that are valued too highly count less. Which settings can be swept, `lsf-jax list keys` tells; a width cannot, as it shapes the program.

# %%
with capture_output() as shown:  # the progress lines
    result = lsf_jax.train(config)
compiled = [line for line in shown.stdout.splitlines() if line.startswith("compiled training")]
print("\n".join(compiled))
rows = len(result.final["return"])
print(
    f"{rows} rows (grid points × seeds), {result.timing['updates']:,} updates in {result.timing['train_seconds']:.0f} s"
)

# %% [markdown]
# ## The frame
#
# One row for each seed and evaluation; what was swept stands in front. From here on it is pandas.

# %%
run = lsf_jax.load_run(result.path)
frame = run.to_frame()
final = frame[frame["final"]]
keys = ["algo.overestimate_weight", "algo.lr"]
final[[*keys, "seed", "env_steps", "optimal", "greedy_payoff", "q_error"]].sample(5, random_state=0)

# %%
table = final.groupby(keys)["optimal"].mean().unstack()
table

# %% [markdown]
# ## Maps over two swept keys
#
# `plot_map` draws what a sweep ended with over any two of its keys: here the median error of $Q_{tot}$ over the nine joint actions. It *rises* where the weight is small, and that is the point: a seed at (A, A) fits the 8 there, and a monotonic $Q_{tot}$ is then wrong about many of the other joint actions; one that settled on a zero is wrong about little but the 8.

# %%
lsf_jax.plot_map(run, x="algo.lr", y="algo.overestimate_weight", metric="q_error")

# %% [markdown]
# `xarray` gives the same numbers with names on every axis: here what the seeds of each point return, as a mean, at the first evaluation and the last.

# %%
data = run.to_xarray()
data["return"].isel(step=[0, -1]).mean("seed").set_index(point=keys).unstack("point").to_series().unstack()

# %% [markdown]
# ## Other points compile nothing: let Optuna ask
#
# A grid spends as many rows on bad corners as on good ones. `optimize` (`pip install "lsf-jax[optuna]"`) asks Optuna for a batch of points, trains them side by side, tells it what came of them, and asks again. Other values are other inputs of the same program, so only the first batch compiles. The folder holds the study and each batch as a run; the same call goes on where it was stopped.

# %%
space = {"algo.overestimate_weight": (0.1, 1.0), "algo.lr": (1e-3, 1e-2, "log")}
short = [*protocol, "train.env_steps=800", "train.evaluate_every=800", "train.name=search"]
with capture_output():
    search = lsf_jax.optimize(
        lsf_jax.compose(presets=["matrix"], overrides=short), space, objective="optimal", trials=16, batch=8
    )
batches = [lsf_jax.load_run(search.path / f"batch-{number:04d}") for number in range(2)]
print("seconds of compiling:", ", then ".join(f"{each.card['timing']['compile_seconds']:.1f}" for each in batches))
print(f"best: {search.study.best_value:.0%} of the seeds at (A, A), with {' '.join(search.best)}")
trials = search.study.trials_dataframe()
points = trials[[f"params_{key}" for key in space]].set_axis(list(space), axis="columns")
figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
for batch, marker in enumerate("os"):
    asked = trials["user_attrs_batch"] == batch
    x, y = (points.loc[asked, key] for key in ("algo.lr", "algo.overestimate_weight"))
    style = dict(c=trials["value"][asked], vmin=0, vmax=1, cmap="cividis", edgecolors="black", s=70, marker=marker)
    drawn = axis.scatter(x, y, label=f"batch {batch + 1}", **style)
axis.set_xscale("log")
axis.set_xlabel("learning rate of the critic")
axis.set_ylabel("weight of overestimates (1: the paper)")
figure.legend(loc="outside upper center", ncols=2, fontsize="small")
figure.colorbar(drawn, ax=axis, label=f"share of {config.train.seeds} seeds at (A, A)")
plt.show()

# %% [markdown]
# Optuna's sampler draws the first ten points at random; from then on it prefers what is near points that did well. The best of many points may be the luckiest one: before it is quoted it is trained again on *fresh* seeds, `overrides=["seeds=256", "train.seed=2", *search.best]`.

# %% [markdown]
# ## Which seeds find it
#
# A median over seeds says little of what a seed either finds or does not. The share of seeds at (A, A) is a mean, and twelve seeds leave a wide interval: cells whose intervals overlap are not told apart. Cells share their seeds, so compare cells with each other; what a setting is worth takes fresh seeds (another `train.seed`), as the best cell of many looks better than it is.

# %%
weights, rates = table.index.to_numpy(), table.columns.to_numpy()
n_seeds = config.train.seeds
figure, axis = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
image = axis.imshow(table, cmap="cividis", vmin=0, vmax=1, origin="lower", aspect="auto")
for (row, column), share in np.ndenumerate(table.to_numpy()):
    low, high = wilson(share, n_seeds)
    colour = "white" if share < 0.5 else "black"
    text = f"{share:.0%}\n{low:.0%} to {high:.0%}"
    axis.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
axis.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
axis.set_yticks(range(len(weights)), [f"{weight:g}" for weight in weights])
axis.set_xlabel("learning rate of the critic")
axis.set_ylabel("weight of overestimates (1: the paper)")
axis.set_title(f"seeds at (A, A) of {n_seeds}, with 95 % intervals", fontsize="medium")
figure.colorbar(image, ax=axis, label="share of seeds")
plt.show()
