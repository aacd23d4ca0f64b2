"""What the documents of a run folder must look like, one schema for each kind of file; checked where it is read.

Only what the package itself relies on is declared: other entries are for people, and pass.
"""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from lsf_jax.config.grids import swept_in
from lsf_jax.runs import safe_files
from lsf_jax.runs.safe_files import RunFolderError

LARGEST_CARD, LARGEST_CONFIG = 64 * 2**20, 4 * 2**20
"""Bytes that the documents of a run may have; YAML is read slowly."""
MOST_POINTS = 1_000_000
"""Grid points that a run may have: far more than anyone trains, few enough to be counted."""

Schema = TypeVar("Schema")
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Layout(msgspec.Struct):
    """How a run is cut into blocks; its bits depend on it."""

    width: Size
    n_devices: Size
    n_blocks: Size
    micro_batch: Size


class Trouble(msgspec.Struct):
    """A row whose loss became non-finite."""

    row: Count
    seed: Count
    iteration: Count


class Card(msgspec.Struct):
    """`card.json`."""

    layout: dict[str, Any] | None = None  # a `Layout` for all that continues or plays; to read results none is needed
    setup: dict[str, str] = {}
    timing: dict[str, float] = {}
    nonfinite: list[Trouble] = []
    host: dict[str, dict[str, float]] = {}


class Sections(msgspec.Struct):
    """`config.yaml` as far as reading results needs it: its settings need not be those of today's code."""

    algo: dict[str, Any] = {}
    env: dict[str, Any] = {}
    train: dict[str, Any] = {}
    grid: dict[str, Annotated[list[float], msgspec.Meta(min_length=1)]] | None = None
    points: dict[str, Annotated[list[float], msgspec.Meta(min_length=1)]] | None = None


class FileEntry(msgspec.Struct):
    """A data file of a checkpoint."""

    bytes: Count
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Leaf(msgspec.Struct):
    """An array of a checkpoint, as `checkpoint.LeafRecord` describes it."""

    name: str
    dtype: str
    shape: list[Count]
    stored_shape: list[Count]
    key_impl: str | None


class Manifest(msgspec.Struct):
    """The body of a checkpoint's `manifest.json`."""

    step: Count
    meta: dict[str, Any]
    leaves: list[Leaf]
    files: dict[str, FileEntry]


class BlockMeta(msgspec.Struct):
    """What a run saves with a checkpoint of one of its blocks."""

    block: Count
    finished_budget: Count
    env_steps: Annotated[list[Count], msgspec.Meta(min_length=1)]
    updates: Count
    milestone: int = -1
    config: str | None = None  # the configuration that the block was trained with, as YAML
    layout: Layout | None = None


def problem_of(content: Any, schema: type) -> str | None:
    """What is wrong with plain data, or None where nothing is.

    Args:
      content: dictionaries, lists, text, numbers, truth values and None.
      schema: one of the classes above.

    Returns:
      For example "expected `int`, got `str` - at `layout.width`".
    """
    try:
        msgspec.convert(content, schema)
    except UnicodeError:
        return "text that is no Unicode"
    except (msgspec.ValidationError, RecursionError) as error:
        text = str(error).replace("`$.", "`").replace("`$[", "`[")
        return text[:1].lower() + text[1:]
    return None


def conform(content: Any, schema: type[Schema], path: Path) -> Schema:
    """Plain data as a record.

    Args:
      content: what was read.
      schema: one of the classes above.
      path: the file that it was read from.

    Raises:
      RunFolderError: something is missing or of another kind; the message names file, place and remedy.
    """
    problem = problem_of(content, schema)
    if problem is not None:
        raise RunFolderError(f"{path} is damaged: {problem}; restore it from a copy")
    return msgspec.convert(content, schema)


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run folder.

    Args:
      path: the file, from `safe_files.file_inside`.

    Raises:
      RunFolderError: it is no JSON; the message names the line where that can be said.
      OSError: it cannot be read.
    """
    try:
        content = json.loads(safe_files.read_bytes(path, LARGEST_CARD).decode("utf-8"))
        json.dumps(content, ensure_ascii=False).encode("utf-8")  # escapes may hold what is no text
        return content
    except UnicodeError:
        raise RunFolderError(f"{path} is damaged: no UTF-8 text; restore it from a copy") from None
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path} is damaged: no JSON at line {error.lineno}; restore it from a copy") from None
    except RecursionError:
        raise RunFolderError(f"{path} is damaged: it nests too deep; restore it from a copy") from None
    except ValueError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path} is damaged: a number without end; restore it from a copy") from None


def check_sections(content: dict[str, Any], path: Path) -> None:
    """Check that a parsed `config.yaml` has the form of one.

    Raises:
      RunFolderError: a section is no mapping, or the grid is no grid.
    """
    sections = conform(content, Sections, path)
    for section in ("algo", "env"):
        name = getattr(sections, section).get("name")
        if not isinstance(name, str):
            raise RunFolderError(f"{path} is damaged: {section}.name is missing or no text; restore it from a copy")
    if len({len(values) for values in (sections.points or {}).values()}) > 1:
        raise RunFolderError(f"{path} is damaged: its points have unlike numbers of values; restore it from a copy")
    if swept_in(content).size > MOST_POINTS:
        raise RunFolderError(
            f"{path} is damaged: its grid has more than {MOST_POINTS:,} points; restore it from a copy"
        )
