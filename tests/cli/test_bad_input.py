"""Some hundreds of bad inputs in one process: each ends with exit code 2 and one short line, and nothing is made."""

import dataclasses
import itertools
import json
import sys
import time
import typing

import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.cli import app
from lsf_jax.config.composition import compose, make_env
from lsf_jax.config.documents import to_yaml
from lsf_jax.config.files import VARIABLE
from lsf_jax.config.train_config import TrainConfig
from lsf_jax.envs import ENVS
from lsf_jax.runs import experiment

PATIENCE = 5.0  # seconds of CPU time
LONGEST = 1500  # characters: some lines name all that there is


def bomb(levels=20, wide=9):
    """A list of lists of ... by aliases: wide^levels values in a few hundred characters."""
    rows = [f"&a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * wide)}]" for n in range(levels)]
    return f"[{', '.join(rows)}]"


DEEP = "[" * 5000
NESTED = "[" * 100 + "]" * 100
HEX, DIGITS = f"0x{'f' * 5000}", "1" * 5000
ANY = ("{a: 1}", bomb(), NESTED, "&a [*a]", "!!set {a}", "*nobody", "'open", "a\udcffb")
NUMBERS = (HEX, DIGITS, f"-{DIGITS}", "1e999", "-.inf", ".nan", "x", "true", "'1'", "[1]", "!!int x")
BAD = {
    float: (*NUMBERS, "1" * 350, *ANY),
    int: (*NUMBERS, "1.5", "10000000000", "1e10", "-10000000000", "1" * 350, *ANY),
    bool: ("1", "yes", "'true'", "null", HEX, *ANY),
    str: ('"\\ud800"', '"a\\0b"', "a\udcffb", bomb(), NESTED, "!!binary aGk=", "*nobody", "'open"),
    tuple: ("3", "{a: 1}", bomb(), DEEP, "[1, [2]]", "[true]", "[.nan]", f"[{HEX}]", '["\\ud800"]', "null"),
}
"""Text that is no value of a setting of that type."""


def kind_of(annotation):
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    return tuple if tuple in (annotation, origin) else arguments[0] if arguments else annotation


def generated(rounds=1):
    """`rounds` bad values for each setting of the command, of three algorithms and of each kind of environment."""
    pools = {kind: itertools.cycle(values) for kind, values in BAD.items()}
    classes = [("train", TrainConfig, "")]
    classes += [("algo", ALGORITHMS[name].config, name) for name in ("lsf_sac", "dop", "ndq")]
    classes += [
        ("env", ENVS[name].config, name) for name in ("predator_prey", "matrix_game", "two_state", "smax", "smac")
    ]
    for section, config_class, name in classes:
        for field in dataclasses.fields(config_class):
            kind = kind_of(typing.get_type_hints(config_class)[field.name])
            for text in itertools.islice(pools[kind], rounds):
                choice = [f"--{section}", name] if name else []
                yield [*choice, f"{section}.{field.name}={text}"], f"{section}.{field.name}"
            yield from outside(section, field, name)


def outside(section, field, name):
    """Just outside the range that a setting is declared with."""
    bounds, choice = field.metadata, [f"--{section}", name] if name else []
    steps = {"low": -1, "high": 1, "above": 0, "below": 0}
    for bound, step in steps.items():
        if bounds.get(bound) is not None:
            value = bounds[bound] + step
            yield [*choice, f"{section}.{field.name}={value}"], f"{section}.{field.name} is {value}; expected a "
    if bounds.get("choices"):
        yield [*choice, f"{section}.{field.name}=nothing"], f"{section}.{field.name} is nothing; expected one of"


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Runs a command that must be refused before anything is bound or made; the line that it says."""
    home = tmp_path / "here"
    home.mkdir()
    monkeypatch.chdir(home)

    def bind(config):
        make_env(config)
        raise AssertionError("it was accepted")

    monkeypatch.setattr(experiment, "bind", bind)
    monkeypatch.setattr(experiment.runtime, "configure", lambda train, *_: experiment.runtime.cache_folder(train))

    def run(arguments, *words):
        start = time.process_time()
        try:
            code = app.main(arguments)
        except SystemExit as stop:  # argparse
            code = stop.code
        except BaseException as error:
            error.add_note(f"{[word[:100] for word in arguments]}")
            raise
        shown = capsys.readouterr()
        case = f"{[word[:100] for word in arguments]}: {shown.err[:LONGEST]}"
        assert code == 2, case
        assert shown.err.startswith("lsf-jax: "), case
        assert shown.err.count("\n") == 1, case
        assert len(shown.err) < LONGEST, case
        assert [word for word in words if word not in shown.err] == [], case
        assert time.process_time() - start < PATIENCE, case
        assert list(home.iterdir()) == [], case
        return shown.err

    return run


def several(text, numbers):
    return ",".join(text.format(number) for number in numbers)


GRID = [f"algo.{key}={several('{:.3f}', [n / 1000 for n in range(1, 200)])}" for key in ("lr", "discount", "trace")]
LARGE = ("algo.batch_size=99999999", "train.buffer_capacity=100000000", "train.micro_batch=7")


def test_hundreds_of_bad_settings_are_refused_by_their_key(refused):
    n = 0
    for arguments, word in generated():
        refused(["train", *arguments], word)
        n += 1
    assert n > 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "algo=3"], ["algo is a section of settings", "algo.name"]),
        (["train", f"{'x' * 5000}=1"], ["unknown key xxx", "..."]),
        (["train", f"algo.{'x' * 5000}=1"], ["unknown key algo.xxx", "..."]),
        (["train", "x" * 5000], ["xxx..."]),
        (["train", "--algo", "x" * 5000], ["unknown algo"]),
        (["train", "--env", "\udcff"], ["unknown env"]),
        (["train", "--config", "\udcff"], ["cannot read config"]),
        (["train", "--config-dir", "~nosuchuser/x"], ["--config-dir is ~nosuchuser/x", "no such user"]),
        (["train", "train.run_dir=~nosuchuser/x"], ["train.run_dir is ~nosuchuser/x", "no such user"]),
        (["train", "train.cache_dir=~nosuchuser/x"], ["train.cache_dir is ~nosuchuser/x", "no such user"]),
        (["train", "--env", "smac/3m", "env.sc2_path=~nosuchuser/x"], ["env.sc2_path is ~nosuchuser/x"]),
        (["train", "--env", "smac/3m", "env.factory=~nosuchuser/x.py:Env"], ["env.factory is ~nosuchuser/x.py"]),
        (["train", "--env", "smac/3m", "env.factory=nothing"], ["env.factory is nothing", "module:Class"]),
        (["train", "--env", "smac/3m", "env.factory=no.py:Env"], ["env.factory is no.py:Env", "no file no.py"]),
        (["train", "--env", "smac/3m", "env.factory=json:NoSuchClass"], ["env.factory is json:", "NoSuchClass"]),
        (["train", "train.sinks=wandb"], ["train.sinks has wandb", "pip install 'lsf-jax[wandb]'"]),
        (["train", *GRID], ["grid of algo.discount, algo.lr, algo.trace", "7,880,599 points"]),
        (["train", GRID[0], "seeds=10000"], ["grid of algo.lr", "199 points", "train.seeds (10,000)"]),
        (["train", *LARGE], ["train.micro_batch is 7; expected a divisor of algo.batch_size (99999999)"]),
        (["evaluate", "run", "--seed", "4294967296"], ["--seed", "4294967296"]),
        (["evaluate", "run", "--seed", "-1"], ["--seed", "-1"]),
        (["evaluate", "run", "--episodes", "99999999999999"], ["--episodes", "99999999999999"]),
        (["evaluate", "run", "--episodes", DIGITS], ["--episodes", "111..."]),
        (["render", "run", "--fps", "0"], ["--fps", "at most 50"]),
        (["render", "run", "--fps", "nan"], ["--fps", "nan"]),
        (["render", "run", "--fps", "1e9"], ["--fps", "1e9"]),
        (["render", "run", "--episode", "-1"], ["--episode", "-1"]),
        (["render", "run", "--row", "-1"], ["--row", "-1"]),
        (["plan", "--devices", DIGITS], ["--devices", "111..."]),
        (["x" * 5000], ["invalid choice", "..."]),
        (["train", f"--{'x' * 5000}"], ["..."]),
        (["matrix-table", "--seeds", "99999999999"], ["--seeds"]),
        (["matrix-table", "--game", "x" * 5000], ["--game"]),
        (["suite", "x" * 5000], ["unknown suite"]),
        (["doctor", f"env.deadline={HEX}"], ["env.deadline"]),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_arguments_are_refused_by_their_name(refused, monkeypatch, arguments, words):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused(arguments, *words)


@pytest.mark.parametrize("table", ["[[true, 1], [1, 1]]", "[['1', 1], [1, 1]]", "[[1e39, 1], [1, 1]]", "[[1, 2], 3]"])
def test_a_payoff_of_anything_but_numbers_is_refused(refused, table):
    refused(
        ["train", "--env", "matrix_game", f"env.payoff={table}"], "env.payoff is ", "expected numbers nested 2 deep"
    )


@pytest.mark.parametrize(
    "text", [bomb(), "{" * 4000, "a: 1\n" * 100_000, f"algo: {{lr: {HEX}}}", "\0", "a:\n" + " \t- x"]
)
def test_bad_files_are_refused_by_their_path(refused, monkeypatch, tmp_path, text):
    mine = tmp_path / "mine"
    for section in ("preset", "suite", "env"):
        (mine / section).mkdir(parents=True)
        (mine / section / "bad.yaml").write_text(text, encoding="utf-8")
    path = str(mine / "preset" / "bad.yaml")
    refused(["train", "--config", path], path)
    monkeypatch.setenv(VARIABLE, str(mine))
    refused(["train", "--preset", "bad"], path)
    refused(["train", "--env", "bad"], str(mine / "env" / "bad.yaml"))
    refused(["suite", "bad"], str(mine / "suite" / "bad.yaml"))
    monkeypatch.setenv(VARIABLE, "~nosuchuser/x")
    refused(["list"], f"${VARIABLE} is ~nosuchuser/x")


def test_a_table_of_earlier_rows_is_read_before_anything_is_trained(refused, tmp_path):
    (tmp_path / "table.json").write_text("{}")
    refused(["matrix-table", "--with", str(tmp_path / "table.json")], "table.json is no table that matrix-table wrote")


def test_a_resumed_run_that_lacks_a_package_is_left_as_it_is(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(compose(algo="qmix")))
    (run / "card.json").write_text(json.dumps({"layout": {"n_devices": 1}}))
    before = {path: path.read_bytes() for path in run.iterdir()}
    refused(["resume", str(run), "train.sinks=wandb"], "train.sinks has wandb")
    assert {path: path.read_bytes() for path in run.iterdir()} == before
