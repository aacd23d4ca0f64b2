# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # LSF-SAC on the matrix game, 64 seeds at once
#
# The paper's one-step game: two agents, three actions each, one shared payoff. Playing (A, A) pays 8, but if only one agent dares to play A both lose 12. This notebook trains 64 seeds of LSF-SAC side by side in one compiled program, reads the run folder back, and holds the learned $Q_{tot}$ against the payoff.

# %%
import tempfile
from collections import Counter

import numpy as np
from IPython.display import Image, display

import lsf_jax

# 32 seeds side by side on a core: the preset's blocks of 250 are for its 1,000 seeds
config = lsf_jax.compose(presets=["matrix"], overrides=["seeds=64", "train.block=32", "train.env_steps=8000"])
folder = tempfile.mkdtemp()
config = lsf_jax.replace(config, "train.run_dir", folder)
print(config.algo_name, "on", config.env_name, "·", config.train.seeds, "seeds ·", config.train.env_steps, "steps each")

# %% [markdown]
# `train` runs to the end and returns a `Result`. Interrupt the kernel and it saves first; `lsf_jax.resume(result.path)` would go on to the same bits.

# %%
result = lsf_jax.train(config)
{name: round(value, 2) for name, value in result.timing.items()}

# %% [markdown]
# ## What the seeds learned
#
# `load_run` reads configuration, machine card and the Parquet tables; everything is NumPy. The final evaluation has one entry for each seed.

# %%
run = lsf_jax.load_run(result.path)
final = {name: values[run.evaluation["final"]] for name, values in run.evaluation.items()}
names = "ABC"
played = zip(final["greedy_joint"], final["greedy_payoff"], strict=True)
outcomes = Counter(f"({names[joint // 3]}, {names[joint % 3]}) pays {payoff:g}" for joint, payoff in played)
for outcome, count in outcomes.most_common():
    print(f"{outcome:>18}: {count} of {len(final['seed'])} seeds")
print(lsf_jax.summary_table(run))

# %%
lsf_jax.plot_curves([run], path=f"{folder}/curves.png")
Image(f"{folder}/curves.png", width=640)

# %% [markdown]
# ## $Q_{tot}$ against the payoff
#
# A monotonic mixer cannot represent this payoff. Under uniform data its best fit is 8 at (A, A) and -6 elsewhere (mean squared error 32.0); the fit with -12 wherever A is played and 0 elsewhere is only a local optimum, but gradient descent likes it. Below: one seed that plays the best joint action, and one that does not.

# %%
payoff = np.array(config.env.payoff)
for optimal in (True, False):
    seeds = np.flatnonzero(final["optimal"] == optimal)
    if len(seeds) == 0:
        print("no seed is", "optimal" if optimal else "suboptimal")
        continue
    seed = seeds[0]
    joint = int(final["greedy_joint"][seed])
    path = f"{folder}/q-{'optimal' if optimal else 'suboptimal'}.png"
    lsf_jax.plot_q_table(
        final["q_total"][seed].reshape(3, 3),
        payoff,
        final["q_utility"][seed].reshape(2, 3),
        path,
        title=f"seed {final['seed'][seed]}: {'optimal' if optimal else 'not optimal'}",
        greedy=(joint // 3, joint % 3),
    )
    display(Image(path, width=640))

# %% [markdown]
# ## Going on
#
# - A grid over traced numbers compiles nothing new: `overrides=["algo.alpha=0.5,1,3", "algo.lr=1e-3,1e-2"]`.
# - `lsf_jax.compose(env="predator_prey")` is the other environment of this release.
# - `lsf-jax list keys` prints every setting with its range.
