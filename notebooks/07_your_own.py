# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Your own environment and your own algorithm
#
# An environment is a NamedTuple of pure functions, an algorithm a loss for one trajectory. Both are registered by name and are from then on like those of the package: configured, swept over seeds, trained, evaluated, drawn. This notebook writes one of each and lets them meet. The same in files, with tests to inherit: `docs/howto/device_environment.md` and `docs/howto/algorithm.md`.

# %%
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.utils.capture import capture_output

import lsf_jax
from lsf_jax.analysis.playback import episode_frames

# %% [markdown]
# ## A game: the bridge that bears two
#
# Two agents on a row of places, one on each side of a bridge in the middle. The bridge bears two: if both step onto it at once the team wins. It does not bear one: whoever is there alone breaks it. Either way the game is over, and staying away costs nothing. So the best plan is dangerous for whoever does not trust the other, as in the paper's one-step game, but here they also have to wait for each other.

# %%
MOVES = (0, -1, 1)  # stay, left, right


@dataclass(frozen=True)
class BridgeConfig:
    """Settings of the game: each has a default, a range and a line that says what it is."""

    n_places: int = lsf_jax.setting(7, low=3, high=255, doc="places in the row; the middle one is the bridge")
    prize: float = lsf_jax.setting(8.0, doc="reward of stepping onto the bridge together")
    alone: float = lsf_jax.setting(-6.0, doc="reward of stepping onto it alone")
    episode_limit: int = lsf_jax.setting(8, low=1, high=255, doc="steps")


class State(NamedTuple):
    """All that the game remembers, in as few bytes as will do: replay keeps this and not the observations."""

    place: jax.Array  # [2] uint8
    time: jax.Array  # uint8


def observe(state, *, cfg):
    """Each agent sees its own place and the other's; the critic also sees the time."""
    where = jax.nn.one_hot(state.place, cfg.n_places)  # [2, P]
    time = state.time.astype(jnp.float32) / cfg.episode_limit
    return lsf_jax.Observation(
        obs=jnp.concatenate([where, where[::-1]], axis=-1),
        state=jnp.append(where.reshape(-1), time),
        avail=jnp.ones((2, len(MOVES)), bool),
    )


def reset(key, *, cfg):
    """Each somewhere on its own side."""
    middle = cfg.n_places // 2
    left, right = jax.random.randint(key, (2,), 0, middle)
    state = State(place=jnp.array([left, cfg.n_places - 1 - right], jnp.uint8), time=jnp.uint8(0))
    return state, observe(state, cfg=cfg)


def step(key, state, actions, *, cfg):
    """Both move at once; whoever steps onto the bridge ends the game."""
    del key  # nothing is left to chance
    moved = jnp.clip(state.place.astype(jnp.int32) + jnp.array(MOVES)[actions], 0, cfg.n_places - 1)
    after = State(place=moved.astype(jnp.uint8), time=state.time + 1)
    on_bridge = moved == cfg.n_places // 2
    both, alone = on_bridge.all(), on_bridge.any() & ~on_bridge.all()
    return after, lsf_jax.TimeStep(
        observation=observe(after, cfg=cfg),
        reward=jnp.where(both, cfg.prize, jnp.where(alone, cfg.alone, 0.0)),
        terminal=both | alone,  # over: nothing to bootstrap from
        done=both | alone | (after.time >= cfg.episode_limit),  # over, or cut: the limit is no terminal state
        info={"crossed": both.astype(jnp.float32), "fallen": alone.astype(jnp.float32)},
    )


def draw(state, step_number, sums, *, cfg):
    """A picture: places as boxes, agents as discs."""
    boxes = [
        lsf_jax.Rectangle(x, 0, 1, 2, "wall" if x == cfg.n_places // 2 else "ground", "grid")
        for x in range(cfg.n_places)
    ]
    discs = [lsf_jax.Disc(int(at) + 0.5, i + 0.5, 0.38, "ally", str(i)) for i, at in enumerate(state.place)]
    caption = f"step {step_number}, return {sums['return']:g}"
    return lsf_jax.Picture(width=cfg.n_places, height=2, scale=36, shapes=(*boxes, *discs), caption=caption)


def make_bridge(cfg):
    """The game as the package sees it."""
    return lsf_jax.Env(
        spec=lsf_jax.EnvSpec(2, len(MOVES), 2 * cfg.n_places, 2 * cfg.n_places + 1, cfg.episode_limit),
        reset=partial(reset, cfg=cfg),
        step=partial(step, cfg=cfg),
        snapshot=lambda state: state,
        observe=partial(observe, cfg=cfg),
        render=lambda state: "".join(str(int((state.place == place).sum())) for place in range(cfg.n_places)),
        success=lambda stats: stats.info["crossed"] > 0.0,
        max_return=cfg.prize,
        draw=partial(draw, cfg=cfg),
    )


lsf_jax.register(
    environments=[
        lsf_jax.Entry(name="bridge", config=BridgeConfig, factory=make_bridge, doc="step onto the bridge together")
    ]
)

# %% [markdown]
# ## An algorithm: hysteretic Q-learning
#
# Independent learners that take bad news less seriously than good news (Matignon et al. 2007), so that a partner's blunder does not scare them off. It differs from IQL in its loss, so its loss is all there is to write: `f` is what the networks say of one trajectory, `t` the trajectory, and batches, seeds and grid points are added outside. A setting declared with `number` can be swept.


# %%
@dataclass(frozen=True)
class HystereticConfig(lsf_jax.ValueConfig):
    """What all learners of values have, and one number more."""

    bad_news: float = lsf_jax.number(0.2, low=0.0, high=1.0, doc="weight of errors that lower a value; 1: IQL")


def hysteretic_loss(f, t, clock, hyper):
    """Half the squared TD error of every agent, `bad_news` times that where less came than was expected."""
    error = f.q_total - lsf_jax.td_target(f.next_total, t, hyper)  # [T, N]: without a mixer each learns alone
    weight = jnp.where(error > 0.0, hyper.bad_news, 1.0)
    return {"td": 0.5 * (weight * jnp.square(error)).mean(axis=-1)}


lsf_jax.register(
    algorithms=[
        lsf_jax.Entry(
            name="hysteretic",
            config=HystereticConfig,
            factory=partial(lsf_jax.q_mixing, name="hysteretic", mixer=lambda spec, cfg: None, loss=hysteretic_loss),
            doc="Hysteretic Q-learning",
            acts="values",
        )
    ]
)

# %% [markdown]
# ## Four values of one number, eight seeds each, in one program
#
# `bad_news=1` *is* IQL, so the grid has its own control. QMIX, from the package, is the comparison that knows the other agent's value.

# %%
folder = tempfile.mkdtemp()
protocol = [
    "seeds=8", "train.env_steps=15000", "train.evaluate_every=1500", "train.eval_episodes=16", f"train.run_dir={folder}",
    "algo.hidden=16", "algo.recurrent=false", "algo.batch_size=16", "algo.updates=1", "algo.lr=2e-3", "algo.epsilon_anneal=7500",
]  # fmt: skip
results = {}
for algo, more in (("hysteretic", ["algo.bad_news=0.1,0.3,0.5,1"]), ("qmix", ["algo.hyper_hidden=16"])):
    config = lsf_jax.compose(algo=algo, env="bridge", overrides=[*protocol, *more])
    with capture_output():  # the progress lines
        results[algo] = lsf_jax.train(config)
    timing = results[algo].timing
    print(f"{algo}: {timing['train_seconds']:.0f} s, compiled in {timing['compile_seconds']:.0f} s")

# %%
runs = lsf_jax.load_runs([result.path for result in results.values()])
final = runs.to_frame().query("final").copy()
final["system"] = final["algo.name"] + np.where(
    final["algo.bad_news"].notna(), " bad_news=" + final["algo.bad_news"].astype(str), ""
)
final.groupby("system", sort=False)["return"].describe()[["count", "min", "50%", "max"]]

# %% [markdown]
# ## Which is better, and is it chance?

# %%
lsf_jax.plot_curves(runs, form="iqm", title="the bridge: return, best 8")

# %% [markdown]
# ## What the agents do
#
# A trained policy can be asked for an episode. One row that crosses, and one that does not, if there is one.

# %%
policies = lsf_jax.load_policies(results["hysteretic"].path)
env = policies.program.env
won = results["hysteretic"].final["success"] > 0
shown = [int(np.flatnonzero(won == which)[0]) for which in (True, False) if (won == which).any()]
for row in shown:
    episode = policies.row(row).play(jax.random.key(0))
    frames = episode_frames(env, episode)[:5]
    figure, axes = plt.subplots(1, len(frames), figsize=(2.1 * len(frames), 1.4), squeeze=False, layout="constrained")
    for axis, frame in zip(axes[0], frames, strict=True):
        axis.imshow(frame)
        axis.axis("off")
    bad_news = float(policies.hyper.bad_news[row])
    figure.suptitle(f"seed {policies.seed[row]}, bad_news = {bad_news:g}", fontsize="medium")
    plt.show()

# %% [markdown]
# In files, `lsf-jax train --plugin bridge --plugin hysteretic --algo hysteretic --env bridge` runs the same, and `lsf_jax.testing.conformance("bridge")` and `contract("hysteretic")` test them as the package's own are tested: shapes, types, `observe(snapshot(state))` bit for bit, resuming, padding.
