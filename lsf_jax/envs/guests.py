"""What environments made of somebody else's package share: its noise, its errors, its rewards and its pictures."""

import contextlib
import io
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Float

from lsf_jax.types import EpisodeStats, Snapshot

TeamReward = Callable[[Float[Array, "agents"]], Float[Array, ""]]

TEAM_REWARDS: dict[str, TeamReward] = {
    "mean": lambda reward: reward.mean(),
    "sum": lambda reward: reward.sum(),
    "first": lambda reward: reward[0],
}
"""How a team's reward is made of its agents', by the name in `env.team_reward`; all the same, up to the factor N of a
sum, where a game rewards all agents alike."""
TEAM_REWARD_DOC = "reward of the team: mean or sum of its agents' own, or that of the first agent"

_WIDTH, _LINES = 100, 40  # of text about a moment


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """JAX's default promotion of ranks and dtypes, which their code relies on, whatever the caller has chosen.

    What JAX says of their code's future is not for those who play: Jumanji scatters numbers into truth values.
    """
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is written meanwhile, no warning either. JaxMARL swaps `sys.stdout` itself on import, for another."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    saved, nowhere = {name: sys.__dict__[name] for name in names}, io.StringIO()
    try:
        sys.__dict__.update(dict.fromkeys(names, nowhere))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.__dict__.update(saved)


def one_line(error: Exception) -> str:
    """What went wrong, in one line of bounded length."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def reached(stats: EpisodeStats, *, best: float) -> Array:
    """Whether each episode earned the best return, up to rounding."""
    return jax.numpy.asarray(stats.episode_return) >= best - 1e-4


def fields_text(snapshot: Snapshot) -> str:
    """A snapshot on the host as text: a line for each of its arrays, folded and cut where it is long."""
    leaves = jax.tree_util.tree_flatten_with_path(snapshot)[0]
    shown = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.array2string(
            np.asarray(leaf), precision=2, suppress_small=True, separator=", "
        )
        for path, leaf in leaves
    }
    lines = [f"{name}: {' '.join(value.split())}" for name, value in shown.items()]
    folded = [part for line in lines for part in textwrap.wrap(line, _WIDTH, subsequent_indent="  ")]
    return "\n".join(folded if len(folded) <= _LINES else [*folded[: _LINES - 1], "..."])
