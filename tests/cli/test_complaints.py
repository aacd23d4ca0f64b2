"""What nobody foresaw: one line with the command and the cause, and an exit code that says whose fault it was."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from lsf_jax.cli import app
from lsf_jax.runs.manifest import CheckpointError
from lsf_jax.settings import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def failing(monkeypatch):
    def fail_with(error: BaseException) -> None:
        def run(options):
            raise error

        monkeypatch.setitem(app.COMMANDS, "list", app.COMMANDS["list"]._replace(run=run))

    return fail_with


JaxRuntimeError = type("JaxRuntimeError", (RuntimeError,), {})


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("algo.lr is 3"), 2, "lsf-jax: algo.lr is 3\n"),
        (CheckpointError("it is\ndamaged"), 2, "lsf-jax: it is damaged\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a\nb"), 2, "lsf-jax: list: No space left on device, a b\n"),
        (MemoryError(), 2, "lsf-jax: list: out of memory; fewer seeds"),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: 3 bytes"), 2, "lsf-jax: list: out of memory; fewer seeds"),
        (KeyError("width"), 70, "lsf-jax: list: KeyError: 'width' (lsf_jax/cli/app.py, line "),
        (ValueError("a\n  b"), 70, "lsf-jax: list: ValueError: a b (lsf_jax/cli/app.py, line "),
        (RecursionError(), 70, "lsf-jax: list: RecursionError (lsf_jax/cli/app.py, line "),
        (JaxRuntimeError("INTERNAL: oh"), 70, "lsf-jax: list: JaxRuntimeError: INTERNAL: oh ("),
        (ConfigError("\x1b[31mred\u202e"), 2, "lsf-jax: \\x1b[31mred\\u202e\n"),
        (KeyboardInterrupt(), 130, "lsf-jax: stopped at once"),
    ],
)
def test_a_failure_is_one_line_and_the_exit_code_tells_bad_input_from_a_bug(failing, capsys, error, code, line):
    failing(error)
    assert app.main(["list"]) == code
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1
    assert ("--traceback" in said) == (code == 70)


@pytest.mark.parametrize("words", [["--traceback", "list"], ["list", "--traceback"]])
@pytest.mark.parametrize("error", [KeyError("width"), ConfigError("width")])
def test_the_rest_is_shown_on_request_above_the_same_line(failing, capsys, words, error):
    failing(error)
    code = app.main(["list"])
    line = capsys.readouterr().err
    assert app.main(words) == code
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith(line)
    assert "raise error" in said


def test_what_nobody_could_read_is_cut(failing, capsys):
    failing(ConfigError("x" * 10**6))
    assert app.main(["list"]) == 2
    assert len(capsys.readouterr().err) < 2100


def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "lsf_jax.cli", "list"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "lsf-jax: list: No space left on device\n"
