"""Runs in the hands of people: loaded, shown in a notebook, turned into xarray, pandas, policies or marl-eval's JSON.

runs = lsf_jax.load_runs("runs/*")
runs.to_frame().groupby("algo.name")["return"].median()
runs[0].to_xarray()["return"].median("seed").plot()
"""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lsf_jax.analysis import labelled, marl_eval, playback, showing
from lsf_jax.analysis.records import RunRecord, read_record
from lsf_jax.runs import folder
from lsf_jax.runs.safe_files import RunFolderError
from lsf_jax.settings import clip, user_path

if TYPE_CHECKING:
    import pandas
    import xarray


class Run(RunRecord):
    """A run folder read back: its configuration, card and tables, and what they can be turned into."""

    __slots__ = ()

    def to_xarray(self, table: str = "eval") -> "xarray.Dataset":
        """A table of the run as a dataset of dimensions point (of the grid), seed and step.

        Args:
          table: "eval" or "train".

        Returns:
          See `lsf_jax.analysis.labelled.dataset`.

        Raises:
          ConfigError: an unknown table, or xarray is not installed.
        """
        return labelled.dataset([self], table)

    def to_frame(self, table: str = "eval") -> "pandas.DataFrame":
        """A table of the run as a tidy frame, a row for each seed and moment, settings as columns.

        Args:
          table: "eval" or "train".

        Returns:
          See `lsf_jax.analysis.labelled.frame`.

        Raises:
          ConfigError: an unknown table, or pandas is not installed.
        """
        return labelled.frame([self], table)

    def to_marl_eval(self, path: str | Path) -> Path:
        """Writes the evaluations as JSON that marl-eval reads; see `lsf_jax.analysis.marl_eval.write_marl_eval`.

        Raises:
          ConfigError: the run is not finished, or the file cannot be written.
        """
        return marl_eval.write_marl_eval([self], path)

    def policies(self, overrides: Sequence[str] = ()) -> playback.Policies:
        """The trained policies of all rows; see `lsf_jax.load_policies`.

        Args:
          overrides: settings of the environment that may change, and code that the run names.

        Raises:
          ConfigError: the run is not finished, or its folder is damaged.
        """
        return playback.load_policies(self.path, overrides)

    def _repr_html_(self) -> str:
        return showing.run_html(self)


class Runs(tuple[Run, ...]):
    """Several runs; a tuple that can be turned into one frame."""

    __slots__ = ()

    def to_xarray(self, table: str = "eval") -> "xarray.Dataset":
        """A table of all runs as one dataset; their grid points follow each other along `point`.

        Args:
          table: "eval" or "train".

        Returns:
          See `lsf_jax.analysis.labelled.dataset`.

        Raises:
          ConfigError: an unknown table, or xarray is not installed.
        """
        return labelled.dataset(self, table)

    def to_frame(self, table: str = "eval") -> "pandas.DataFrame":
        """A table of all runs as one tidy frame; `run` is the folder's name.

        Args:
          table: "eval" or "train".

        Returns:
          See `lsf_jax.analysis.labelled.frame`.

        Raises:
          ConfigError: an unknown table, or pandas is not installed.
        """
        return labelled.frame(self, table)

    def to_marl_eval(self, path: str | Path) -> Path:
        """Writes the evaluations as JSON that marl-eval reads; see `lsf_jax.analysis.marl_eval.write_marl_eval`.

        Raises:
          ConfigError: a run is not finished, or the file cannot be written.
        """
        return marl_eval.write_marl_eval(self, path)

    def __repr__(self) -> str:
        return "\n".join([f"Runs, {len(self)}:", *(f"  {run!r}" for run in self)])

    def _repr_html_(self) -> str:
        return showing.runs_html(self)


def load_run(path: str | Path) -> Run:
    """Reads a run folder; the run may be unfinished, and its settings need not be those of today's code.

    Args:
      path: the folder that training printed at its end.

    Returns:
      The run, with only the rows that count.

    Raises:
      ConfigError: no run folder, or something in it is damaged; the file is named.
    """
    return Run(*read_record(path))


def load_runs(paths: str | Path | Iterable[str | Path]) -> Runs:
    """Reads several run folders.

    Args:
      paths: run folders, patterns such as "runs/qmix-*", or folders whose sub-folders are runs, such as a suite's; one
        of these or several.

    Returns:
      The runs, those of a pattern or a folder by name. What a pattern finds that is no run folder is left out.

    Raises:
      ConfigError: nothing was found, or a run folder is damaged; the file is named.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found = [folder_ for each in given for folder_ in _folders(each)]
    if not found:
        raise RunFolderError("paths is empty; expected run folders, or a pattern such as 'runs/*'")
    return Runs(load_run(path) for path in dict.fromkeys(found))


def _folders(given: str | Path) -> list[Path]:
    path = user_path("paths", given)
    if (path / folder.CONFIG).exists():
        return [path]
    is_pattern = glob.has_magic(str(path)) and not path.exists()
    candidates = (
        map(Path, glob.glob(str(path), recursive=True)) if is_pattern else path.iterdir() if path.is_dir() else ()
    )
    found = sorted(each for each in candidates if (each / folder.CONFIG).exists())
    if is_pattern and not found:
        raise RunFolderError(f"{clip(str(given), 200)} finds no run folder; give the path that training printed")
    return found or [path]  # which says what it lacks
