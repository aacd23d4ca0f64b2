# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Table I, and whether LSF-SAC finds (A, A)
#
# The paper's Table I shows one trained network of each of five systems on a game of one step, and concludes that LSF-SAC finds the best joint action where VDN, QMIX and DOP do not. This notebook asks the same of 1,024 seeds of nineteen systems. Nothing is trained here: the seeds are in a tracked table that `lsf-jax matrix-table --seeds 1024` made (with `--seeds 64` it takes 25 minutes on two cores). It reads tables of the repository (`benchmarks/results`), so run it in a clone.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

import lsf_jax
from lsf_jax.analysis.matrix_table import LETTERS, paper_rows, plot_outcomes, read_outcomes
from lsf_jax.analysis.statistics import wilson


def tracked(name):
    """A table of the repository, looked for around this notebook and beside an installed checkout."""
    here = Path.cwd().resolve()
    for place in (here, *here.parents, Path(lsf_jax.__file__).parents[1]):
        if (place / "benchmarks" / "results" / name).exists():
            return place / "benchmarks" / "results" / name
    raise FileNotFoundError(f"benchmarks/results/{name} is part of the repository, not of the wheel: clone it")


outcomes = read_outcomes(tracked("matrix_table/table-matrix_game.json"))
payoff = np.array(lsf_jax.compose(env="matrix_game").env.payoff)
own = {outcome.algorithm: outcome for outcome in outcomes if outcome.exploration == "own"}
uniform = {outcome.algorithm: outcome for outcome in outcomes if outcome.exploration == "uniform"}
print(f"{len(own)} systems · {own['lsf_sac'].seeds:,} seeds each · {own['lsf_sac'].updates:,} updates of 32")
payoff

# %% [markdown]
# ## What the paper printed, and what the mean hides
#
# Three of the paper's five. The left column is the paper's table. In the middle is the mean of our seeds, and on the right the mean of those that end with the most frequent joint action (boxed). LSF-SAC's right panel agrees with the paper where it matters: 8 at (A, A) and one low level everywhere else, if a lower one than the paper's. The middle one does not, because most seeds are not like that.

# %%
rows = {name: row for name, row in paper_rows().items() if name in ("lsf_sac", "qmix", "vdn")}
lsf_jax.plot_table_one(outcomes, paper=rows)

# %% [markdown]
# ## How many seeds find it
#
# The share of seeds whose greedy joint action is (A, A), with 95 % Wilson intervals, on the data of the algorithm's own exploration and on uniform data.

# %%
lines = ["| system | own data | 95 % | uniform data | 95 % |", "|---|--:|--:|--:|--:|"]
for name in sorted(own, key=lambda name: -own[name].optimal):
    cells = [f"`{name}`"]
    for outcome in (own[name], uniform[name]):
        low, high = wilson(outcome.optimal, outcome.seeds)
        cells += [f"{outcome.optimal:.1%}", f"{low:.1%} … {high:.1%}"]
    lines.append("| " + " | ".join(cells) + " |")
display(Markdown("\n".join(lines)))
plot_outcomes(list(own.values()), title="what seeds end with, on the algorithm's own data")

# %%
lsf, rest = own["lsf_sac"], [name for name in own if name != "lsf_sac"]
low, high = wilson(lsf.optimal, lsf.seeds)
above = [name for name in rest if own[name].optimal > high]
alike = [name for name in rest if low <= own[name].optimal <= high]
print(f"LSF-SAC is at (A, A) in {lsf.optimal:.1%} of the seeds ({low:.1%} to {high:.1%}): sometimes, not mostly.")
print("Within its interval:", ", ".join(alike))
print("Above it:", ", ".join(above))

# %% [markdown]
# ## Why: whoever dares first, pays
#
# If the partner plays A with probability $P$, action A is worth what the code below computes, and so are B and C. A critic that has to rank an agent's actions once and for all, whatever the partner does (that is what monotonic means), puts A last until $P$ passes the crossing, and uniform data are below it. So which way a seed goes is decided by where its first ranking happens to stand.

# %%
p = np.linspace(0, 1, 401)
partner = np.stack([p, (1 - p) / 2, (1 - p) / 2])  # what is not A is B or C, equally often
worth = payoff @ partner
crossing = p[np.argmax(worth[0] >= worth[1])]
figure, axis = plt.subplots(figsize=(4.8, 2.8), layout="constrained")
axis.plot(p, worth[0], label="A")
axis.plot(p, worth[1], label="B or C")
axis.axvline(1 / 3, color="0.6", linestyle=":", label="uniform partner")
axis.set_xlabel("probability that the partner plays A")
axis.set_ylabel("expected payoff")
axis.set_title(f"A is the worse action until P = {crossing:.3f}", fontsize="medium")
axis.legend()
plt.show()

# %% [markdown]
# What the method itself can do about that was searched (`python benchmarks/optimum_map.py`), and tried again on seeds that the search had not seen:

# %%
for row in json.loads(tracked("optimum_map/fresh_seeds.json").read_text()):
    low, high = wilson(row["actor"], row["seeds"])
    what = f"preset {row['preset']}" if "preset" in row else row["settings"]
    print(f"{row['actor']:6.1%} ({low:.1%} to {high:.1%}) of {row['seeds']:>5,} seeds: {what}")

# %% [markdown]
# `matrix_best` is LSF-SAC with messages a hundred times as noisy. `matrix_weighted` finds it always, but by OW-QMIX's weighted TD error, which is **not** in the paper.
#
# ## How often a few seeds would have lied
#
# From the shares each seed's payoff is known, so papers of 3, 4 or 5 seeds can be drawn from the 1,024, as often as one likes. Of every rival from which LSF-SAC is told apart over all seeds (by the mean payoff, in a 95 % interval): how often do the medians of such handfuls rank the two rightly, wrongly, or equal?


# %%
def payoffs(outcome):
    """What each seed's greedy joint action earns."""
    joint = {label: tuple(LETTERS.index(letter) for letter in label) for label in outcome.shares}
    return np.concatenate(
        [np.full(round(share * outcome.seeds), payoff[joint[label]]) for label, share in outcome.shares.items()]
    )


ours = payoffs(lsf)
risk = {
    name: lsf_jax.few_seeds_risk(ours, payoffs(own[name]), truth="mean", draws=20_000, resamples=400) for name in rest
}
sure = {name: each for name, each in risk.items() if each.is_sure}
print(
    f"told apart from {len(sure)} of {len(risk)} rivals; not from", ", ".join(name for name in risk if name not in sure)
)
for place, size in enumerate(few.size for few in risk[rest[0]].few):
    wrong = {name: each.few[place].wrong for name, each in sure.items()}
    worst = max(wrong, key=wrong.get)
    print(f"{size} seeds: wrong in {np.mean(list(wrong.values())):.1%} of the papers, {wrong[worst]:.1%} on {worst}")

# %%
order = sorted(sure, key=lambda name: sure[name].difference)
figure, panels = plt.subplots(1, 3, figsize=(8.4, 4.6), sharey=True, layout="constrained")
for axis, place in zip(panels, range(3), strict=True):
    left = np.zeros(len(order))
    for what, colour in (("right", "#009E73"), ("tied", "0.85"), ("wrong", "#D55E00")):
        width = np.array([getattr(sure[name].few[place], what) for name in order])
        axis.barh(order, width, left=left, color=colour, label=what)
        left += width
    axis.set_title(f"medians of {sure[order[0]].few[place].size} seeds", fontsize="medium")
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axis.set_xlabel("share of papers")
panels[0].set_yticks(range(len(order)), [f"{name}  ({sure[name].difference:+.1f})" for name in order], fontsize="small")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
figure.suptitle("LSF-SAC against each rival (difference of mean payoff over all seeds)", fontsize="medium")
plt.show()

# %% [markdown]
# An even handful may fall between two outcomes, which is why four seeds decide more often than three or five, and err more often. `python -m benchmarks.few_seeds benchmarks/results/matrix_table/table-matrix_game.json` does this for all pairs. `lsf-jax matrix-table --seeds 64 --algo lsf_sac` makes a table of your own.
