# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # SMAX, and why it is not SMAC
#
# StarCraft-like battles that run on the device. **SMAX is not SMAC**: no terrain, no shields that recover, no armour, splash or healing; sight, range and damage by type; walls kill; 100 steps for every scenario. A number of one says nothing about the other, even where scenarios bear the same name. This notebook plays a battle, measures two policies that learn nothing, and holds trained ones against them (from a table of the repository, `benchmarks/results`, so run it in a clone).

# %%
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import lsf_jax
from lsf_jax.analysis.render import MARGIN, paint
from lsf_jax.envs.smax_view import EAST, N_MOVES

env = lsf_jax.make("smax", scenario="3m")
print(env.spec, "· version", env.version)

# %% [markdown]
# ## Two policies without learning
#
# One chooses uniformly among what is available. The other attacks the nearest enemy in range, and walks east, where the enemies are, if there is none: about what the scripted opponents do. It reads the positions of all units, so it is no decentralised policy; it is a bar that learning has to clear.


# %%
def uniform(state, avail, key):
    return jax.random.categorical(key, jnp.where(avail, 0.0, -jnp.inf), axis=-1)


def nearest(state, avail, key):
    n = avail.shape[0]
    position = state.units.position
    distance = jnp.linalg.norm(position[:n, None] - position[None, n:], axis=-1)
    distance = jnp.where(avail[:, N_MOVES:], distance, jnp.inf)  # in range and alive
    shoot = N_MOVES + distance.argmin(axis=-1)
    move = jnp.where(avail[:, EAST], EAST, N_MOVES - 1)  # the dead may only stop
    return jnp.where(jnp.isfinite(distance).any(axis=-1), shoot, move)


def battle(key, policy):
    """One battle: snapshots, rewards, infos and which steps were played, `[T, ...]`."""
    begin, play = jax.random.split(key)
    state, observation = env.reset(begin)

    def step(carry, key):
        state, avail, over = carry
        choose, chance = jax.random.split(key)
        after, moment = env.step(chance, state, policy(state, avail, choose))
        row = (env.snapshot(state), moment.reward, moment.info, ~over)
        return (after, moment.observation.avail, over | moment.done), row

    keys = jax.random.split(play, env.spec.episode_limit)
    (last, _, _), rows = jax.lax.scan(step, (state, observation.avail, jnp.bool_(False)), keys)
    return rows, env.snapshot(last)


def wins(policy, n):
    """Battles won and their lengths."""
    (_, reward, info, valid), _ = jax.jit(jax.vmap(partial(battle, policy=policy)))(
        jax.random.split(jax.random.key(0), n)
    )
    played = np.asarray(valid)
    won = (np.asarray(info["win"]) * played).sum(axis=1)
    return won, played.sum(axis=1), (np.asarray(reward) * played).sum(axis=1)


n_battles = 1024
measured = {name: wins(policy, n_battles) for name, policy in (("uniform", uniform), ("nearest", nearest))}
for name, (won, length, total) in measured.items():
    error = won.std() / np.sqrt(n_battles)
    print(
        f"{name:8} wins {won.mean():.1%} ± {error:.1%} of {n_battles:,} battles; {length.mean():.0f} steps, return {total.mean():.1f} of {env.max_return:g}"
    )

# %% [markdown]
# ## A battle
#
# Attacking the nearest, from the start to its end: allies blue, enemies orange, lines are shots, crosses the fallen.

# %%
(snapshots, reward, info, valid), last = jax.tree.map(
    np.asarray, jax.jit(partial(battle, policy=nearest))(jax.random.key(4))
)
length = int(valid.sum())
moments = [jax.tree.map(lambda leaf, t=t: leaf[t], snapshots) for t in range(len(valid))]
moments = [*moments, last][: length + 1]
steps = np.unique(np.linspace(0, length, 6).astype(int))
figure, axes = plt.subplots(2, 3, figsize=(10.5, 4.2), layout="constrained")
for axis in axes.flat:
    axis.axis("off")
for axis, step in zip(axes.flat, steps, strict=False):
    sums = {name: float(values[:step].sum()) for name, values in info.items()} | {"return": float(reward[:step].sum())}
    picture = env.draw(moments[step], int(step), sums)
    axis.imshow(paint(picture))
    axis.set_xlim(*(MARGIN + picture.scale * np.array([6, 26])))  # the middle of the map; the rest is empty
    axis.set_ylim(*(MARGIN + picture.scale * np.array([21, 11])))
    axis.set_title(picture.caption, fontsize="small")
plt.show()

# %% [markdown]
# ## What is learned on smax/3m
#
# The evaluations of two runs as a tracked table, 4 seeds × 1,000,000 env steps each, one core each: `lsf-jax train --preset smax --env smax/3m --train million` and `lsf-jax train --algo qmix --env smax/3m --train million`, greedy evaluations of 32 battles. LSF-SAC's preset was chosen among a dozen settings on two of these four seeds while QMIX has its defaults: read the two as learning alike, not as a comparison.


# %%
def tracked(name):
    """A folder of the repository, looked for around this notebook and beside an installed checkout."""
    here = Path.cwd().resolve()
    for place in (here, *here.parents, Path(lsf_jax.__file__).parents[1]):
        if (place / "benchmarks" / "results" / name).exists():
            return place / "benchmarks" / "results" / name
    raise FileNotFoundError(f"benchmarks/results/{name} is part of the repository, not of the wheel: clone it")


frame = pd.read_csv(tracked("smax_3m") / "eval.csv")
budget = 1_000_000
late = frame[frame["env_steps"] > 0.9 * budget]
share = late.groupby(["algo.name", "seed"])["success"].mean().unstack()
print("battles won over the last tenth of the env steps, each seed's mean:")
print(share.round(2).to_string())

# %%
width = 25_000
frame["bin"] = (frame["env_steps"].clip(upper=budget - 1) // width) * width + width / 2
curves = frame.groupby(["algo.name", "seed", "bin"])["success"].mean().unstack()
figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
for place, name in enumerate(share.index):
    seeds = curves.loc[name]
    axis.fill_between(seeds.columns / 1000, seeds.min(), seeds.max(), color=f"C{place}", alpha=0.18, linewidth=0)
    axis.plot(
        seeds.columns / 1000, seeds.median(), color=f"C{place}", label=f"{name} (median, range of {len(seeds)} seeds)"
    )
for (name, (won, _, _)), style in zip(measured.items(), ((0, (1, 2)), (0, (5, 2))), strict=True):
    axis.axhline(
        won.mean(), color="black", linewidth=1, linestyle=style, label=f"{name}: {won.mean():.0%}, no learning"
    )
axis.set_ylim(0, 1)
axis.set_xlabel("environment steps per seed, thousands")
axis.set_ylabel("battles won")
axis.set_title("smax/3m (SMAX, not SMAC)", fontsize="medium")
axis.legend(fontsize="small", loc="lower right")
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## Real SMAC
#
# The same commands with `smac/` in place of `smax/` train in StarCraft II, once the game (4.10, from Blizzard), its maps and oxwhirl's package are there; `lsf-jax doctor` says what is missing:
#
# ```bash
# pip install "smac @ git+https://github.com/oxwhirl/smac.git"     # `pip install smac` is another project
# lsf-jax doctor
# lsf-jax train --algo lsf_sac --env smac/MMM2 train.env_steps=2000000
# lsf-jax evaluate runs/NAME --replays replays
# ```
#
# `docs/howto/starcraft.md` tells the rest. Report SMAX as SMAX.
