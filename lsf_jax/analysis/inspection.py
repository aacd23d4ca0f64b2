"""What a trained policy thinks, as tables and one figure: mixer weights, values and policies, and what messages do."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lsf_jax.analysis.messages import Hearing, MessageReport, inspect_messages, play_episodes, seen_avail
from lsf_jax.analysis.policy import Policy
from lsf_jax.analysis.style import Drawn, save
from lsf_jax.types import Episode, Insight

MOST_AGENTS = 12
"""Lines of a panel; of more agents the first."""
MARKED = 20
"""Points of a line up to which each is marked."""
FEWEST_BITS = 0.1
"""Where a scale of bits ends at least: what is below is close to nothing, and looks so."""


class Spread(NamedTuple):
    """One number of every agent over all valid steps, that is over the states met."""

    mean: Float[np.ndarray, " agents"]
    deviation: Float[np.ndarray, " agents"]
    low: Float[np.ndarray, " agents"]
    high: Float[np.ndarray, " agents"]


class Inspection(NamedTuple):
    """What a look inside found; None where an algorithm has no such thing."""

    title: str
    episodes: Episode  # that were played, [B, T, ...]
    insight: Insight  # of these, [B, T, ...]
    chosen_q: Spread | None  # each agent's value of what it did
    gap: Spread | None  # between its best and second best available action
    value: Spread | None
    entropy: Spread | None  # of its policy, in bits
    weights: Spread | None  # ∂(joint value)/∂(its value)
    messages: MessageReport | None


def inspect_policy(policy: Policy, *, n_episodes: int = 8, seed: int = 0) -> Inspection:
    """Look inside a policy along episodes that it plays.

    Args:
      policy: a row of a run, of any algorithm that offers `Algorithm.forward`.
      n_episodes: how many it plays.
      seed: of their randomness.

    Returns:
      Mixer weights over the states met, values and policies of every agent, and what messages carry.

    Raises:
      ConfigError: the environment is played on the host.
      ValueError: there is nothing to look into.
    """
    episodes = play_episodes(policy, n_episodes, seed)
    insight, valid = policy.look(episodes), np.asarray(episodes.valid)
    avail = seen_avail(policy, episodes)
    spread = lambda values: None if values is None else _spread(values[valid])
    chosen, gap = (None, None) if insight.q is None else _of_values(insight.q, episodes.action, avail)
    return Inspection(
        title=f"{policy.config.algo_name} on {policy.config.where}, row {policy.row}, seed {policy.seed}",
        episodes=episodes,
        insight=insight,
        chosen_q=spread(chosen),
        gap=spread(gap),
        value=spread(insight.value),
        entropy=spread(None if insight.log_pi is None else _entropy(insight.log_pi, avail)),
        weights=spread(insight.weights),
        messages=None if policy.program.algorithm.channel is None else inspect_messages(policy, episodes),
    )


def _spread(values: Float[np.ndarray, "steps agents"]) -> Spread:
    known = np.asarray(values, np.float64)
    return Spread(known.mean(axis=0), known.std(axis=0), known.min(axis=0), known.max(axis=0))


def _of_values(q: Any, action: Any, avail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each agent's value of its action, and by how much its best available action beats the next, 0 if there is one."""
    chosen = np.take_along_axis(q, np.asarray(action)[..., None].astype(int), axis=-1)[..., 0]
    order = np.sort(np.where(avail, q, -np.inf), axis=-1)
    second = (
        np.where(np.isfinite(order[..., -2]), order[..., -2], order[..., -1]) if q.shape[-1] > 1 else order[..., -1]
    )
    return chosen, order[..., -1] - second


def _entropy(log_pi: Any, avail: np.ndarray) -> np.ndarray:
    """Bits; log π is 0 where unavailable."""
    return -np.where(avail, np.exp(log_pi) * log_pi, 0.0).sum(axis=-1) / np.log(2.0)


def inspection_text(found: Inspection) -> str:
    """The tables for people, plain text."""
    n_episodes, steps = len(found.episodes.valid), int(found.episodes.valid.sum())
    lines = [found.title, f"{n_episodes} episodes, {steps} steps; numbers are means over them (deviation, min … max)"]
    columns = {
        "Q of what it did": found.chosen_q,
        "best Q over next": found.gap,
        "value": found.value,
        "entropy of π, bits": found.entropy,
        "mixer weight": found.weights,
    }
    for name, spread in columns.items():
        if spread is not None:
            lines += ["", name, *(f"  agent {i:<3} {_spread_text(spread, i)}" for i in range(len(spread.mean)))]
    if found.messages is not None:
        lines += ["", *_message_lines(found.messages)]
    return "\n".join(lines)


def _spread_text(spread: Spread, agent: int) -> str:
    mean, deviation, low, high = (values[agent] for values in spread)
    return f"{mean:>10.4g}  ({deviation:.3g}, {low:.4g} … {high:.4g})"


def _message_lines(report: MessageReport) -> list[str]:
    n, blocks = report.bits.shape
    whom = "to all" if blocks == 1 else "to each receiver"
    lines = [f"bits of a message {whom}; [of each of its numbers alone]; KL to N(0, I), bits"]
    for sender in range(n):
        for block in range(blocks):
            address = "" if blocks == 1 else f" to {block}"
            dims = " ".join(f"{bits:.2f}" for bits in report.bits_of_dim[sender, block])
            kl = report.kl_bits[sender, block].sum()
            lines.append(f"  agent {sender}{address:<6} {report.bits[sender, block]:6.2f}  [{dims}]  {kl:.2f}")
    for name, heard in report.hearing.items():
        lines += ["", f"{name} of one sender: mean |ΔQ| of each receiver (share of steps with another greedy action)"]
        lines += ["  receiver" + "".join(f"{f'from {sender}':>17}" for sender in range(n))]
        for receiver in range(n):
            cells = zip(heard.q[receiver], heard.greedy[receiver], strict=True)
            lines.append(f"  agent {receiver:<3}" + "".join(f"{f'{q:.4g} ({share:.0%})':>17}" for q, share in cells))
        lines.append("  ΔQ_tot  " + "".join(f"{total:>17.4g}" for total in heard.total))
    if np.isfinite(report.accuracy).all():
        pairs = zip(report.accuracy, report.accuracy_in_silence, strict=True)
        cells = ", ".join(f"agent {i}: {heard:.0%} ({silent:.0%})" for i, (heard, silent) in enumerate(pairs))
        lines += ["", f"decoder finds the receiver's greedy action (and if nobody spoke): {cells}"]
    return lines


def inspection_json(found: Inspection) -> str:
    """The same as JSON: arrays as lists, what is not finite as null; single steps are left out."""
    content = {name: value for name, value in found._asdict().items() if name not in ("episodes", "insight")}
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, MessageReport | Hearing | Spread):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def plot_inspection(found: Inspection, path: str | Path | None = None) -> Figure:
    """The first episode step by step (of games of one step all episodes), and whom each receiver hears, as one figure.

    Args:
      found: of `inspect_policy`.
      path: where to write the PNG; None writes nothing.

    Returns:
      Panels of each agent's value of what it did, how likely its policy thought it, what the mixer makes it count and,
      where there are messages, their bits and the effect of each sender on each receiver.
    """
    along, report = _along(found), found.messages
    hearing = {} if report is None else {name: heard.q for name, heard in report.hearing.items()}
    n_rows = len(along) + (2 if report is not None else 0)
    figure = Drawn(7.2, 1.9 * max(n_rows, 1) + 0.4)
    grid = figure.add_gridspec(max(n_rows, 1), max(len(hearing), 1))
    for place, (name, values) in enumerate(along.items()):
        axes = figure.add_subplot(grid[place, :])
        _draw_along(axes, name, values, with_legend=place == 0)
        axes.set_xlabel(
            "episode" if found.episodes.valid.shape[1] == 1 else "step of the first episode", fontsize="small"
        )
    if report is not None:
        _draw_bits(figure.add_subplot(grid[len(along), :]), report)
        most = max(float(matrix.max()) for matrix in hearing.values()) or 1.0
        for place, (name, matrix) in enumerate(hearing.items()):
            _draw_hearing(figure.add_subplot(grid[len(along) + 1, place]), name, matrix, most)
    figure.suptitle(found.title, fontsize="medium")
    return save(figure, path)


def _along(found: Inspection) -> dict[str, np.ndarray]:
    """What is drawn along the first episode, or along all if they have one step, `[steps, N]` each."""
    insight, valid = found.insight, np.array(found.episodes.valid, bool)
    valid[1:] &= valid.shape[1] == 1
    action = np.asarray(found.episodes.action)[..., None].astype(int)
    of_action = lambda values: np.take_along_axis(np.asarray(values), action, axis=-1)[..., 0]
    panels = {
        "Q of its action": None if insight.q is None else of_action(insight.q),
        "value": insight.value,
        "π of its action": None if insight.log_pi is None else np.exp(of_action(insight.log_pi)),
        "mixer weight": insight.weights,
    }
    return {name: np.asarray(values)[valid] for name, values in panels.items() if values is not None}


def _draw_along(axes: Axes, name: str, values: np.ndarray, *, with_legend: bool) -> None:
    shown = min(values.shape[1], MOST_AGENTS)
    marker = "o" if len(values) <= MARKED else ""
    for agent in range(shown):
        axes.plot(values[:, agent], linewidth=1.2, marker=marker, markersize=4, label=f"agent {agent}")
    axes.set_ylabel(name, fontsize="small")
    axes.tick_params(labelsize="small")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    if with_legend:
        axes.legend(fontsize="x-small", ncols=min(shown, 6), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


def _draw_bits(axes: Axes, report: MessageReport) -> None:
    bits = report.bits_of_dim.reshape(len(report.bits_of_dim), -1)
    known = bits[np.isfinite(bits)]
    image = axes.imshow(bits, cmap="viridis", vmin=0.0, vmax=max(FEWEST_BITS, known.max(initial=0.0)), aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="bits")
    axes.set_ylabel("sender", fontsize="small")
    which = "number of its message" + ("s, receiver by receiver" if report.bits.shape[1] > 1 else "")
    axes.set_xlabel(which, fontsize="small")
    axes.tick_params(labelsize="small")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("what each number says", fontsize="small")


def _draw_hearing(axes: Axes, name: str, matrix: np.ndarray, most: float) -> None:
    axes.imshow(matrix, cmap="viridis", vmin=0.0, vmax=most)
    if matrix.size <= 36:
        for (receiver, sender), value in np.ndenumerate(matrix):
            colour = "white" if value < 0.6 * most else "black"
            axes.text(sender, receiver, f"{value:.2g}", ha="center", va="center", fontsize="x-small", color=colour)
    axes.set_title(f"|ΔQ|, {name}", fontsize="small")
    axes.set_xlabel("sender", fontsize="small")
    axes.set_ylabel("receiver", fontsize="small")
    axes.set_xticks(range(matrix.shape[1]))
    axes.set_yticks(range(matrix.shape[0]))
    axes.tick_params(labelsize="x-small")
