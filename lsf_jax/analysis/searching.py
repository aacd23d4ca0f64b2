"""Optuna in batches: a batch of points is asked for, trained as one program, and told.

The study lies in the folder, beside one run for each batch. All that a later process needs is in these: which trials
belong to which batch stands with the trials, what a batch came to in its run.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

import numpy as np

from lsf_jax.analysis.frames import Run, load_run
from lsf_jax.analysis.labelled import require
from lsf_jax.analysis.statistics import final_values
from lsf_jax.config.composition import Config, check, differences, from_yaml
from lsf_jax.config.documents import to_yaml
from lsf_jax.config.sweeps import annotation_of, check_key, swept_over
from lsf_jax.programs.shared import Shared
from lsf_jax.runs import ensuring, experiment, folder
from lsf_jax.runs.safe_files import file_inside
from lsf_jax.settings import ConfigError, clip, user_path

if TYPE_CHECKING:
    import optuna
    import xarray

STORAGE = "optuna.log"
"""The study in its folder: a journal of Optuna's, which its dashboard reads too."""
DIRECTIONS = ("maximize", "minimize")
_BATCH, _POINT, _CONFIG = "batch", "point", "config"
"""Attributes of trials, which batch and which of its points they are, and of the study, what it varies."""
_FORMS = 'expected (low, high), (low, high, "log"), a list of values, or a distribution of Optuna\'s'

Objective: TypeAlias = Union[str, Callable[["xarray.Dataset"], Any]]  # noqa: UP007 - the name is not there yet
"""A metric of the final evaluation, or a function of the evaluations of one point."""


class Optimized(NamedTuple):
    """What a search came to."""

    path: Path  # its folder; each batch is a run in it: `lsf_jax.load_runs(path)`
    study: "optuna.Study"
    finished: bool  # False after Ctrl-C: the same call goes on

    @property
    def best(self) -> list[str]:
        """The best point, as overrides for `compose`; empty before any is complete."""
        done = [trial for trial in self.study.trials if trial.state.name == "COMPLETE"]
        return [f"{key}={value!r}" for key, value in self.study.best_params.items()] if done else []

    def __repr__(self) -> str:
        counts = [trial.state.name.lower() for trial in self.study.trials]
        told = ", ".join(f"{counts.count(state)} {state}" for state in dict.fromkeys(sorted(counts)))
        best = f"; best {self.study.best_value:.4g} at {' '.join(self.best)}" if self.best else ""
        end = "" if self.finished else "; stopped: the same call goes on"
        return f"Optimized({self.path}: {told or 'no trials'}{best}{end})"


def optimize(
    config: Config,
    space: Mapping[str, Any],
    objective: Objective = "return",
    trials: int = 100,
    batch: int = 32,
    *,
    direction: str = "maximize",
    sampler: "optuna.samplers.BaseSampler | None" = None,
) -> Optimized:
    """Search hyper-parameters with Optuna, a batch of points at a time: asked for, trained as one program, told.

    The folder `train.run_dir`/`train.name` holds the study, and each batch as a run with all its seeds. The same call
    again goes on where it was stopped, or with more `trials` further.

    A point at which a seed's loss became non-finite is told as pruned, which Optuna's TPE counts among the worst; one
    whose objective is not finite as failed.

    Args:
      config: from `compose`, without a grid; every point gets its `train.seeds`.
      space: dotted key of a number of the algorithm -> (low, high), (low, high, "log"), a list of values to choose
        from, or one of Optuna's distributions. Of a setting that is a whole number the range is of whole numbers.
      objective: a metric of the final evaluation, whose mean over seeds counts; or a function of the evaluations of one
        point (an `xarray.Dataset` of dimensions seed and step), such as
        `lambda point: point["return"].isel(step=-1).median()`.
      trials: points in all.
      batch: points trained side by side; a sampler sees results only between batches.
      direction: "maximize" or "minimize".
      sampler: of Optuna's; None is TPE that knows which points are being trained, seeded from `train.seed` anew for
        each batch: a study that was stopped proposes what it would have.

    Returns:
      Folder, study, and whether all trials are done.

    Raises:
      ConfigError: a space, an objective or a number that cannot be; Optuna is not installed; the folder holds another
        search; and as for `lsf_jax.train`.
    """
    for name, number in (("trials", trials), ("batch", batch)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(f"{name} is {number!r}; expected a whole number >= 1")
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction is {direction!r}; expected one of {', '.join(DIRECTIONS)}")
    if not isinstance(objective, str) and not callable(objective):
        raise ConfigError(f"objective is {objective!r}; expected the name of a metric, or a function of a dataset")
    check(config)
    require("optuna", "optuna")
    if callable(objective):
        require("xarray")
    distributions = distributions_of(config, space)
    path = _folder(config)
    with folder.lock(path):
        study, shared = _opened(path, config, direction), Shared()
        _check_space(study, distributions)
        while points := _asked(study, distributions, trials, batch, sampler, config.train.seed):
            result = _train(path, config, points, shared)
            if result is not None and not result.finished:
                return Optimized(path, study, finished=False)
            _tell(study, points, load_run(_run_folder(path, points)), objective)
            if result is not None and result.stopped:
                return Optimized(path, study, finished=len(study.trials) >= trials)
    return Optimized(path, study, finished=True)


def distributions_of(config: Config, space: Mapping[str, Any]) -> dict[str, "optuna.distributions.BaseDistribution"]:
    """Optuna's distributions of a search space.

    Args:
      config: whose algorithm is searched.
      space: as for `optimize`.

    Raises:
      ConfigError: it is empty, a key cannot be swept, or a range or a choice is none.
    """
    from optuna import distributions

    if not isinstance(space, Mapping) or not space:
        raise ConfigError(
            f"space is {space!r}; {_FORMS} of at least one key, such as {{'algo.lr': (1e-4, 1e-2, 'log')}}"
        )
    swept_over(config, {}, paired=True)  # which refuses a grid
    found = {}
    for key, given in space.items():
        check_key(config, key)
        if isinstance(given, distributions.BaseDistribution):
            made: Any = given
        elif isinstance(given, list) and given:
            made = distributions.CategoricalDistribution(given)
        else:
            made = _ranged(key, given, annotation_of(config, key))
        ends = list(made.choices) if isinstance(made, distributions.CategoricalDistribution) else [made.low, made.high]
        swept_over(config, {key: ends if ends[0] != ends[-1] else ends[:1]})  # each must be allowed
        found[key] = made
    return found


def _ranged(key: str, given: Any, annotation: Any) -> "optuna.distributions.BaseDistribution":
    """A range between two numbers, whole ones for a setting that is."""
    from optuna import distributions

    listed: tuple[Any, ...] = given if isinstance(given, tuple) else ()
    ends, more = listed[:2], listed[2:]
    if len(ends) < 2 or not all(map(_is_number, ends)) or more not in ((), ("log",)):
        raise ConfigError(f"space of {key} is {clip(repr(given))}; {_FORMS}")
    low, high = ends
    if not low < high or (more and low <= 0):
        above = " above 0" if more else ""
        raise ConfigError(f"space of {key} is {clip(repr(given))}; expected low < high{above}")
    is_whole = annotation is int and all(float(end).is_integer() for end in ends)
    made = distributions.IntDistribution if is_whole else distributions.FloatDistribution
    return made(low, high, log=bool(more))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def _folder(config: Config) -> Path:
    """The folder of a search, made if it is new.

    Raises:
      RunFolderError: there is something else, or it cannot be made.
    """
    train = config.train
    where = config.where.replace("/", "_")
    name = train.name or f"optimize-{config.algo_name}-{where}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = user_path("train.run_dir", train.run_dir) / name
    return path if (path / STORAGE).exists() else folder.create(train.run_dir, name)


def _opened(path: Path, config: Config, direction: Any) -> "optuna.Study":
    """The study of a folder, new or as it was left.

    Raises:
      ConfigError: it is of another search.
    """
    from optuna import create_study, logging
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # it would tell that the study is there
    try:
        storage = JournalStorage(JournalFileBackend(str(file_inside(path, STORAGE))))
        study = create_study(storage=storage, study_name=path.name, direction=direction, load_if_exists=True)
    finally:
        logging.set_verbosity(before)
    if study.direction.name.lower() != direction:
        raise ConfigError(f"direction is {direction}; expected {study.direction.name.lower()}, as {path} has it")
    if _CONFIG not in study.user_attrs:
        study.set_user_attr(_CONFIG, to_yaml(config))
    changed = differences(from_yaml(study.user_attrs[_CONFIG], str(path / STORAGE)), config)
    if changed:
        raise ConfigError(
            f"search {path} cannot go on with {changed[0]}; leave that alone, or choose another train.name"
        )
    return study


def _check_space(study: "optuna.Study", space: Mapping[str, Any]) -> None:
    """Nothing, where Optuna takes a space for trials beside those that there are: lists of choices stay as they are.

    Raises:
      ConfigError: it does not.
    """
    from optuna.distributions import check_distribution_compatibility

    before = {key: kind for trial in study.trials for key, kind in trial.distributions.items()}
    for key in before.keys() & space.keys():
        try:
            check_distribution_compatibility(before[key], space[key])
        except ValueError as error:
            raise ConfigError(f"space of {key} is another kind than this search began with: {error}") from None


def _asked(
    study: "optuna.Study",
    distributions: dict[str, Any],
    trials: int,
    batch: int,
    sampler: "optuna.samplers.BaseSampler | None",
    seed: int,
) -> list["optuna.trial.FrozenTrial"]:
    """The trials of the batch that is next: one that was begun, else one that is asked for; none when all are done."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if _POINT in trial.user_attrs:
            return _batch_of(study, trial.user_attrs[_BATCH])
        study.tell(trial.number, state=TrialState.FAIL)  # a process ended while it was asking
    done = len(study.trials)
    if done >= trials:
        return []
    index = 1 + max((trial.user_attrs.get(_BATCH, -1) for trial in study.trials), default=-1)
    study.sampler = sampler or _tpe([seed, done])
    for point in range(min(batch, trials - done)):
        trial = study.ask(distributions)
        trial.set_user_attr(_BATCH, index)
        trial.set_user_attr(_POINT, point)
    return _batch_of(study, index)


def _batch_of(study: "optuna.Study", index: int) -> list["optuna.trial.FrozenTrial"]:
    """The trials of a batch, told or not, in the order of its run's points."""
    mine = [trial for trial in study.trials if trial.user_attrs.get(_BATCH) == index and _POINT in trial.user_attrs]
    return sorted(mine, key=lambda trial: trial.user_attrs[_POINT])


def _tpe(seed: Sequence[int]) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that `constant_liar` is experimental
        return TPESampler(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]), constant_liar=True)


def _run_folder(path: Path, points: Sequence["optuna.trial.FrozenTrial"]) -> Path:
    return path / f"batch-{points[0].user_attrs[_BATCH]:04d}"


def _train(
    path: Path, config: Config, points: Sequence["optuna.trial.FrozenTrial"], shared: Shared
) -> experiment.Result | None:
    """Train, or go on with, the run of a batch; None where it is finished."""
    target = _run_folder(path, points)
    block = config.train.block or _block_of(path)
    train = replace(config.train, run_dir=str(path), name=target.name, block=block)
    values = {key: [trial.params[key] for trial in points] for key in points[0].params}
    return ensuring.ensure(target, swept_over(replace(config, train=train), values, paired=True), shared)


def _block_of(path: Path) -> int:
    """The width that the first batch was given: a last one that is smaller is then the same program."""
    first = path / "batch-0000"
    return folder.read_run(first)[0].train.block if (first / folder.CONFIG).exists() else 0


def _tell(study: "optuna.Study", points: Sequence["optuna.trial.FrozenTrial"], run: Run, objective: Objective) -> None:
    """Tell those of a batch that have not been told."""
    from optuna.trial import TrialState

    seeds = run.config["train"]["seeds"]
    diverged = {entry["row"] // seeds for entry in run.card.get("nonfinite", [])}
    values = _values(run, objective, len(points))
    for place, trial in enumerate(points):
        if trial.state != TrialState.RUNNING:
            continue
        if place in diverged:
            study.tell(trial.number, state=TrialState.PRUNED)
        elif not np.isfinite(values[place]):
            study.tell(trial.number, state=TrialState.FAIL)
        else:
            study.tell(trial.number, values[place])


def _values(run: Run, objective: Objective, n_points: int) -> list[float]:
    """The objective at each point.

    Raises:
      ConfigError: the run has no such metric, or what the function returns is no number.
    """
    if isinstance(objective, str):
        return [_mean(final_values(run, objective, place)[1], objective) for place in range(n_points)]
    data = run.to_xarray()
    given = [objective(data.isel(point=place)) for place in range(n_points)]
    try:
        return [float(value) for value in given]
    except (TypeError, ValueError):
        raise ConfigError(f"objective returned {clip(repr(given[0]))}; expected one number for a point") from None


def _mean(values: np.ndarray, metric: str) -> float:
    if values.ndim != 1:
        raise ConfigError(
            f"objective is {metric}; expected a metric with one number per seed, it has {values.shape[1]}"
        )
    return float(values.astype(np.float64).mean())
