"""Table I of the paper with statistics: what each algorithm ends with in a small game, over many seeds."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec
import numpy as np
from matplotlib.figure import Figure

from lsf_jax.analysis.records import RunRecord, grid_labels
from lsf_jax.analysis.statistics import wilson
from lsf_jax.analysis.style import MANY, PAGE, SIZE, SMALL, Drawn, save
from lsf_jax.config import yaml12
from lsf_jax.config.files import config_folder
from lsf_jax.runs.safe_files import write_output
from lsf_jax.settings import ConfigError, clip, freeze, type_problem

UNIFORM, OWN = "uniform", "own"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHOWN = 5  # outcomes named one by one; the rest are counted together
OTHERS = "others"


class PaperRow(NamedTuple):
    """One system in the paper's Table I (§VI.A); rows of `q_total` are the first agent's actions."""

    q_1: tuple[float, ...]
    q_2: tuple[float, ...]
    q_total: tuple[tuple[float, ...], ...]
    greedy: str


@cache
def paper_rows(path: Path | None = None) -> dict[str, PaperRow]:
    """The paper's Table I by algorithm.

    Args:
      path: a YAML file laid out like the shipped one; None: that one, configs/paper/table1_values.yaml.

    Raises:
      ConfigError: for missing or unknown keys, and for entries that are no numbers or do not fit each other.
    """
    path = path or config_folder() / "paper" / "table1_values.yaml"
    content = yaml12.parse(path.read_text(encoding="utf-8"), path.name)
    return {name: _paper_row(name, row, path.name) for name, row in content.items()}


def _paper_row(name: str, row: Any, source: str) -> PaperRow:
    expected = get_type_hints(PaperRow)
    if not isinstance(row, dict) or set(row) != set(expected):
        raise ConfigError(f"{name} is {yaml12.shorten(row)}; expected {', '.join(expected)} below it (in {source})")
    for key, value in row.items():
        problem = type_problem(expected[key], value)
        if problem:
            raise ConfigError(f"{name}.{key} is {yaml12.shorten(value)}; expected {problem} (in {source})")
    made = PaperRow(**{key: freeze(expected[key], value) for key, value in row.items()})
    lengths = [len(made.q_2)] * len(made.q_1)
    if [len(values) for values in made.q_total] != lengths:
        raise ConfigError(f"{name}.q_total does not have an entry for each of q_1 and q_2 (in {source})")
    actions = LETTERS[: len(made.q_1)], LETTERS[: len(made.q_2)]
    if len(made.greedy) != 2 or any(one not in letters for one, letters in zip(made.greedy, actions)):
        raise ConfigError(f"{name}.greedy is {made.greedy}; expected the letters of two actions (in {source})")
    return made


class Outcome(NamedTuple):
    """What one algorithm under one kind of exploration ended with."""

    algorithm: str
    exploration: str  # UNIFORM or OWN
    seeds: int
    optimal: float  # share of seeds whose greedy joint action is optimal in every state
    payoff: float  # mean over seeds of what the greedy joint action earns
    critic_optimal: float  # share of seeds whose largest Q_tot is there alone; NaN without a joint value
    q_error: float  # mean over seeds of the mean absolute error of Q_tot, QTRAN's of Q_jt; NaN likewise
    shares: dict[str, float]  # greedy joint action -> share of seeds, most frequent first
    utilities: np.ndarray  # [starts, N, A] mean over seeds
    q_total: np.ndarray  # [starts, A^N] mean over seeds
    modal_q_total: np.ndarray  # [starts, A^N] mean over the seeds with the most frequent greedy joint action
    updates: int  # per seed


_TABLES = {"utilities": list[list[list[float]]], "q_total": list[list[float]], "modal_q_total": list[list[float]]}
_RECORD = msgspec.defstruct("Record", list((get_type_hints(Outcome) | _TABLES).items()), forbid_unknown_fields=True)
_RECORDS = Annotated[list[_RECORD], msgspec.Meta(min_length=1)]
"""What a table-ENV.json holds."""


def outcomes_of(run: RunRecord, payoff: np.ndarray) -> list[Outcome]:
    """The outcomes of a run whose grid over `algo.epsilon_finish` has uniform exploration first and its own second.

    Args:
      run: a loaded run on a matrix game.
      payoff: `[starts, A, ..., A]`, the game's `Env.payoff`.

    Raises:
      ValueError: the run has no final evaluations.
    """
    final = {name: values[run.evaluation["final"]] for name, values in run.evaluation.items()} if run.evaluation else {}
    if not final or not len(final["row"]):
        raise ValueError(f"{run.path} has no final evaluations; train it to its end first.")
    kinds = (UNIFORM, OWN)[: len(grid_labels(run))]
    return [_outcome(run, payoff, name, final, grid) for grid, name in enumerate(kinds)]


def _outcome(run: RunRecord, payoff: np.ndarray, exploration: str, final: dict[str, np.ndarray], grid: int) -> Outcome:
    chosen = {name: values[final["grid"] == grid] for name, values in final.items()}
    n_starts, n_agents, n_actions = payoff.shape[0], payoff.ndim - 1, payoff.shape[1]
    labels = [joint_label(joint, payoff) for joint in chosen["greedy_joint"].reshape(-1, n_starts)]
    counts = Counter(labels)
    modal = np.array([label == counts.most_common(1)[0][0] for label in labels])
    q_total = chosen["q_total"].reshape(len(labels), n_starts, -1)
    return Outcome(
        algorithm=str(run.config["algo"]["name"]),
        exploration=exploration,
        seeds=len(labels),
        optimal=float(chosen["optimal"].mean()),
        payoff=float(chosen["greedy_payoff"].mean()),
        critic_optimal=float(chosen["critic_optimal"].astype(float).mean()),
        q_error=float(chosen["q_error"].mean()),
        shares={label: count / len(labels) for label, count in counts.most_common()},
        utilities=chosen["q_utility"].mean(axis=0).reshape(n_starts, n_agents, n_actions),
        q_total=q_total.mean(axis=0),
        modal_q_total=q_total[modal].mean(axis=0),
        updates=int(chosen["updates"].min()),
    )


def joint_label(joint: np.ndarray, payoff: np.ndarray) -> str:
    """Letters of a joint action, for example "AB"; of several states "AB/CC"."""
    places = [np.unravel_index(int(index), payoff.shape[1:]) for index in joint]
    return "/".join("".join(LETTERS[action] for action in place) for place in places)


def markdown(outcomes: Sequence[Outcome], env: str, payoff: np.ndarray) -> str:
    """The whole result as Markdown: the distribution of outcomes, then Q tables in the paper's layout."""
    best = " / ".join(f"{table.max():g}" for table in payoff)
    lines = [
        f"## {env}",
        "",
        f"Best payoff {best}. `optimal`: share of seeds whose greedy joint action is a best one; `critic`: share whose"
        " largest Q_tot is; Q error: mean |Q_tot - payoff| over all joint actions (of QTRAN, whose Q' is a"
        " bound, |Q_jt - payoff|; OW- and CW-QMIX misfit Q_tot on purpose).",
        "",
        "| algorithm | exploration | seeds | updates | optimal | 95 % interval | critic | mean payoff | Q error |"
        " greedy joint action |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_outcome_line(outcome) for outcome in outcomes),
    ]
    if payoff.shape[0] == 1 and payoff.ndim == 3:
        lines += [
            "",
            "Mean Q tables (down the side the first agent's utilities, along the top the second's, in the middle Q_tot:"
            " of all seeds, then of the seeds with the most frequent outcome), beside the paper's:",
            "",
        ]
        lines += [line for outcome in outcomes if np.isfinite(outcome.q_total).all() for line in _q_lines(outcome, env)]
    return "\n".join(lines) + "\n"


def _outcome_line(outcome: Outcome) -> str:
    low, high = wilson(outcome.optimal, outcome.seeds)
    critic = _percent(outcome.critic_optimal)
    top = list(outcome.shares.items())[:SHOWN]
    rest = 1.0 - sum(share for _, share in top)
    shares = " · ".join(f"{label} {share:.1%}" for label, share in top)
    more = f" · {OTHERS} {rest:.1%}" if len(outcome.shares) > SHOWN else ""
    return (
        f"| `{outcome.algorithm}` | {outcome.exploration} | {outcome.seeds:,} | {outcome.updates:,} |"
        f" {outcome.optimal:.1%} | {low:.1%} to {high:.1%} | {critic} | {outcome.payoff:.2f} |"
        f" {_number(outcome.q_error)} | {shares}{more} |"
    )


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _q_lines(outcome: Outcome, env: str) -> list[str]:
    """A small table in the paper's layout: the first agent's utilities down the side, the second's along the top."""
    side = outcome.utilities.shape[-1]
    q_1, q_2 = outcome.utilities[0]
    all_seeds, modal = (table[0].reshape(side, side) for table in (outcome.q_total, outcome.modal_q_total))
    published = paper_rows().get(outcome.algorithm) if env == "matrix_game" else None
    label, share = next(iter(outcome.shares.items()))
    heads = [
        f"`{outcome.algorithm}`, {outcome.exploration}: all",
        *(f"{value:.1f}" for value in q_2),
        f"{label} {share:.0%}",
    ]
    heads += [*[""] * (side - 1), *(["paper", *(f"{value:g}" for value in published.q_2)] if published else [])]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in range(side):
        cells = [
            f"{q_1[row]:.1f}",
            *(f"{value:.1f}" for value in all_seeds[row]),
            *(f"{value:.1f}" for value in modal[row]),
        ]
        if published:
            cells += [f"{published.q_1[row]:g}", *(f"{value:g}" for value in published.q_total[row])]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def plain(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The outcomes as JSON-ready records."""
    arrays = ("utilities", "q_total", "modal_q_total")
    return [
        {**outcome._asdict(), **{name: np.round(getattr(outcome, name), 4).tolist() for name in arrays}}
        for outcome in outcomes
    ]


def read_outcomes(path: str | Path) -> list[Outcome]:
    """The outcomes in a `table-ENV.json`.

    Raises:
      ConfigError: the file cannot be read or is no such table.
    """
    try:
        records = msgspec.convert(json.loads(Path(path).read_text(encoding="utf-8")), _RECORDS)
        return [_outcome_of(msgspec.structs.asdict(record)) for record in records]
    except (OSError, ValueError, RecursionError) as error:
        problem = clip(str(error), 200)
        raise ConfigError(f"{path} is no table that matrix-table wrote ({problem}); give a table-ENV.json") from None


def _outcome_of(record: dict[str, Any]) -> Outcome:
    tables: dict[str, Any] = {key: np.array(record[key]) for key in _TABLES}
    made = Outcome(**(record | tables))
    starts, n_agents, n_actions = made.utilities.shape  # a ValueError where there is less
    if not made.shares or {made.q_total.shape, made.modal_q_total.shape} != {(starts, n_actions**n_agents)}:
        raise ValueError(f"the tables of {made.algorithm} do not fit each other")
    return made


def plot_outcomes(outcomes: Sequence[Outcome], path: str | Path | None = None, title: str = "") -> Figure:
    """Stacked bars: the share of seeds by greedy joint action, one bar for each row of the table.

    Joint actions stand in the order of their letters, in bars and legend; the most frequent have the first colours, and
    what is not among the ten most frequent is one grey piece.

    Args:
      outcomes: what to draw, from top to bottom.
      path: where to write the PNG; None writes nothing.
      title: heading.

    Returns:
      The figure.
    """
    figure = Drawn(PAGE, 1.2 + 0.22 * len(outcomes))
    axes = figure.subplots()
    names = [f"{outcome.algorithm}, {outcome.exploration}" for outcome in outcomes]
    colours = _colours(outcomes)
    drawn: set[str] = set()
    for place, outcome in enumerate(outcomes):
        left = 0.0
        shares = {label: outcome.shares.get(label, 0.0) for label in colours}
        rest = 1.0 - sum(shares.values())
        for label, share in (shares | {OTHERS: rest if rest > 1e-9 else 0.0}).items():
            if share:
                named = f"_{label}" if label in drawn else label  # an underscore keeps it out of the legend
                colour = colours.get(label, "lightgrey")
                axes.barh(place, share, left=left, color=colour, edgecolor="white", linewidth=0.5, label=named)
                drawn.add(label)
            left += share
    axes.set_yticks(range(len(outcomes)), names, fontsize=SMALL)
    axes.set_ylim(len(outcomes) - 0.4, -0.6)  # from top to bottom, without the usual margins
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("share of seeds by greedy joint action")
    axes.set_title(title, fontsize=SIZE)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    shown = [label for label in (*colours, OTHERS) if label in handles]
    axes.legend([handles[label] for label in shown], shown, fontsize=SMALL, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save(figure, path)


def _colours(outcomes: Sequence[Outcome], most: int = len(MANY)) -> dict[str, str]:
    totals: Counter[str] = Counter()
    for outcome in outcomes:
        totals.update(outcome.shares)
    return dict(sorted((label, MANY[index]) for index, (label, _) in enumerate(totals.most_common(most))))


def _seeds(outcomes: Sequence[Outcome]) -> str:
    """Fewest and most seeds of a row: `64`, or `64 to 1,024` where rows come from several places."""
    counts = sorted({outcome.seeds for outcome in outcomes})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))


def write_table(outcomes: Sequence[Outcome], env: str, payoff: np.ndarray, folder: Path) -> list[Path]:
    """Write `table-ENV.md`, `.json` and `.png` into a folder; returns their paths."""
    paths = [folder / f"table-{env}.{suffix}" for suffix in ("md", "json", "png")]
    write_output(paths[0], markdown(outcomes, env, payoff).encode())
    write_output(paths[1], json.dumps(plain(outcomes), indent=1).encode())
    plot_outcomes(outcomes, paths[2], title=f"{env}: what {_seeds(outcomes)} seeds end with")
    return paths
