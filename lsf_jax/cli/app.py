"""The command line: `lsf-jax COMMAND`, a thin layer over `experiment`, `playback` and `analysis`.

Bad input ends in one line on standard error and exit code 2, a bug of ours in one line and 70; a run stopped by Ctrl-C
is saved and ends with 130.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from lsf_jax.cli import inspecting, listing, looking, reproducing, suites, training
from lsf_jax.cli.arguments import FINISHED, INTERRUPTED, WRONG_INPUT, add_plugins
from lsf_jax.cli.complaints import FLAG, complain, discard_output
from lsf_jax.registry import plugins, state
from lsf_jax.settings import clip_words

COMMANDS = {
    command.name: command
    for module in (training, inspecting, looking, suites, reproducing, listing)
    for command in module.COMMANDS
}
"""Every command by name, in the order of `--help`."""


class OneLineParser(argparse.ArgumentParser):
    """A parser that complains in one line, like every other error; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        """Write what is wrong with the arguments and end with exit code 2."""
        self.exit(WRONG_INPUT, f"lsf-jax: {clip_words(message)}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    top = OneLineParser(
        prog="lsf-jax",
        description="LSF-SAC in JAX: multi-agent learning on device, many seeds at once.",
        epilog="`lsf-jax COMMAND --help` explains each command.",
    )
    _add_traceback(top)
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
        _add_traceback(theirs)
    return top


def _add_traceback(parser: argparse.ArgumentParser) -> None:
    """Before the command or after it; `main` looks for the word itself."""
    parser.add_argument(FLAG, action="store_true", help="if it fails, show where in the code")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except KeyboardInterrupt:
        sys.stderr.write(
            "lsf-jax: stopped at once; a run that has begun keeps its last checkpoint: continue it with "
            "`lsf-jax resume` and its folder, a suite with the same command\n"
        )
        return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    try:
        options = _parse(arguments)
        plugins.load_plugins(options.plugins, state.FLAG)
        code = COMMANDS[options.command].run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        discard_output()  # the reader has had enough, as in `| head`
        return FINISHED
    except Exception as error:
        command = next((word for word in arguments if word in COMMANDS), "lsf-jax")
        return complain(error, command, with_traceback=FLAG in arguments)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments, settings wherever they stand: argparse itself wants positional words in one place."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    words = [word for word in rest if "=" in word and not word.startswith("-")]
    if not hasattr(options, "overrides") or len(words) < len(rest):
        top.parse_args(arguments)  # complains
    else:
        options.overrides = [*options.overrides, *words]
    return options
