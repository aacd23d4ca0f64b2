"""Kept tables: what a run came to, small enough to be tracked, so that results outlive the machine that made them.

One file holds the seeds of one setting of one system: its configuration, the protocol in the words of the card, where
its seeds were trained, and the evaluation curve of each. What distinguishes seeds, budget, evaluation and machine is no
part of the setting, so that runs of other seeds join in; anything else makes another table.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from lsf_jax.analysis.compare import IRRELEVANT
from lsf_jax.analysis.frames import Run, load_run
from lsf_jax.analysis.records import grid_of
from lsf_jax.config import yaml12
from lsf_jax.config.composition import Config, flat_settings, from_yaml, grid_points
from lsf_jax.config.documents import to_yaml
from lsf_jax.runs import safe_files
from lsf_jax.runs.folder import read_run
from lsf_jax.runs.safe_files import RunFolderError, write_output
from lsf_jax.runs.schemas import LARGEST_CONFIG, problem_of
from lsf_jax.settings import ConfigError

OF_THE_SEED = (
    *("train.seeds", "train.seed", "train.env_steps", "train.evaluate_every", "train.eval_episodes"),
    *("train.eval_stochastic", "train.checkpoint_minutes", "train.chunk_seconds", "train.log_every"),
    *("train.block", "train.micro_batch", "train.lengths", "train.deterministic"),
)
"""Settings that say how many, how long, how it is looked at and in which bits, not what is learned from what."""
MOST_POINTS = 200
"""Points of a seed's curve that are kept."""
REPORT, SEARCH = "report", "search"
"""What a seed was trained for: to be reported, or to choose a setting by."""
ENVIRONMENT = "environment"
"""Beside the settings: the environment with its version."""

TOLD_ELSEWHERE = ("algo.", "env.", "seeds", "budget", "evaluation")
"""Items of a card that are in the configuration or belong to single seeds."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The run that seeds come from."""

    commit: str  # of the code; "" where it is not known
    dirty: bool  # whether the checkout had changes of its own
    date: str  # UTC
    device: str
    versions: dict[str, str]
    budget: Count  # env steps that each seed was given
    evaluate_every: Count
    eval_episodes: Count
    seconds: float  # of the devices, for each seed


class KeptSeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A seed with its evaluations."""

    root: Count  # train.seed
    number: Count
    purpose: Literal["report", "search"]
    origin: Count  # index of its `Origin`
    updates: Count
    env_steps: tuple[Count, ...]
    values: dict[str, tuple[float | None, ...]]  # metric -> one for each evaluation; None where it is not finite

    @property
    def name(self) -> tuple[int, int]:
        """What tells seeds of one setting apart."""
        return self.root, self.number


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The seeds of one setting."""

    config: dict[str, Any]  # sections algo, env and train
    environment: str  # "predator_prey version 2"
    card: dict[str, str]  # the protocol, as the card words it
    origins: tuple[Origin, ...]
    seeds: tuple[KeptSeed, ...]
    path: str = ""  # where it was read from


def setting_of(config: Config, environment: str) -> dict[str, Any]:
    """What makes results comparable: every setting but those of the seed and of the place, and the environment."""
    free = {*IRRELEVANT, *OF_THE_SEED}
    settings = {key: value for key, value in flat_settings(config).items() if key not in free}
    return {ENVIRONMENT: environment} | settings


def config_of(table: Table) -> Config:
    """The configuration of a table, as today's code reads it.

    Raises:
      ConfigError: it does not know a setting.
    """
    return from_yaml(yaml12.dump(table.config), table.path or "a kept table")


def tables_of(path: str | Path, metrics: Sequence[str], purpose: str = REPORT) -> list[Table]:
    """The tables of a run, finished or not: one for each point of its grid, without seeds that are not evaluated yet.

    Args:
      path: the run folder.
      metrics: columns of the evaluations to keep, where the run has them.
      purpose: `REPORT` or `SEARCH`.

    Raises:
      ConfigError: it is no run folder, or it is damaged.
    """
    run = load_run(path)
    config, card = read_run(Path(path))
    setup = card.get("setup", {})
    environment = setup.get(ENVIRONMENT, f"{config.env_name} version 1")
    digest = {key: value for key, value in setup.items() if not key.startswith(TOLD_ELSEWHERE)}
    tables = []
    for grid, point in enumerate(grid_points(config)):
        algo = dataclasses.replace(config.algo, **point)
        seeds = _seeds(run, config, grid, metrics, purpose)
        tables.append(
            Table(
                config=_plain(dataclasses.replace(config, algo=algo, grid=(), paired=False)),
                environment=environment,
                card=digest,
                origins=(_origin(config, card),),
                seeds=seeds,
            )
        )
    return tables


def _plain(config: Config) -> dict[str, Any]:
    """A configuration's sections without what is no part of the setting."""
    content = yaml12.parse(to_yaml(config), "the configuration")
    free = {*IRRELEVANT, *OF_THE_SEED}
    return {
        section: {key: value for key, value in lines.items() if f"{section}.{key}" not in free}
        if isinstance(lines, dict)
        else lines
        for section, lines in content.items()
    }


def _origin(config: Config, card: dict[str, Any]) -> Origin:
    git, timing, layout = (card.get(part) or {} for part in ("git", "timing", "layout"))
    rows = config.train.seeds * len(grid_points(config))
    seconds = float(timing.get("total_seconds", 0.0)) * int(layout.get("n_devices", 1)) / rows
    devices = card.get("devices") or {}
    kind = str(devices.get("kind", ""))
    return Origin(
        commit=str(git.get("commit", "")),
        dirty=bool(git.get("dirty", False)),
        date=str(card.get("date_utc", "")),
        device=str((card.get("cpu") or {}).get("model", kind)) if kind == "cpu" else kind,
        versions={name: str((card.get("versions") or {}).get(name, "")) for name in ("lsf-jax", "jax")},
        budget=config.train.env_steps,
        evaluate_every=config.train.evaluate_every,
        eval_episodes=config.train.eval_episodes,
        seconds=round(seconds, 1),
    )


def _seeds(run: Run, config: Config, grid: int, metrics: Sequence[str], purpose: str) -> tuple[KeptSeed, ...]:
    table = run.evaluation
    if not table:
        return ()
    here = grid_of(run, table) == grid
    return tuple(
        _seed({name: values[here & (table["row"] == row)] for name, values in table.items()}, config, metrics, purpose)
        for row in np.unique(table["row"][here])
    )


def _seed(columns: dict[str, np.ndarray], config: Config, metrics: Sequence[str], purpose: str) -> KeptSeed:
    order = np.argsort(columns["env_steps"], kind="stable")
    steps = columns["env_steps"][order]
    last = np.append(np.diff(steps) > 0, True)  # of two evaluations at one step the later, the final one
    order, steps = order[last], steps[last]
    kept = _thinned(steps.size)
    names = [name for name in metrics if name in columns and columns[name].ndim == 1]
    return KeptSeed(
        root=config.train.seed,
        number=int(columns["seed"][0]),
        purpose=SEARCH if purpose == SEARCH else REPORT,
        origin=0,
        updates=int(columns["updates"].max()) if "updates" in columns else 0,
        env_steps=tuple(int(step) for step in steps[kept]),
        values={name: tuple(_short(value) for value in columns[name][order][kept]) for name in names},
    )


def _thinned(size: int) -> np.ndarray:
    """Indices of at most `MOST_POINTS` points, the last one among them."""
    return np.unique(np.linspace(0, size - 1, min(size, MOST_POINTS)).round().astype(int))


def _short(value: Any) -> float | None:
    number = float(value)
    return float(f"{number:.5g}") if math.isfinite(number) else None


def merged(tables: Iterable[Table]) -> Table:
    """Tables of one setting as one: of a seed that several have, the longest; a search seed stays one.

    Args:
      tables: at least one.
    """
    tables = list(tables)
    origins: list[Origin] = []
    best: dict[tuple[int, int], KeptSeed] = {}
    for table in tables:
        for seed in table.seeds:
            origin = table.origins[seed.origin]
            if origin not in origins:
                origins.append(origin)
            seed = msgspec.structs.replace(seed, origin=origins.index(origin))
            other = best.get(seed.name)
            longest = other if other and other.env_steps[-1:] > seed.env_steps[-1:] else seed
            purpose = SEARCH if other and SEARCH in (seed.purpose, other.purpose) else seed.purpose
            best[seed.name] = msgspec.structs.replace(longest, purpose=purpose)
    used = sorted({seed.origin for seed in best.values()})
    seeds = [msgspec.structs.replace(seed, origin=used.index(seed.origin)) for seed in best.values()]
    return msgspec.structs.replace(
        tables[0],
        origins=tuple(origins[index] for index in used),
        seeds=tuple(sorted(seeds, key=lambda seed: seed.name)),
    )


def write_table(table: Table, path: Path) -> None:
    """Write a table as JSON, one line for each seed.

    Raises:
      ConfigError: it cannot be written there.
    """
    content = msgspec.to_builtins(msgspec.structs.replace(table, path=""))
    del content["path"]
    seeds = content.pop("seeds")
    head = json.dumps(content, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = ",\n  ".join(json.dumps(seed, separators=(",", ":")) for seed in seeds)
    write_output(path, f'{head},\n "seeds": [\n  {lines}\n ]\n}}\n'.encode())


def read_table(path: Path) -> Table:
    """A table that `write_table` wrote.

    Raises:
      ConfigError: it is damaged; one line that names file and place.
    """
    try:
        content = json.loads(safe_files.read_bytes(path, LARGEST_CONFIG).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); expected a kept table") from None
    except RunFolderError as error:
        raise ConfigError(str(error)) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is damaged: no JSON; restore it from a copy") from None
    problem = problem_of(content, Table)
    if problem:
        raise ConfigError(f"{path} is damaged: {problem}; restore it from a copy")
    made = msgspec.convert(content | {"path": str(path)}, Table)
    problem = _contradiction(made)
    if problem:
        raise ConfigError(f"{path} is damaged: {problem}; restore it from a copy")
    config_of(made)  # complains of what today's code does not know
    return made


def _contradiction(table: Table) -> str:
    """What is wrong with a table beyond the form of its parts, "" for nothing."""
    if len({seed.name for seed in table.seeds}) < len(table.seeds):
        return "a seed is there twice"
    for seed in table.seeds:
        where = f"seed {seed.number} of root {seed.root}"
        if seed.origin >= len(table.origins):
            return f"{where} is of origin {seed.origin}, of which there are {len(table.origins)}"
        if not seed.env_steps or list(seed.env_steps) != sorted(set(seed.env_steps)):
            return f"env_steps of {where} do not ascend"
        if any(len(values) != len(seed.env_steps) for values in seed.values.values()):
            return f"{where} does not have a value for each of its env_steps"
    return ""


def read_tables(folder: Path) -> list[Table]:
    """All tables of a folder; none where there is no folder.

    Raises:
      ConfigError: one of them is damaged.
    """
    return [read_table(path) for path in sorted(folder.glob("*.json"), key=lambda path: path.stem)]


def keep(table: Table, folder: Path, name: str, setting: dict[str, Any]) -> Path:
    """Merge a table into a folder: into the one of its setting, else into a new file.

    Args:
      table: what to keep.
      folder: of a figure's tables.
      name: of a new file, without ".json"; a number follows it where that name is taken.
      setting: the table's `setting_of`.

    Returns:
      The file.
    """
    stem = re.sub(r"[^\w.=-]+", "_", name)
    for other in read_tables(folder):
        if setting_of(config_of(other), other.environment) == setting:
            write_table(merged([other, table]), Path(other.path))
            return Path(other.path)
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
    path = next(path for path in (folder / f"{each}.json" for each in names) if not path.exists())
    write_table(merged([table]), path)
    return path
