"""The last line of a command that failed: what went wrong, in one line, and an exit code that says whose fault it is.

Bad input, a damaged folder, a full disk and too little memory are the world's: exit code 2. Anything else is a bug of
ours: exit code 70, and the line says where. `--traceback` shows the rest of either.
"""

import os
import sys
import traceback
from pathlib import Path

from lsf_jax.cli.arguments import BUG, WRONG_INPUT
from lsf_jax.settings import ConfigError, printable

FLAG = "--traceback"
LONGEST = 2000
"""Characters of a line; of longer ones the middle is left out."""


def complain(error: Exception, command: str, *, with_traceback: bool) -> int:
    """Write what went wrong to standard error, one line.

    Args:
      error: what ended the command.
      command: its name.
      with_traceback: write the whole traceback first.

    Returns:
      The exit code.
    """
    if with_traceback:
        traceback.print_exception(error)
    text = _for_people(error, command)
    if text is None:
        where = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        text = (
            f"{command}: {where}{_place(error)}; this is a bug of lsf-jax: see more with {FLAG}, and please report it"
        )
        code = BUG
    else:
        code = WRONG_INPUT
    sys.stderr.write(f"lsf-jax: {one_line(text)}\n")
    _give_up_on_output()
    return code


def one_line(text: str) -> str:
    """A message as one line that a terminal can show: files may hold anything, and their names too."""
    line = printable(" ".join(text.split()))
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"


def _for_people(error: Exception, command: str) -> str | None:
    """The line about an error that is nobody's bug, else None."""
    if isinstance(error, ConfigError):
        return str(error)  # before the imports below, which load JAX: some commands have none so far
    if isinstance(error, OSError) and error.errno is not None:
        names = [name for name in (error.filename, error.filename2) if name is not None]
        return f"{command}: {error.strerror}" + "".join(f", {os.fsdecode(name)}" for name in names)
    is_from_jax = type(error).__name__ in ("XlaRuntimeError", "JaxRuntimeError")
    if isinstance(error, MemoryError) or (is_from_jax and "RESOURCE_EXHAUSTED" in str(error)):
        return f"{command}: out of memory; fewer seeds side by side (train.block), or a smaller train.buffer_capacity"
    from lsf_jax.envs.host import HostError
    from lsf_jax.runs.manifest import CheckpointError

    return str(error) if isinstance(error, HostError | CheckpointError) else None


def _place(error: Exception) -> str:
    """The last line of the package that the error passed through."""
    package = Path(__file__).resolve().parents[1]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if package in Path(frame.filename).parents]
    if not frames:
        return ""
    name = Path(frames[-1].filename).relative_to(package.parent).as_posix()
    return f" ({name}, line {frames[-1].lineno})"


def _give_up_on_output() -> None:
    """Where standard output takes no more, keep Python from complaining about it once more at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # no room, or closed
        discard_output()


def discard_output() -> None:
    """Send what is still to be written to standard output nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
