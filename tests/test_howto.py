"""README and documentation: what they show as code runs, cheaply in this process, and as it stands if slow tests do."""

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lsf_jax.cli import app
from lsf_jax.cli.app import COMMANDS, parser
from lsf_jax.config.composition import compose
from lsf_jax.registry import plugins, state

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
FILES = {
    title: code
    for text in PAGES.values()
    for title, code in re.findall(r'```python title="(\S+)"\n(.*?)```', text, re.S)
}
LINES = [
    (page, re.split(r"  +# ", line)[0].strip())
    for page, text in PAGES.items()
    for block in re.findall(r"```bash\n(.*?)```", text, re.S)
    for line in block.replace("\\\n", " ").splitlines()
]
COMMAND_LINES = sorted({line.partition(" > ")[0].split(" && ")[-1] for _, line in LINES if "lsf-jax " in line})
WITH_PROGRAM = sorted(page for page, text in PAGES.items() if 'python title="' in text)
EXAMPLES = [title.removesuffix(".py") for title in FILES if not title.startswith("test_")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All files of all pages, as a reader would have them."""
    path = tmp_path_factory.mktemp("howto")
    for title, code in FILES.items():
        (path / title).write_text(code, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def examples(folder):
    """Every example in use; the module with the pages' own tests by name."""
    with pytest.MonkeyPatch.context() as patch, state.isolated():
        patch.setattr(sys, "path", [str(folder), *sys.path])
        plugins.load_plugins(EXAMPLES, state.FLAG)
        yield {title.removesuffix(".py"): __import__(title.removesuffix(".py")) for title in FILES}
    for title in FILES:
        sys.modules.pop(title.removesuffix(".py"), None)


def test_every_page_with_a_program_has_its_test():
    assert len(WITH_PROGRAM) >= 4
    for page in WITH_PROGRAM:
        titles = re.findall(r'title="(\S+)"', PAGES[page])
        assert {title.startswith("test_") for title in titles} == {True, False}, page


def test_the_algorithm_takes_forty_lines():
    dense = [line for line in FILES["hysteretic.py"].splitlines() if line.strip()]
    assert len(dense) <= 40


def test_pages_link_to_pages_that_exist():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / page).parent.joinpath(target).exists(), (page, target)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_what_a_page_tells_to_type_is_understood(line, examples, capsys):
    """Options and settings, without the training."""
    variables, _, rest = line.rpartition("lsf-jax ")
    assert re.fullmatch(r"(LSF_JAX_PLUGINS=\S+ |[\w.]+/bin/)?", variables)
    words = shlex.split(rest)
    options = app._parse(words)
    assert set(options.plugins) <= set(EXAMPLES)
    if hasattr(options, "preset"):
        compose(algo=options.algo, env=options.env, presets=options.preset, overrides=options.overrides)
    assert COMMANDS[words[0]].name in parser().format_help()


SHORT = {
    "TestHysteretic": ("updates", "acting"),
    "TestReinforce": ("updates",),
    "TestWeightedSum": ("updates",),
}
"""Parts of the contract that run by default; training is slow, and acting the same shell in all of them."""
CASES = [
    (title.removesuffix(".py"), suite)
    for title, code in FILES.items()
    for suite in re.findall(r"^(Test\w+) = ", code, re.M)
]


@pytest.mark.default("test_rendezvous-TestRendezvous", "test_algorithms-TestHysteretic")
@pytest.mark.parametrize(("module", "suite"), CASES)
def test_the_examples_pass_the_shipped_suites(module, suite, examples, monkeypatch):
    cls = getattr(examples[module], suite)
    parts = SHORT.get(suite)
    ran = 0
    for base in cls.__bases__:
        if parts is not None and base.__module__.rpartition(".")[2] not in parts:
            continue
        for test in (name for name in vars(base) if name.startswith("test_")):
            ran += _run(cls, test, monkeypatch)
    assert ran >= 6


def _run(cls, test, monkeypatch) -> int:
    """All cases of one test, as pytest would call it."""
    method = getattr(cls(), test)
    applies = getattr(method, "applies", lambda entry: True)
    names = [name for name in cls.suite.names if applies(cls.suite.entries[name])]
    marks = [mark.args for mark in getattr(method, "pytestmark", []) if mark.name == "parametrize"]
    extra = [{argument: value} for argument, values in marks for value in values] or [{}]
    if "monkeypatch" in inspect.signature(method).parameters:
        extra = [{"monkeypatch": monkeypatch}]
    for name in names:
        for more in extra:
            method(name=name, **more)
    return len(names) * len(extra)


def run(folder: Path, *words: str) -> str:
    """What a command says that must succeed, far from the checkout."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "PYTHONPATH")}
    places = (ROOT, ROOT / "lsf_jax" / "testing" / "entry")  # what an installed package has
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, places)), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PROGRAM)
def test_what_a_page_tells_to_type_works(page, folder):
    for line in [line for where, line in LINES if where == page]:
        words = shlex.split(line)
        if words[0] == "pytest":
            run(folder, "-m", "pytest", "-q", "-p", "lsf_jax_pytest", "-p", "no:cacheprovider", *words[1:])
        else:
            budget = ["train.env_steps=2000"] if words[1] in ("train", "sweep") else []
            run(folder, "-m", "lsf_jax.cli", *words[1:], *budget)


@pytest.mark.slow
def test_a_run_with_everything_of_ones_own_is_resumed_evaluated_rendered_and_compared(folder):
    command = ("-m", "lsf_jax.cli")
    own = [word for name in ("weighted_sum", "rendezvous") for word in ("--plugin", name)]
    words = ("--algo", "weighted_sum", "--env", "rendezvous", "seeds=2", "train.env_steps=1500", "train.name=own")
    run(folder, *command, "train", *own, *words)
    assert "plugins: [weighted_sum, rendezvous]" in (folder / "runs" / "own" / "config.yaml").read_text()
    run(folder, *command, "resume", "runs/own", *own, "train.env_steps=3000")
    run(folder, *command, "evaluate", "runs/own", *own, "--episodes", "5")
    run(folder, *command, "render", "runs/own", *own)
    assert (folder / "runs" / "own" / "episode-row0.gif").exists()
    run(folder, *command, "plot", "runs/own")
    run(folder, *command, "compare", "runs/own", "runs/own", *own)
    done = subprocess.run(
        [sys.executable, *command, "evaluate", "runs/own"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pass --plugin weighted_sum" in done.stderr
