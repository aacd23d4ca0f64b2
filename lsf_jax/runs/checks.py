"""Whether a run folder can be gone on with: everything that can be seen before training, so that nothing shows after.

A folder may be damaged, edited, made by another version or by somebody else. Its configuration is that of its
checkpoints: each holds a copy, and what differs from it outside the settings that a resumed run may change is refused.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lsf_jax.config.composition import Config, differences, from_yaml, grid_points, make_hosted
from lsf_jax.runs import checkpoint, folder, policy_files, tables, warm_start
from lsf_jax.runs.manifest import MANIFEST, CheckpointError, SaveError, one_line
from lsf_jax.runs.safe_files import RunFolderError, file_inside, folder_inside
from lsf_jax.runs.schemas import BlockMeta, Layout
from lsf_jax.runs.session import STAYING
from lsf_jax.settings import ConfigError
from lsf_jax.types import TrainState


def check_games(config: Config) -> None:
    """Of games on the host, whether what they need is there.

    Raises:
      HostError: it is not.
    """
    hosted = make_hosted(config)
    if hosted is not None:
        hosted.check()


def check_room(config: Config, width: int) -> None:
    """Whether games on the host of so many rows can be played side by side.

    Raises:
      HostError: they cannot.
    """
    hosted = make_hosted(config)
    if hosted is not None:
        hosted.room(width * config.train.n_envs)


def check_layout(path: Path, config: Config, card: dict[str, Any]) -> Layout:
    """The cut of a run into blocks, as its card tells it, if it is one of that configuration.

    Args:
      path: the run folder.
      config: its configuration.
      card: the content of its card.

    Raises:
      RunFolderError: they do not belong together.
    """
    layout = folder.read_layout(path, card)
    rows, block = config.train.seeds * len(grid_points(config)), config.train.block
    batch, micro = config.algo.batch_size, config.train.micro_batch
    wrong = {
        "n_devices": layout.n_devices > rows,
        "width": layout.width != block if block else layout.width > rows,
        "n_blocks": layout.n_blocks != math.ceil(rows / (layout.width * layout.n_devices)),
        "micro_batch": batch % layout.micro_batch != 0 or micro not in (0, layout.micro_batch),
    }
    key = next((key for key, is_wrong in wrong.items() if is_wrong), None)
    if key is not None:
        raise RunFolderError(
            f"{path / folder.CARD} does not fit {folder.CONFIG}: layout.{key} is {getattr(layout, key)}, with {rows} "
            f"row(s), train.block {block} and batches of {batch}; restore both from a copy"
        )
    return layout


def check_places(path: Path, config: Config, layout: Layout) -> None:
    """Check that a run can write whatever it will write, at the places where it will.

    Args:
      path: the run folder.
      config: its configuration.
      layout: its cut into blocks.

    Raises:
      RunFolderError: a link, a pipe or the like is at one of the places, or blocks of another run are there.
    """
    for name in (folder.CONFIG, folder.CARD, folder.CARD_TEXT, folder.CURVES):
        file_inside(path, name)
    file_inside(path, warm_start.FILE)
    for name in config.train.sinks:
        folder_inside(path, name)
    for table in STAYING:
        tables.part_paths(path, table)
    for index in range(layout.n_blocks):
        checkpoint.block_folder(path, index)
        policy_files.policy_path(path, index)
    beyond = [index for index in _blocks_in(path) if index >= layout.n_blocks]
    if beyond:
        raise RunFolderError(
            f"{checkpoint.block_folder(path, beyond[0])} is of another run: this one has {layout.n_blocks} block(s); "
            "move it away"
        )


def _blocks_in(path: Path) -> list[int]:
    """Which blocks have a folder for their checkpoints."""
    numbers = [found.name.removeprefix("block-") for found in folder_inside(path, "checkpoints").glob("block-*")]
    return sorted(int(number) for number in numbers if re.fullmatch(r"[0-9]{4}|[1-9][0-9]{4,9}", number))


def check_copies(path: Path, config: Config) -> dict[int, BlockMeta]:
    """Hold a configuration against the copies that the checkpoints of a run have of theirs.

    A folder whose checkpoints have none (they do since the first version) is judged by the arrays alone.

    Args:
      path: the run folder.
      config: what is to be trained on.

    Returns:
      What was saved with the checkpoint of each block that has one.

    Raises:
      ConfigError: a setting differs that a resumed run may not change, or the budget is one whose parameters are gone;
        the message names the key and both values.
      CheckpointError: a manifest is damaged or foreign.
    """
    found = {}
    for index in _blocks_in(path):
        meta = checkpoint.read_block(path, index)
        if meta is None:
            continue
        found[index], source = meta, _manifest(path, index)
        if meta.config is not None:
            trained = from_yaml(meta.config, str(source))
            _check_copy(path, config, trained, source)
            _check_budget(path, config.train.env_steps, trained, meta)
    return found


def _check_copy(path: Path, config: Config, trained: Config, source: Path) -> None:
    changed = differences(trained, config)
    if changed:
        raise ConfigError(
            f"{path / folder.CONFIG} is not what this run was trained with: {changed[0]}, as {source} has it on "
            "record; set that back to resume, or start a new run"
        )


def _check_budget(path: Path, budget: int, trained: Config, meta: BlockMeta) -> None:
    """A seed goes on until the last of its block is done; its parameters at a budget in between are gone."""
    before, furthest = trained.train.env_steps, max(meta.env_steps)
    if budget != before and budget <= furthest:
        raise ConfigError(
            f"train.env_steps is {budget}; expected {before}, or more than {furthest}: a seed of {path} went on "
            f"to there, and its parameters at {budget} were not kept"
        )


def check_rows(path: Path, config: Config, layout: Layout, metas: dict[int, BlockMeta]) -> None:
    """Check that the checkpoints of a run are of its blocks as its card has them.

    Args:
      path: the run folder.
      config: its configuration.
      layout: its cut into blocks, from `check_layout`.
      metas: from `check_copies`.

    Raises:
      RunFolderError: the layout was another one.
      CheckpointError: a checkpoint has another number of rows.
    """
    width, rows = layout.width * layout.n_devices, config.train.seeds * len(grid_points(config))
    for index, meta in metas.items():
        source, expected = _manifest(path, index), min(width, rows - index * width)
        if meta.layout not in (None, layout):
            raise RunFolderError(f"{path / folder.CARD} has another layout than {source}; restore it from a copy")
        if len(meta.env_steps) != expected:
            raise CheckpointError(
                f"{source} is damaged or foreign: it is of {len(meta.env_steps)} rows; expected {expected}"
            )


def _manifest(path: Path, index: int) -> Path:
    return checkpoint.newest(checkpoint.block_folder(path, index)) / MANIFEST


def check_state(path: Path, config: Config, layout: Layout, like: TrainState, metas: dict[int, BlockMeta]) -> None:
    """Check the arrays' files of all checkpoints and every part of the tables that will stay.

    Args:
      path: the run folder.
      config: its configuration; a block that has reached its budget keeps all its rows.
      layout: the run's cut into blocks.
      like: the structure of a block's state.
      metas: from `check_copies`.

    Raises:
      CheckpointError: a checkpoint is damaged, cut short, foreign, or of another version; nothing was changed.
      RunFolderError: a part is.
    """
    width, points = layout.width * layout.n_devices, len(grid_points(config))
    for index, meta in metas.items():
        block = checkpoint.block_folder(path, index)
        checkpoint.examine(block, like)
        iteration = checkpoint.read_meta(block)[0]
        rows = range(config.train.seeds * points)[index * width :][:width]
        limits = {"row": rows, "grid": range(points)}
        for table, more in STAYING.items():
            before = None if meta.finished_budget == config.train.env_steps else iteration + more
            needed = ("final",) if table == "eval" else ()
            tables.check_parts(path, table, index, before, columns=needed, limits=limits)


@contextlib.contextmanager
def saying_how_to_go_on(path: Path) -> Iterator[None]:
    """Turn a full or failing disk into one line that says how to go on with the run.

    Args:
      path: the run folder.

    Raises:
      RunFolderError: for an OSError or a checkpoint that could not be written inside the `with` block.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, SaveError) as error:
        what, where = one_line(error), ""
        if isinstance(error, OSError) and error.strerror:
            what, where = error.strerror, f" at {error.filename}" if error.filename else ""
        raise RunFolderError(
            f"run {path} cannot be written to: {what}{where}; what was saved before stands: make room or mend "
            f"the disk, then continue with `lsf-jax resume {path}`"
        ) from error
