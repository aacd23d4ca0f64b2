"""An episode as a page with a slider: the board or battle, and beside it what agents see, may do, value and say."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.analysis.html import render_page
from lsf_jax.analysis.playback import episode_moments, episode_sums
from lsf_jax.analysis.policy import Policy
from lsf_jax.runs.safe_files import write_output
from lsf_jax.settings import ConfigError
from lsf_jax.types import Cross, Disc, Episode, Insight, Line, Picture, Rectangle

DIGITS = 4
"""Significant digits of the numbers that a page shows."""


def episode_page(policy: Policy, episode: Episode, path: str | Path | None = None, *, title: str = "") -> str:
    """A recorded episode as one HTML page with a slider, which needs nothing else and asks no network for anything.

    It shows every moment as the environment draws it (or its picture in characters), and of every agent its
    observation, which actions it may take, its policy, its values of them and the message it sends, as far as the
    algorithm has them.

    Args:
      policy: whose networks are shown, usually the one that played.
      episode: of `policy.play` or `record_episode`.
      path: where to write the page; None writes nothing.
      title: heading; empty: algorithm and environment.

    Returns:
      The page.

    Raises:
      ConfigError: it cannot be written there, or its environment is played on the host and keeps no moments.
    """
    page = render_page(
        "episode.html",
        title=title or f"{policy.config.algo_name} on {policy.config.where}",
        about=about(policy, episode),
        data=pack(episode_data(policy, episode)),
    )
    if path is not None:
        write_output(path, page.encode())
    return page


def about(policy: Policy, episode: Episode) -> str:
    """One line about an episode: whose it is, how long and how good."""
    acts = "sampled" if policy.stochastic and ALGORITHMS[policy.config.algo_name].acts == "policy" else "greedy"
    steps = int(episode.valid.sum())
    return (
        f"row {policy.row}, seed {policy.seed}, {acts}; {steps} step{'s' * (steps != 1)}, "
        f"return {float(episode.reward.sum()):g}"
    )


def episode_data(policy: Policy, episode: Episode) -> dict[str, Any]:
    """What the page shows, as JSON can hold it: T steps, T+1 moments, fields that an algorithm has not are None."""
    if policy.program.hosted is not None:
        raise ConfigError(f"env {policy.config.env_name} is played on the host: an episode of it keeps no moments")
    env, length = policy.program.env, int(episode.valid.sum())
    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(env.observe))(episode.world))
    found = policy.look(episode) if policy.program.algorithm.forward else Insight()
    pi = None if found.log_pi is None else np.where(seen.avail[: len(found.log_pi)], np.exp(found.log_pi), 0.0)
    sums = episode_sums(episode)
    of_steps = {
        **{name: getattr(found, name) for name in ("q", "value", "messages", "total", "weights")},
        **{"pi": pi, "action": episode.action, "reward": episode.reward},
    }
    return {
        "n_agents": env.spec.n_agents,
        "length": length,
        "obs": _numbers(seen.obs[: length + 1]),
        "avail": seen.avail[:length].astype(int).tolist(),
        "earned": _numbers(sums["return"]),
        **{name: None if values is None else _numbers(values[:length]) for name, values in of_steps.items()},
        **_moments(policy, episode, sums),
    }


def pack(data: dict[str, Any]) -> str:
    """The data of a page as text for it: JSON, deflated, base64."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _moments(policy: Policy, episode: Episode, sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """The moments as pictures, or where an environment draws none, in characters."""
    env, moments = policy.program.env, episode_moments(episode)
    if env.draw is None:
        captions = [f"step {step} · return {sums['return'][step]:g}" for step in range(len(moments))]
        return {"picture": None, "texts": [env.render(moment) for moment in moments], "captions": captions}
    before = [{name: float(values[step]) for name, values in sums.items()} for step in range(len(moments))]
    pictures = [env.draw(moment, step, before[step]) for step, moment in enumerate(moments)]
    return {"picture": _shapes(pictures), "texts": None, "captions": [picture.caption for picture in pictures]}


def _shapes(pictures: list[Picture]) -> dict[str, Any]:
    """Shapes of all moments; those that every moment begins with stand once."""
    first, shortest = pictures[0], min(len(picture.shapes) for picture in pictures)
    same = (len({picture.shapes[place] for picture in pictures}) == 1 for place in range(shortest))
    n_common = next((place for place, is_same in enumerate(same) if not is_same), shortest)
    return {
        **{"width": first.width, "height": first.height, "scale": first.scale},
        "common": [_shape(shape) for shape in first.shapes[:n_common]],
        "frames": [[_shape(shape) for shape in picture.shapes[n_common:]] for picture in pictures],
    }


def _shape(shape: Disc | Cross | Line | Rectangle) -> list[Any]:
    kind = type(shape).__name__.lower()
    values = (*shape.start, *shape.end, *shape[2:]) if isinstance(shape, Line) else shape
    return [kind, *(_short(value) if isinstance(value, float) else value for value in values)]


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def _numbers(values: Any) -> Any:
    """Nested lists of an array, rounded; what is not finite is None."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return array.astype(int).tolist()
    flat = np.array([_short(value) for value in array.ravel().tolist()], object)
    return flat.reshape(array.shape).tolist()
