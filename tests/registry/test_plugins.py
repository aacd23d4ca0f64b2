"""Plug-ins: what may be imported and what never is, what is refused, and what a run remembers of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lsf_jax
from lsf_jax.cli import app
from lsf_jax.config import files
from lsf_jax.config.composition import compose, from_yaml, make_env
from lsf_jax.config.documents import to_documented_yaml, to_yaml
from lsf_jax.registry import checks, plugins, state
from lsf_jax.runs import machine, sinks, suite
from lsf_jax.settings import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ALGO = """
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import lsf_jax

Path(__file__).with_suffix(".imported").touch()

@dataclass(frozen=True)
class Config(lsf_jax.ValueConfig):
    width: int = lsf_jax.setting(3, low=1, doc="of something")

def entry(name):
    factory = partial(lsf_jax.q_mixing, name=name, mixer=lambda spec, cfg: None)
    return lsf_jax.Entry(name=name, config=Config, factory=factory, doc="learns alone", acts="values")
"""
MINE = f'{ALGO}lsf_jax.register(algorithms=[entry("alone")], sinks={{"page": print}})\n'


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch, tmp_path):
    """What a test registers and imports is forgotten after it; it runs in an empty folder."""
    known = set(sys.modules)
    monkeypatch.delenv(state.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with state.isolated():
        yield
    for name in set(sys.modules) - known:
        if not name.startswith("lsf_jax"):
            del sys.modules[name]


def write(folder: Path, **modules: str) -> Path:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """A folder on `sys.path` with the plug-in `mine`."""
    (tmp_path / "path").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    return write(tmp_path / "path", mine=MINE)


def install(folder: Path, name: str, module: str) -> None:
    """What pip leaves of a package with an entry point."""
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{state.GROUP}]\n{name} = {module}\n")
    plugins._installed.cache_clear()
    state.STATE.settled.clear()


@pytest.fixture(autouse=True)
def _installed_anew():
    yield
    plugins._installed.cache_clear()


def refusal(act, *arguments, **named) -> str:
    with pytest.raises(ConfigError) as error:
        act(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def was_imported(folder: Path, name: str = "mine") -> bool:
    return (folder / f"{name}.imported").exists()


def test_a_named_plugin_is_used_and_recorded(path):
    assert "unknown algo 'alone'" in refusal(compose, algo="alone")
    plugins.load_plugins(["mine"])
    config = compose(algo="alone", env="matrix_game", overrides=["algo.width=5", "train.sinks=page"])
    assert config.algo.width == 5
    for text in (to_yaml(config), to_documented_yaml(config)):
        assert "\nplugins: [mine]\n" in text
        assert from_yaml(text) == config
    assert "plugins" not in to_yaml(compose(algo="iql"))
    assert sinks.SINKS["page"] is print
    assert "expected one of tensorboard, wandb, trackio, page" in refusal(compose, overrides=["train.sinks=pages"])


def test_a_file_makes_nobody_import_code(path, tmp_path):
    with state.isolated():
        plugins.load_plugins(["mine"])
        text = to_yaml(compose(algo="alone"))
    (path / "mine.imported").unlink()
    del sys.modules["mine"]
    (tmp_path / "config.yaml").write_text(text)
    for read in (lambda: from_yaml(text, "runs/x"), lambda: compose(files=[tmp_path / "config.yaml"])):
        message = refusal(read)
        assert "was made with plug-in mine, which is not in use" in message
        assert "pass --plugin mine, or in Python import it first" in message
    assert not was_imported(path)
    assert "mine" not in sys.modules


@pytest.mark.parametrize("how", ["flag", "variable", "import", "installed", "current folder"])
def test_what_is_named_or_installed_is_imported(how, path, tmp_path, monkeypatch, capsys):
    text = to_yaml(compose(algo="iql")).replace("name: iql\n", "name: alone\n", 1)
    file = tmp_path / "run.yaml"
    file.write_text(text.replace("\nalgo:", "\nplugins: [mine]\nalgo:", 1))
    words = ["config", "--config", str(file)]
    if how == "flag":
        words += ["--plugin", "mine"]
    elif how == "variable":
        monkeypatch.setenv(state.VARIABLE, "mine")
    elif how == "import":
        __import__("mine")
    elif how == "installed":
        install(path, "mine-marl", "mine")
    else:
        sys.path.remove(str(path))
        monkeypatch.chdir(path)
        words += ["--plugin", "mine"]
    assert app.main(words) == 0
    assert "  width: 3\n" in capsys.readouterr().out
    origins = {"flag": "--plugin", "variable": "$LSF_JAX_PLUGINS", "import": "this process"}
    expected = origins.get(how, "mine-marl 1.5" if how == "installed" else "--plugin")
    assert plugins.loaded_plugins()["mine"].origin == expected


@pytest.mark.parametrize("command", list(app.COMMANDS))
def test_every_command_takes_plugins(command, capsys):
    usage = next(iter(app.parser()._subparsers._group_actions)).choices[command]
    positional = [action for action in usage._actions if not action.option_strings and action.nargs not in ("*", "?")]
    needed = [next(iter(action.choices or ["x"])) for action in positional]
    assert app.main([command, *needed, "--plugin", "nowhere_to_be_found"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("lsf-jax: plug-in nowhere_to_be_found (--plugin): cannot be imported: ModuleNotFoundError")
    assert "is it installed, on PYTHONPATH, or a file of this folder?" in shown
    assert shown.count("\n") == 1


BROKEN = {
    "an error": ("1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero (bad.py line 1)"),
    "an error in a function": ("def f():\n    [][1]\nf()\n", "IndexError: list index out of range (bad.py line 2)"),
    "bad syntax": ("def f(:\n", "cannot be imported: SyntaxError: invalid syntax (bad.py, line 1)"),
    "an exit": ("raise SystemExit(3)\n", "cannot be imported: SystemExit: 3"),
    "nothing": ("import lsf_jax\n", "it registers nothing; expected it to call lsf_jax.register(...)"),
    "a name": (f"{ALGO}lsf_jax.register(algorithms=[entry('a b')])\n", "algo 'a b': the name 'a b': expected letters"),
    "one of ours": (f"{ALGO}lsf_jax.register(algorithms=[entry('qmix')])\n", "algo 'qmix' is one of lsf_jax's own"),
    "a name twice": (f"{ALGO}lsf_jax.register(algorithms=[entry('a'), entry('a')])\n", "algo 'a' is registered twice"),
    "a name again": (
        f"{ALGO}lsf_jax.register(algorithms=[entry('a')])\nlsf_jax.register(mixers=[entry('a')])\n",
        "algo 'a' is registered twice; choose another name for one of them",
    ),
    "a sink of ours": (
        "import lsf_jax\nlsf_jax.register(sinks={'wandb': print})\n",
        "sink 'wandb' is one of lsf_jax's",
    ),
    "no line": (f"{ALGO}lsf_jax.register(algorithms=[entry('a')._replace(doc='')])\n", "doc is ''; expected one line"),
    "no function": (
        f"{ALGO}lsf_jax.register(algorithms=[entry('a')._replace(factory=None)])\n",
        "algo 'a': factory is None; expected a function",
    ),
    "a thawed config": (
        f"{ALGO}lsf_jax.register(algorithms=[entry('a')._replace(config=dict)])\n",
        "expected a class with @dataclass(frozen=True)",
    ),
    "too little": (
        f"{ALGO}@dataclass(frozen=True)\nclass C:\n    lr: float = lsf_jax.number(1.0)\n"
        "lsf_jax.register(algorithms=[entry('a')._replace(config=C)])\n",
        "config C lacks batch_size, updates, hidden; inherit lsf_jax.CommonConfig",
    ),
    "a default out of range": (
        f"{ALGO}@dataclass(frozen=True)\nclass C(Config):\n    p: float = lsf_jax.number(2.0, low=0, high=1)\n"
        "lsf_jax.register(algorithms=[entry('a')._replace(config=C)])\n",
        "setting p of C is 2.0 by default; expected a number >= 0 and <= 1",
    ),
    "a mixer's config": (
        f"{ALGO}@dataclass(frozen=True)\nclass C(lsf_jax.CommonConfig):\n    pass\n"
        "lsf_jax.register(mixers=[entry('a')._replace(config=C)])\n",
        "mixer 'a': config C does not inherit lsf_jax.ValueConfig",
    ),
    "a folder": ("import lsf_jax\nlsf_jax.register(configs='gone')\n", "gone; expected a folder with env, train"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_a_broken_plugin_is_one_line_and_leaves_nothing(case, path, capsys):
    source, message = BROKEN[case]
    write(path, bad=source)
    before = state.copies()
    assert app.main(["config", "--algo", "vdn", "--plugin", "bad"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("lsf-jax: plug-in bad (--plugin): ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert state.copies() == before
    assert compose(algo="vdn").algo_name == "vdn"  # nobody asks for it any more


def test_what_comes_of_ours_while_a_plugin_fails_stays():
    """Its import may have been the first of `lsf_jax.algorithms`, which is not imported again."""
    with state.isolated():
        plugins.TABLES["algo"]["late"] = lsf_jax.ALGORITHMS["vdn"]
    assert plugins.TABLES["algo"].pop("late").name == "vdn"


def test_a_name_that_is_no_modules_is_one_line(capsys):
    assert app.main(["list", "--plugin", "./mine.py"]) == 2
    expected = "lsf-jax: plug-in './mine.py' (--plugin) is not a module's name; expected one such as mine\n"
    assert capsys.readouterr().err == expected


def test_two_plugins_with_one_name_are_refused_by_both(path):
    write(path, other=MINE)
    install(path, "other-marl", "other")
    message = refusal(plugins.load_plugins, ["mine"], state.FLAG)
    assert message == (
        "plug-in other (other-marl 1.5): algo 'alone' is registered by plug-in mine (--plugin) already; leave one of "
        "them out; mend or uninstall it, or leave it out with --plugin no:other"
    )
    plugins.load_plugins(["mine", "no:other"])
    assert plugins.added("algo")["alone"].name == "mine"


def test_a_file_cannot_bear_the_name_of_a_plugins_environment(path, tmp_path):
    write(path, game="import lsf_jax\nlsf_jax.register(environments=[lsf_jax.ENVS['m_step']._replace(name='game')])\n")
    (tmp_path / "own" / "env").mkdir(parents=True)
    (tmp_path / "own" / "env" / "game.yaml").write_text("name: m_step\n")
    plugins.load_plugins(["game"])
    assert lsf_jax.make("game", n_steps=3).spec.episode_limit == 3
    message = refusal(compose, env="game", config_dirs=[tmp_path / "own"])
    assert message.startswith("env 'game' is both registered and the file")


def test_names_of_an_installed_plugin_that_a_run_was_not_made_with_are_refused(path):
    plugins.load_plugins(["mine"])
    text = to_yaml(compose(algo="alone")).replace("plugins: [mine]", "plugins: [theirs]")
    assert from_yaml(text, "run").algo_name == "alone"  # by the user's own word: modules are renamed
    for name in ("alone", "page"):
        assert name in plugins.names_of("algo") + plugins.names_of("sink")
    with state.isolated():
        state.STATE.loaded["mine"] = state.STATE.loaded["mine"]._replace(named=False)
        assert "run was made with plug-in theirs, which is not in use" in refusal(from_yaml, text, "run")
        without = text.replace("plugins: [theirs]\n", "")
        message = refusal(from_yaml, without, "run")
        assert message.startswith("run was made with plug-ins: none; its names come from plug-in mine")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            "lambda cfg: 1 / 0",
            "of plug-in game (--plugin) is not made: ZeroDivisionError: division by zero (game.py line",
        ),
        ("lambda cfg: None", "of plug-in game (--plugin): its factory returns NoneType; expected lsf_jax.Env"),
    ],
)
def test_a_factory_that_makes_nothing_is_one_line(factory, message, path):
    entry = f"lsf_jax.ENVS['m_step']._replace(name='game', factory={factory})"
    write(path, game=f"import lsf_jax\nlsf_jax.register(environments=[{entry}])\n")
    plugins.load_plugins(["game"], state.FLAG)
    assert f"env game {message}" in refusal(make_env, compose(env="game"))
    assert f"env game {message}" in refusal(lsf_jax.make, "game")


def test_annotations_that_are_text_are_read(path):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\nimport lsf_jax\n"
    text += "@dataclass(frozen=True)\nclass Config:\n    sizes: tuple[float, ...] = lsf_jax.setting((1.0,), doc='x')\n"
    text += "lsf_jax.register(environments=[lsf_jax.Entry('game', Config, lambda cfg: cfg.sizes, 'a game')])\n"
    write(path, game=text)
    plugins.load_plugins(["game"])
    assert compose(env="game", overrides=["env.sizes=[1, 2]"]).env.sizes == (1.0, 2.0)
    assert "env.sizes is 'x'; expected a list of numbers" in refusal(lsf_jax.make, "game", sizes="x")


def test_a_list_of_plugins_that_is_none_is_refused():
    text = to_yaml(compose(algo="iql"))
    assert "plugins is 3; expected a list of modules' names (in run)" in refusal(
        from_yaml, f"plugins: 3\n{text}", "run"
    )


def test_a_cell_that_runs_twice_registers_the_last_one(path):
    odd = "@dataclass(frozen=True)\nclass Config(Config):\n    odd: int = 3\n"  # undocumented, in no file
    source = f"{ALGO}{odd}lsf_jax.register(algorithms=[entry('new')])\n".replace("Path(__file__)", "Path('cell.py')")
    cell = compile(source, "cell", "exec")
    first, second = {"__name__": "__main__"}, {"__name__": "__main__"}
    exec(cell, first)
    exec(cell, second)
    assert lsf_jax.ALGORITHMS["new"].config is second["Config"]
    text = to_yaml(compose(algo="new"))
    assert "plugins: [__main__]" in text
    assert "  #  (a whole number)\n  odd: 3\n" in to_documented_yaml(compose(algo="new"))
    with state.isolated():
        state.STATE.loaded.clear()
        assert "it was a notebook: put its lsf_jax.register(...) into a module" in refusal(from_yaml, text, "run")


def test_a_script_is_known_by_the_name_that_imports_it(path):
    write(path, mine=MINE + "from lsf_jax.registry import plugins\nprint(*plugins.loaded_plugins())\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "mine\n", done.stderr


def test_a_plugin_may_import_another_one_and_look_up_names_while_it_is_imported(path):
    write(path, both=f"import mine\n{ALGO}assert 'alone' in lsf_jax.ALGORITHMS\nlsf_jax.make('m_step')\n"
          "lsf_jax.register(algorithms=[entry('other')])\n")  # fmt: skip
    install(path, "mine-marl", "mine")
    plugins.load_plugins(["both"])
    assert {name: by.name for name, by in plugins.added("algo").items()} == {"alone": "mine", "other": "both"}


def test_presets_suites_and_lists_know_plugins(path, capsys):
    for name, text in {
        "preset/quick.yaml": "# a protocol of mine\nalgo: {width: 7}\n",
        "suite/pair.yaml": "# a suite of mine\nenv: m_step\npresets: [quick]\nalgorithms: {alone: [], iql: []}\n",
    }.items():
        (path / "configs" / name).parent.mkdir(parents=True)
        (path / "configs" / name).write_text(text)
    write(path, mine=MINE + "lsf_jax.register(configs=Path(__file__).with_name('configs'))\n")
    assert app.main(["list", "--plugin", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "  alone                    learns alone (plug-in mine)\n" in shown
    assert "  quick                    a protocol of mine (plug-in mine)\n" in shown
    assert app.main(["list", "plugin"]) == 0
    expected = f"mine  (--plugin)\n  algo     alone\n  sink     page\n  configs  {path / 'configs'}\n"
    assert capsys.readouterr().out == expected
    assert compose(algo="alone", presets=["quick"]).algo.width == 7
    assert [member.algo for member in suite.members(suite.read_suite("pair"), "runs")] == ["alone", "iql"]
    runs = suite.members(suite.read_suite("matrix_table"), "runs", algorithms=["qmix", "alone"], envs=["climbing"])
    assert [run.config.algo.hidden for run in runs if run.algo == "alone"] == [16]  # by the protocol of a suite of ours
    assert {run.algo for run in runs} == {"qmix", "alone"}


def test_another_process_gets_the_same_plugins(path, monkeypatch):
    """The variable that it is given says all that was named here."""
    nothing = state.copies()
    plugins.load_plugins(["mine", "no:other"])
    monkeypatch.setenv(*next(iter(plugins.as_variable().items())))
    state.restore(nothing)
    del sys.modules["mine"]
    assert "alone" not in lsf_jax.ALGORITHMS
    assert list(plugins.loaded_plugins()) == ["mine"]
    assert state.STATE.left_out == {"other"}


def test_a_card_has_the_versions_of_plugins(path):
    write(path, versioned=f"{MINE}__version__ = '2.1'\n")
    plugins.load_plugins(["versioned"])
    assert machine.plugin_versions(["versioned", "lsf_jax.registry", "nothing"]) == {
        "plug-in versioned": "2.1",
        "plug-in lsf_jax.registry": lsf_jax.__version__,
        "plug-in nothing": "no version",
    }


def test_what_is_no_entry_and_no_sink_is_told():
    """Beside the cases above: under beartype `register` itself would complain first."""
    assert checks.entry_problem("algo", "x") == "algo 'x': expected an lsf_jax.Entry"
    assert checks.sink_problem("w", 3) == "sink 'w' is 3; expected a function that opens it"


def test_sinks_of_ours_are_those_that_are_known_without_them():
    assert tuple(sinks.SINKS) == plugins.SHIPPED_SINKS
    assert files.list_names()["algo"]
