"""Who may write a block in a shared run folder: the worker that was given it last.

A worker on a node that the cluster has lost may still be alive and training. Before it goes on, it looks here.
"""

import secrets
import shutil
from pathlib import Path

from lsf_jax.runs.safe_files import file_inside, folder_inside, read_bytes, replacing

FOLDER = ".leases"


def grant(run: Path, index: int) -> str:
    """Give a block to a new holder, and so take it from the last.

    Args:
      run: the run folder.
      index: of the block.

    Returns:
      What the holder shows.
    """
    folder_inside(run, FOLDER).mkdir(exist_ok=True)
    lease = secrets.token_hex(8)
    with replacing(file_inside(run, FOLDER, f"{index:04d}")) as file:
        file.write(lease.encode())
    return lease


def is_held(run: Path, index: int, lease: str) -> bool:
    """Whether a block still belongs to the holder of a lease."""
    try:
        return read_bytes(file_inside(run, FOLDER, f"{index:04d}"), 64).decode("ascii", "replace") == lease
    except OSError:
        return False


def clear(run: Path) -> None:
    """Remove all leases: nobody may write then."""
    shutil.rmtree(folder_inside(run, FOLDER), ignore_errors=True)
