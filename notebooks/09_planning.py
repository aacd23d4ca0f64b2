# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Planning: what a run needs, before it runs
#
# How many seeds fit side by side, what takes the memory, and what would an accelerator do? `make_plan` answers the first two from shapes alone: it traces one iteration and compiles nothing, in seconds, on a laptop. `lsf-jax plan --target h100` compiles the program for a chip that is not there; its answers for the shipped presets are a tracked table of the repository (`benchmarks/results`), read below: run this in a clone.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import lsf_jax
from lsf_jax.programs.planner import USABLE, Hardware, plan_text

GIB = 2**30
REFERENCE = ["algo.batch_size=32", "algo.updates=1"]  # one update of 32 episodes, as published speeds are for

# %% [markdown]
# ## One plan
#
# Predator-prey with 64 seeds, on this machine and in the memory that is free on it. `lsf-jax plan` prints the same.

# %%
config = lsf_jax.compose(env="predator_prey", overrides=[*REFERENCE, "seeds=64"])
print(plan_text(lsf_jax.make_plan(config)))

# %% [markdown]
# ## What takes the memory
#
# Bytes of one seed by component, its batch whole. Replay keeps snapshots, the few bytes from which observations are made again, so it is small beside what one update needs while it runs (`activations`).

# %%
runs = {
    "LSF-SAC, predator-prey": lsf_jax.compose(env="predator_prey", overrides=[*REFERENCE, "seeds=1"]),
    "QMIX, predator-prey": lsf_jax.compose(algo="qmix", env="predator_prey", overrides=[*REFERENCE, "seeds=1"]),
    "LSF-SAC, matrix game": lsf_jax.compose(presets=["matrix"], overrides=["seeds=1", "train.block=1"]),
}
plans = {name: lsf_jax.make_plan(each) for name, each in runs.items()}
needs = pd.DataFrame({name: plan.bytes_per_row for name, plan in plans.items()}).T
(needs / 2**20).round(3).assign(total=lambda table: table.sum(axis=1).round(3)).rename_axis("MiB of one seed")

# %%
shares = needs.div(needs.sum(axis=1), axis=0)
figure, axis = plt.subplots(figsize=(7.4, 2.6), layout="constrained")
left = np.zeros(len(shares))
for place, name in enumerate(shares):
    axis.barh(shares.index, shares[name], left=left, label=name, color=plt.get_cmap("tab10")(place))
    left += shares[name].to_numpy()
axis.invert_yaxis()
axis.set_xlim(0, 1)
axis.set_xlabel("share of a seed's memory")
figure.legend(loc="outside right center", fontsize="small")
plt.show()

# %% [markdown]
# ## How many seeds fit, and what happens when they do not
#
# A plan takes every seed side by side if it can; else it slices the batch (micro-batches: the same gradient to rounding, fewer activations), and else it cuts the seeds into blocks, one after another. On a CPU a block is as wide as pays, which for predator-prey is one seed: its update keeps a core busy by itself. Seeds that fit with the batch whole, by memory:

# %%
one = sum(plans["LSF-SAC, predator-prey"].bytes_per_row.values())
for gib in (8, 16, 32, 60, 140):
    print(f"{gib:4} GiB: {int(gib * GIB * USABLE // one):4} seeds ({USABLE:.0%} of it may be planned with)")

# %% [markdown]
# Now 512 seeds of QMIX on a device of 16 GiB. Fewer fit, so the plan makes slices until all of them do or slices are as small as they get, and blocks of what is left:

# %%
card = Hardware(platform="gpu", n_devices=1, memory_bytes=16 * GIB)
many = lsf_jax.replace(runs["QMIX, predator-prey"], "train.seeds", 512)
print(plan_text(lsf_jax.make_plan(many, hardware=card)))

# %% [markdown]
# ## What a chip would do: compiled, not run
#
# `benchmarks/results/accelerator.json` is what `python benchmarks/accelerator.py --fit --target h100` and the like found (the [speed card](../docs/speed_card.md) is made from it). Nobody had these chips. Memory is what XLA's compiled program asks for; env steps/s are an *estimate* between an optimist and a pessimist, and are shown as that range.


# %%
def tracked(name):
    """A table of the repository, looked for around this notebook and beside an installed checkout."""
    here = Path.cwd().resolve()
    for place in (here, *here.parents, Path(lsf_jax.__file__).parents[1]):
        if (place / "benchmarks" / "results" / name).exists():
            return place / "benchmarks" / "results" / name
    raise FileNotFoundError(f"benchmarks/results/{name} is part of the repository, not of the wheel: clone it")


cases = json.loads(tracked("accelerator.json").read_text())["cases"]
rows = []
for case, chips in cases.items():
    for target, found in chips.items():
        first = found["compiled"][0]
        planned = sum(found["plan"]["bytes_per_row"].values()) * first["width"]
        fast, slow = found["estimate"]["env steps/s"]
        rows.append(
            {
                "run": case,
                "chip": target,
                "planned GiB": planned / GIB,
                "compiled GiB": first["required"] / GIB,
                "seeds that fit": found["seeds"] if found["confirmed"] else None,
                "pessimist": slow,
                "optimist": fast,
            }
        )
survey = pd.DataFrame(rows)
survey.round({"planned GiB": 2, "compiled GiB": 2, "pessimist": -3, "optimist": -3})

# %% [markdown]
# A plan is an estimate: fusion removes intermediate values that a trace has to count, layouts add some. The ratio of the two, over the survey:

# %%
reference = cases["lsf_sac on predator_prey, reference size, 64 seeds"]["h100"]["plan"]["bytes_per_row"]
there, ours = (sum(each.values()) / 2**20 for each in (reference, plans["LSF-SAC, predator-prey"].bytes_per_row))
print(
    f"LSF-SAC, one seed: {there:.0f} MiB planned for an H100, {ours:.0f} MiB above, traced for this machine's platform"
)
ratio = survey["planned GiB"] / survey["compiled GiB"]
print(f"planned / compiled: {ratio.min():.2f} to {ratio.max():.2f}; below 1 in")
print(survey[ratio < 1][["run", "chip", "planned GiB", "compiled GiB"]].round(2).to_string(index=False))

# %% [markdown]
# ## From one seed to as many as fit
#
# Memory grows by a line in the number of seeds, so three compilations tell how many fit. Where the survey asked (`--fit`), the last point is the largest block that XLA still compiled within the chip's limit.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained", width_ratios=(1, 1.35))
asked = [
    (case, target, found) for case, chips in cases.items() for target, found in chips.items() if found["confirmed"]
]
for place, (case, _, found) in enumerate(asked):
    widths = [each["width"] for each in found["compiled"]]
    left.plot(
        widths,
        [each["required"] / GIB for each in found["compiled"]],
        marker="o",
        color=f"C{place}",
        label=f"{case.split()[0]}: {found['seeds']} fit",
    )
    one = sum(found["plan"]["bytes_per_row"].values()) / GIB
    left.plot(widths, [width * one for width in widths], linestyle=":", color=f"C{place}")
    left.axhline(found["limit"] / GIB, color="0.5", linewidth=0.8)
left.legend(fontsize="small", loc="lower right")
left.set_ylim(0, 1.25 * asked[0][2]["limit"] / GIB)
left.set_xlabel("seeds side by side on an H100")
left.set_ylabel("GiB (line: compiled, dotted: planned)")
left.set_title("grey: what the chip has for a program", fontsize="medium")

order = survey.sort_values("optimist").reset_index(drop=True)
names = order["run"].str.replace(", reference size", "").str.replace(" on ", ", ").str.replace("_", " ")
for place, row in order.iterrows():
    colour = "C0" if row["chip"] == "h100" else "C1"
    right.plot([row["pessimist"], row["optimist"]], [place, place], color=colour, linewidth=5, solid_capstyle="butt")
right.set_yticks(range(len(order)), names + ", " + order["chip"], fontsize="x-small")
right.set_xscale("log")
right.set_xlabel("env steps/s, all seeds together: estimate, not run")
right.set_title("blue: H100, orange: TPU v5e", fontsize="medium")
plt.show()

# %% [markdown]
# On a machine that has the chip, `lsf-jax plan` reads its memory and `python benchmarks/gpu_suite.py` measures in nine minutes what this notebook only estimates.
