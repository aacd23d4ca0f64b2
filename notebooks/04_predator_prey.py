# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Predator-prey: over-generalisation, punishment, exploration
#
# Two predators must catch the same prey in the same step; whoever tries alone costs the team $p$. At $p = 0$ this is learned, at $p = -2$ nearly nobody learns it. This notebook computes why, checks the argument in the game itself, and reads what nineteen algorithms did (from tables of the repository, `benchmarks/results`, so run it in a clone).

# %%
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import lsf_jax
from lsf_jax.analysis.render import paint
from lsf_jax.envs.predator_prey_types import CATCH, State

env = lsf_jax.make("predator_prey", punishment=-2)
env.spec

# %% [markdown]
# ## The argument
#
# A catch beside one other predator is worth $10P + p(1 - P)$, if the other one catches too with probability $P$. A policy that has learned nothing chooses uniformly among its six actions: $P = 1/6$. That is where the value of a catch at $p = -2$ crosses zero, to the digit.

# %%
reward, uniform = 10.0, 1 / 6
worth = lambda chance, p: reward * chance + p * (1 - chance)
crossing = {p: abs(p) / (reward - p) for p in (0.0, -0.5, -1.25, -1.5, -2.0)}
for p, chance in crossing.items():
    print(
        f"p = {p:5}: a catch pays if the partner catches with P > {chance:.4f}; a uniform partner's is worth {round(worth(uniform, p), 3) + 0.0:.3f}"
    )

# %% [markdown]
# ## In the game
#
# The same by playing: one prey in the middle of the board with one, two or three predators beside it. The first catches, the others act uniformly among what they can do.


# %%
def beside(n_partners, corner=False):
    """A board with a prey, the catcher and its partners around it, and everybody else out of the game."""
    prey = 0 if corner else 55
    around = ([1, 10] if corner else [54, 56, 45, 65])[: n_partners + 1]
    predators = jnp.array([*around, *[99] * (8 - len(around))], jnp.int32)
    return State(
        predator=predators,
        active=jnp.arange(8) < len(around),
        prey=jnp.array([prey, *[98] * 7], jnp.int32),
        alive=jnp.arange(8) < 1,
        time=jnp.int32(0),
    )


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def catch(state, key):
    """Reward of one step in which predator 0 catches and the others choose uniformly among their available actions."""
    choice, chance = jax.random.split(key)
    avail = env.observe(env.snapshot(state)).avail
    action = jax.random.categorical(choice, jnp.where(avail, 0.0, -jnp.inf), axis=-1).at[0].set(CATCH)
    return env.step(chance, state, action)[1].reward, avail[1].sum()


keys = jax.random.split(jax.random.key(0), 20_000)
for name, state in (
    ("one partner, open field", beside(1)),
    ("two partners, open field", beside(2)),
    ("three partners, open field", beside(3)),
    ("one partner, prey in the corner", beside(1, corner=True)),
):
    rewards, n_actions = map(np.asarray, catch(state, keys))
    error = rewards.std() / np.sqrt(len(rewards))
    print(f"{name:32} {rewards.mean():+.2f} ± {error:.2f}   (a partner has {n_actions[0]} actions)")

# %% [markdown]
# So a catch is worth something only where several stand beside the prey or a wall leaves a partner fewer actions. Everywhere else it is worth nothing at best, and less than nothing as soon as partners catch less than uniformly. A monotonic $Q_{tot}$ has one ranking of an agent's actions, averaged over what its partners do: it puts catching below staying, partners catch less, and the average falls further. That is relative over-generalisation.

# %% [markdown]
# ## What random play finds
#
# 128 episodes of uniformly random play: the data of the first collections. There are far more lone catches than captures, so punishment decides the sign of the return.


# %%
def act(carry, observation, key):
    return carry, jax.random.categorical(key, jnp.where(observation.avail, 0.0, -jnp.inf), axis=-1)


play = jax.jit(jax.vmap(lambda key: lsf_jax.rollout(env, act, (), key)))
episodes = jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(1), 128)))
captures, lone = (episodes.info[name].sum(axis=1) for name in ("captures", "lone_catches"))
print(f"{captures.mean():.2f} captures and {lone.mean():.1f} lone catches an episode")
for p in crossing:
    print(f"p = {p:5}: return {(reward * captures + p * lone).mean():+.1f}")

# %%
first = int(np.argmax(episodes.info["captures"].sum(axis=1)))
at = int(np.flatnonzero(episodes.info["captures"][first])[0])
figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), layout="constrained")
for axis, step in zip(axes, (at - 1, at, at + 1), strict=True):
    moment = jax.tree.map(lambda leaf, step=step: leaf[first, step], episodes.world)
    sums = {name: float(values[first, :step].sum()) for name, values in episodes.info.items()}
    axis.imshow(paint(env.draw(moment, step, sums | {"return": float(episodes.reward[first, :step].sum())})))
    axis.axis("off")
figure.suptitle("a lucky capture in random play: predators (numbered) freeze with their prey", fontsize="medium")
plt.show()

# %% [markdown]
# ## What nineteen algorithms did
#
# The evaluations and training rows of runs made by `lsf-jax suite predator_prey_p2`, as two tracked tables (the command is beside them): each algorithm's defaults, 4 seeds; LSF-SAC, QMIX and QPLEX over 1,000,000 env steps, the rest over 200,000. This is **our** protocol and not the paper's (which explores by ε over 50,000 or 1,000,000 steps; that one is `lsf-jax reproduce fig3`), so nothing below says what the paper's figure would look like. Four seeds are few: read them as what happened, not as a ranking.


# %%
def tracked(name):
    """A folder of the repository, looked for around this notebook and beside an installed checkout."""
    here = Path.cwd().resolve()
    for place in (here, *here.parents, Path(lsf_jax.__file__).parents[1]):
        if (place / "benchmarks" / "results" / name).exists():
            return place / "benchmarks" / "results" / name
    raise FileNotFoundError(f"benchmarks/results/{name} is part of the repository, not of the wheel: clone it")


results = tracked("predator_prey_p2")
final = pd.read_csv(results / "eval.csv").query("final")
ends = final.groupby("algo.name")[["return", "captures", "lone_catches"]].agg(["min", "max"]).round(1)
silent = ends[(ends.drop(columns=[("return", "max")]) == 0).all(axis=1)].index
print(f"{len(silent)} of {len(ends)} end with all seeds at return 0: no catch is tried any more")
ends.drop(index=silent)

# %% [markdown]
# A greedy policy that never catches returns exactly 0, so the curves of returns are flat lines. What tells how it came to that is the data that they collected: prey caught for each episode *while training*.

# %%
train = pd.read_csv(results / "train.csv")
train["bin"] = (train["env_steps"] // 20_000) * 20_000 + 10_000
caught = train.groupby(["algo.name", "bin", "seed"])["episode_captures"].mean().unstack()
figure, axes = plt.subplots(4, 5, figsize=(10, 6.4), sharey=True, layout="constrained")
for axis, name in zip(axes.flat, caught.index.unique(0), strict=False):
    seeds = caught.loc[name]
    axis.fill_between(seeds.index / 1000, seeds.min(axis=1), seeds.max(axis=1), alpha=0.25, linewidth=0)
    axis.plot(seeds.index / 1000, seeds.median(axis=1))
    axis.set_title(name, fontsize="small")
    axis.spines[["top", "right"]].set_visible(False)
for axis in axes.flat[caught.index.unique(0).size :]:
    axis.axis("off")
figure.supxlabel("thousand environment steps per seed", fontsize="small")
figure.suptitle("p = -2: prey caught per episode of training, median and range of 4 seeds", fontsize="medium")
plt.show()

# %% [markdown]
# ## When hunting stops
#
# Catches that were tried, good or bad, for every 1,000 env steps, over the first 200,000 steps. Random play is the level at which all begin.

# %%
random_tries = sum(episodes.info[name].sum() for name in ("captures", "lone_catches")) / episodes.valid.sum() * 1000
train["tries"] = (train["episode_captures"] + train["episode_lone_catches"]) / train["episode_length"] * 1000
early = train[train["env_steps"] < 200_000].groupby(["algo.name", "bin"])["tries"].mean().unstack(0)
last = early.iloc[-1].sort_values(ascending=False)
named = list(dict.fromkeys([*last.index[:3], "lsf_sac", "qmix"]))

figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
for name in early:
    is_named = name in named
    colour = f"C{named.index(name)}" if is_named else "0.8"
    axis.plot(
        early.index,
        early[name] + 1e-2,
        color=colour,
        linewidth=2 if is_named else 1,
        zorder=3 if is_named else 1,
        label=name if is_named else None,
    )
axis.axhline(random_tries, color="black", linestyle=":", label="random play")
axis.set_yscale("log")
axis.set_xlabel("environment steps per seed")
axis.set_ylabel("catches tried per 1,000 steps (+0.01)")
axis.set_title(f"nineteen systems at p = -2; grey: the other {len(early.columns) - len(named)}", fontsize="medium")
axis.legend(fontsize="small")
axis.spines[["top", "right"]].set_visible(False)
plt.show()
