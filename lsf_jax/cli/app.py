"""The command line: `lsf-jax COMMAND`, a thin layer over `experiment`, `playback` and `analysis`.

Bad input ends in one line on standard error and exit code 2; a run stopped by Ctrl-C is saved and ends with 130.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lsf_jax.cli import inspecting, listing, suites, training
from lsf_jax.cli.arguments import FINISHED, INTERRUPTED, WRONG_INPUT, add_plugins
from lsf_jax.registry import plugins
from lsf_jax.registry.state import FLAG
from lsf_jax.settings import ConfigError

COMMANDS = {
    command.name: command for command in (*training.COMMANDS, *inspecting.COMMANDS, *suites.COMMANDS, *listing.COMMANDS)
}
"""Every command by name, in the order of `--help`."""


class OneLineParser(argparse.ArgumentParser):
    """A parser that complains in one line, like every other error; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        """Write what is wrong with the arguments and end with exit code 2."""
        self.exit(WRONG_INPUT, f"lsf-jax: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    top = OneLineParser(
        prog="lsf-jax",
        description="LSF-SAC in JAX: multi-agent learning on device, many seeds at once.",
        epilog="`lsf-jax COMMAND --help` explains each command.",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        theirs = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(theirs)
        add_plugins(theirs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    try:
        return _run(_parse(arguments))
    except KeyboardInterrupt:
        sys.stderr.write(
            "lsf-jax: stopped at once; a run that has begun keeps its last checkpoint: continue it with "
            "`lsf-jax resume` and its folder, a suite with the same command\n"
        )
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    try:
        plugins.load_plugins(options.plugins, FLAG)
        code = COMMANDS[options.command].run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has had enough, as in `| head`; Python flushes again at exit and would complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINISHED
    except Exception as error:
        if not _is_for_people(error):
            raise
        sys.stderr.write(f"lsf-jax: {' '.join(str(error).split())}\n")
        return WRONG_INPUT


def _is_for_people(error: Exception) -> bool:
    """Whether an error is a line about bad input."""
    if isinstance(error, ConfigError):
        return True  # before the imports below, which load JAX: some commands have none so far
    from lsf_jax.envs.host import HostError
    from lsf_jax.runs.checkpoint import CheckpointError
    from lsf_jax.runs.folder import RunFolderError

    return isinstance(error, HostError | CheckpointError | RunFolderError)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, settings wherever they stand: argparse itself wants positional words in one place."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    words = [word for word in rest if "=" in word and not word.startswith("-")]
    if not hasattr(options, "overrides") or len(words) < len(rest):
        top.parse_args(arguments)  # complains
    else:
        options.overrides = [*options.overrides, *words]
    return options
