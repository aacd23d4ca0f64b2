"""Where does LSF-SAC find the paper's optimum, (A, A) of the matrix game? Settings × learning rates × seeds.

Every line of the map is one run of the preset `matrix` over a grid of critic learning rates; a finished one is not
repeated, a stopped one is continued. Data are drawn uniformly (epsilon 1), or by the actor itself where the line says
so. The result is the share of seeds whose greedy joint action is (A, A), and whose critic is largest there alone.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lsf_jax import ConfigError, compose
from lsf_jax.analysis.frames import load_run
from lsf_jax.analysis.plots import save
from lsf_jax.analysis.records import grid_labels
from lsf_jax.config import yaml12
from lsf_jax.config.files import config_folder
from lsf_jax.runs.suite import Member, run_member

RATES = (1e-3, 1e-2)
BASE = (
    "algo.policy_sign=release",  # the actor's slope is not taken on the plateau that a good critic has
    "algo.learn_temperature=false",
    "algo.mixer_embed=2",
    "train.eval_episodes=1",
    "train.evaluate_every=40240",
    "train.log_every=1000",
    "train.block=0",
)
UNIFORM = ("algo.behaviour=epsilon_sample", "algo.epsilon_start=1", "algo.epsilon_finish=1")
LINES: dict[str, tuple[str, ...]] = {
    "mixer 1 wide": (*UNIFORM, "algo.mixer_embed=1"),
    "mixer 2 wide, as all below": UNIFORM,
    "mixer 4 wide": (*UNIFORM, "algo.mixer_embed=4"),
    "mixer 8 wide": (*UNIFORM, "algo.mixer_embed=8"),
    "mixer 32 wide": (*UNIFORM, "algo.mixer_embed=32"),
    "mixer's first weights x 0.1": (*UNIFORM, "algo.mixer_init=0.1"),
    "mixer's first weights x 3": (*UNIFORM, "algo.mixer_init=3"),
    "hypernetworks with a hidden layer": (*UNIFORM, "algo.hyper_hidden=64"),
    "policy sign of the paper": (*UNIFORM, "algo.policy_sign=paper"),
    "hidden 64": (*UNIFORM, "algo.hidden=64"),
    "recurrent": (*UNIFORM, "algo.recurrent=true"),
    "messages of 8": (*UNIFORM, "algo.message_dim=8"),
    "message noise 0": (*UNIFORM, "algo.message_noise=0"),
    "message noise 10": (*UNIFORM, "algo.message_noise=10"),
    "message noise 100": (*UNIFORM, "algo.message_noise=100"),
    "no TD gradient into messages": (*UNIFORM, "algo.td_gradient_to_encoder=false"),
    "lambda_1 1, beta 1": (*UNIFORM, "algo.lambda_1=1", "algo.beta=1"),
    "batch 8": (*UNIFORM, "algo.batch_size=8"),
    "batch 128": (*UNIFORM, "algo.batch_size=128"),
    "no messages (MASAC)": (*UNIFORM, "algo.name=masac"),
    "own data, alpha 0.1": ("algo.alpha=0.1",),
    "own data, alpha 1": ("algo.alpha=1",),
    "own data, alpha 3": ("algo.alpha=3",),
    "own data, alpha learned from 3": ("algo.alpha=3", "algo.learn_temperature=true"),
    "own data, alpha learned, target entropy 0.2": (
        "algo.alpha=3",
        "algo.learn_temperature=true",
        "algo.target_entropy_fraction=0.2",
    ),
    "own data, alpha learned, target entropy 0.8": (
        "algo.alpha=3",
        "algo.learn_temperature=true",
        "algo.target_entropy_fraction=0.8",
    ),
    "own data, alpha 3, actor's lr 1e-2": ("algo.alpha=3", "algo.actor_lr=1e-2"),
    "own data, alpha 3, message noise 100": ("algo.alpha=3", "algo.message_noise=100"),
    "own data, greedy with epsilon 0.2": (
        "algo.behaviour=epsilon_greedy",
        "algo.epsilon_start=0.2",
        "algo.epsilon_finish=0.2",
    ),
    "EXTENSION: overestimates weigh 0.5": (*UNIFORM, "algo.overestimate_weight=0.5"),
    "EXTENSION: overestimates weigh 0.1": (*UNIFORM, "algo.overestimate_weight=0.1"),
    "EXTENSION: 0.1, own data, alpha 1": ("algo.alpha=1", "algo.overestimate_weight=0.1"),
}


def member(label: str, folder: Path, seeds: int, steps: int) -> Member:
    """The run of one line."""
    rates = ",".join(f"{rate:g}" for rate in RATES)
    name = "".join(letter if letter.isalnum() else "_" for letter in label)
    algo = next((word.removeprefix("algo.name=") for word in LINES[label] if word.startswith("algo.name=")), "lsf_sac")
    words = [word for word in (*BASE, *LINES[label]) if not word.startswith("algo.name=")]
    place = [f"train.run_dir={folder}", f"train.name={name}"]
    sizes = [f"train.seeds={seeds}", f"train.env_steps={steps}", f"algo.lr={rates}"]
    path = config_folder() / "preset" / "matrix.yaml"
    preset = yaml12.parse(path.read_text(encoding="utf-8"), path.name)
    known = vars(compose(algo=algo).algo)
    own = [f"algo.{key}={value}" for key, value in preset["algo"].items() if key in known]
    host = [f"train.{key}={value}" for key, value in preset["train"].items()]
    words = [
        word for word in words if not word.startswith("algo.") or word.split("=")[0].removeprefix("algo.") in known
    ]
    config = compose(algo=algo, env="matrix_game", overrides=[*own, *host, *words, *sizes, *place])
    return Member(algo=algo, env="matrix_game", config=config)


def shares(path: Path) -> list[dict[str, float]]:
    """Of every learning rate, the share of actors and of critics at (A, A), and the mean error of Q_tot."""
    run = load_run(path)
    final = run.evaluation["final"]
    points = []
    for point in range(len(grid_labels(run))):
        rows = final & (run.evaluation["grid"] == point)
        columns = {"actor": "optimal", "critic": "critic_optimal", "error": "q_error"}
        values = {name: float(run.evaluation[column][rows].astype(float).mean()) for name, column in columns.items()}
        points.append(values | {"seeds": int(rows.sum())})
    return points


def plot(table: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Two heat maps side by side, actors and critics: a line for each setting, a column for each learning rate."""
    figure = Figure(figsize=(8.0, 1.2 + 0.28 * len(table)), dpi=150, layout="constrained")
    seeds = max(point["seeds"] for points in table.values() for point in points)
    for axes, what in zip(figure.subplots(1, 2, sharey=True), ("actor", "critic"), strict=True):
        values = np.array([[point[what] for point in points] for points in table.values()])
        axes.imshow(values, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
        for (line, column), value in np.ndenumerate(values):
            colour = "black" if value > 0.6 else "white"
            axes.text(column, line, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
        axes.set_yticks(range(len(table)), list(table), fontsize=7)
        axes.set_xlabel("learning rate of the critic")
        axes.set_title(f"% of {seeds} seeds: {what} at (A, A)", fontsize=9)
    save(figure, path)


def markdown(table: dict[str, list[dict[str, float]]]) -> str:
    """The map as a Markdown table: actors / critics in percent."""
    lines = ["| setting | " + " | ".join(f"lr {rate:g}" for rate in RATES) + " |", "|---" * (len(RATES) + 1) + "|"]
    for label, points in table.items():
        cells = [f"{100 * point['actor']:.0f} / {100 * point['critic']:.0f}" for point in points]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def earlier(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of the map that a folder holds already; those that are run take their places.

    Raises:
      ConfigError: the file is no such map.
    """
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {label: table[label] for label in LINES if label in table}
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a map of this script ({error}); move it away or give another --folder"
        ) from None


def main(arguments: argparse.Namespace) -> int:
    """Run the lines one after another; the map is written anew after each."""
    for label in arguments.line:
        if label not in LINES:
            raise ConfigError(f"--line is {label!r}; expected one of: {', '.join(LINES)}")
    folder = Path(arguments.folder)
    table = earlier(folder / "optimum_map.json")
    lines = arguments.line or list(LINES)
    for number, label in enumerate(lines, 1):
        print(f"[{number}] {label}", flush=True)
        run = member(label, folder / "runs", arguments.seeds, arguments.env_steps)
        result = run_member(run)
        if result and not result.finished:
            return 130
        table[label] = shares(run.path)
        print(markdown({label: table[label]}), flush=True)
        table = {name: table[name] for name in LINES if name in table}
        (folder / "optimum_map.md").write_text(markdown(table), encoding="utf-8")
        (folder / "optimum_map.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
        plot(table, folder / "optimum_map.png")
        if result and result.stopped and number < len(lines):  # in the line's last chunk: what it found is kept
            return 130
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=32, help="seeds of each cell (default 32)")
    parser.add_argument("--env-steps", type=int, default=40_240, help="env steps, that is episodes, of each seed")
    parser.add_argument("--line", action="append", default=[], help="only this line of the map; repeatable")
    parser.add_argument("--folder", default="runs/optimum_map", help="folder of runs and results; its map is completed")
    try:
        raise SystemExit(main(parser.parse_args()))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
