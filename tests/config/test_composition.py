import dataclasses
import math
from typing import Any, Literal

import pytest

from lsf_jax import algorithms, envs, settings
from lsf_jax.config import composition, documents, files, layers, yaml12
from lsf_jax.config.composition import Config, compose, from_yaml
from lsf_jax.config.documents import to_yaml
from lsf_jax.config.train_config import TrainConfig
from lsf_jax.envs.matrix_game import MatrixGameConfig, make_matrix_game
from lsf_jax.registry import Entry
from lsf_jax.settings import ConfigError, number, setting
from tests.support.jaxmarl_cases import HAS_JAXMARL
from tests.support.jumanji_cases import HAS_JUMANJI
from tests.support.parallel_cases import ZOO


@dataclasses.dataclass(frozen=True)
class SoftConfig:
    lr: float = number(1e-3, above=0, doc="learning rate per update")
    lambda_1: float = number(1e-3, low=0, doc="weight of the message loss")
    trace: float = number(0.6, low=0, high=1, doc="TD(λ)")
    anneal: int = number(100, low=1, doc="env steps")
    hidden: int = setting(64, low=1, doc="units")
    batch_size: int = setting(32, low=1, doc="episodes per update")
    target: Literal["greedy", "soft"] = setting("greedy", doc="kind of target")
    twin: bool = setting(False, doc="two critics")
    clip: float | None = setting(10.0, above=0, doc="gradient norm; null: none")


@dataclasses.dataclass(frozen=True)
class HuntConfig:
    punishment: float = 0.0  # reward of a lone catch
    size: int = setting(10, low=1, high=16)


@dataclasses.dataclass(frozen=True)
class TableConfig:
    payoff: tuple = ((1.0, 0.0), (0.0, 1.0))
    labels: tuple[str, ...] = ()


def make_table(settings):
    if any(not isinstance(row, tuple) for row in settings.payoff):
        raise ValueError(f"env.payoff is {settings.payoff}; expected one axis per agent")
    return make_matrix_game(MatrixGameConfig(payoff=settings.payoff))


FILES = {
    "env/big_hunt.yaml": "# a big hunt\nname: hunt\nsize: 12\n",
    "env/hunt_hard.yaml": "# a hard hunt\nname: hunt\npunishment: -2\n",
    "env/maps/small.yaml": "# a folder\nname: hunt\nsize: 3\n",
    "train/default.yaml": "# usual\nseeds: 4\n",
    "train/long.yaml": "# long\nenv_steps: 1000000\n",
    "preset/hard.yaml": "# hard\nenv: {name: hunt_hard}\nalgo: {lr: 1e-2}\ntrain: {seeds: 9}\n",
    "preset/big.yaml": "# big\nalgo:\n  hidden: 128\n",
}


OFFERED = (Entry("hunt", HuntConfig, None, ""), Entry("table", TableConfig, make_table, ""))


@pytest.fixture(autouse=True)
def registry(monkeypatch, tmp_path):
    monkeypatch.setattr(algorithms, "ALGORITHMS", {"soft": Entry("soft", SoftConfig, None, "")}, raising=False)
    monkeypatch.setattr(envs, "ENVS", {entry.name: entry for entry in OFFERED}, raising=False)
    monkeypatch.delenv(files.VARIABLE, raising=False)
    for name, text in FILES.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(files, "config_folder", lambda: tmp_path / "configs")
    return tmp_path


def soft(*overrides, env="hunt", **more) -> Config:
    return compose(algo="soft", env=env, overrides=overrides, **more)


def refusal(*overrides, **more) -> str:
    with pytest.raises(ConfigError) as error:
        soft(*overrides, **more)
    message = str(error.value)
    assert "\n" not in message
    return message


def write(folder, text, name="mine.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


# YAML 1.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e3", 1000.0),
        ("1E3", 1000.0),
        ("-2.5e+2", -250.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+7", 7),
        ("-7", -7),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("no", "no"),
        ("y", "y"),
        ("Off", "Off"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2024-01-01", "2024-01-01"),
        ("<<", "<<"),
        ("'3e-4'", "3e-4"),
        ("e3", "e3"),
        ("[1, 2e0, x]", [1, 2.0, "x"]),
    ],
)
def test_plain_scalars_follow_the_yaml_1_2_core_schema(text, value):
    parsed = yaml12.parse_value(text, "key")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("text", "value"), [(".inf", math.inf), ("-.INF", -math.inf), ("+.Inf", math.inf)])
def test_infinities_are_read(text, value):
    assert yaml12.parse_value(text, "key") == value


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_is_read(text):
    assert math.isnan(yaml12.parse_value(text, "key"))


@pytest.mark.parametrize(
    "value",
    [
        "3e-4",
        "1e3",
        "010",
        "0o17",
        "true",
        "no",
        "null",
        "",
        "1:30",
        ".inf",
        "a: b",
        "# x",
        "é",
        "x" * 300,
        1e-05,
        0.1,
        1e300,
        -0.0,
        math.inf,
        -math.inf,
        2**31,
        True,
        None,
        [],
        [[8, -12], [0.5, "yes"]],
        {"a": 1},
    ],
)
def test_what_is_dumped_is_read_back_equal(value):
    parsed = yaml12.parse(yaml12.dump({"key": value}), "text")["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_key_that_appears_twice_is_named_with_its_line(registry):
    path = write(registry, "algo:\n  lr: 1\n  hidden: 2\n  lr: 3\n")
    message = refusal(files=[path])
    assert message == f'{path} line 4: found duplicate key "lr" with value "3" (original value: "1")'


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("algo: [", "line 1"),
        ("- 1\n", "expected 'key: value' lines"),
        ("1: 2\n", "key 1 is not text"),
        ("algo: !!python/object/apply:os.system ['true']\n", "python/object/apply:os.system is no plain data"),
        ("algo: 3\n", "algo is 3; expected 'key: value' lines below it"),
        ("algo: !!int 3x\n", "line 1: int 3x is no plain data"),
        ("algo: \x07\n", "YAML 1.2"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(registry, text, part):
    path = write(registry, text)
    message = refusal(files=[path])
    assert part in message
    assert path in message


def test_an_unreadable_file_is_named(registry):
    assert refusal(files=[registry / "absent.yaml"]) == (
        f"cannot read config {registry / 'absent.yaml'}: No such file or directory; expected a readable YAML file"
    )
    (registry / "latin.yaml").write_bytes(b"algo: {target: \xe9}")
    assert "not UTF-8" in refusal(files=[registry / "latin.yaml"])


# Layers


def test_later_layers_win(registry):
    mine = write(registry, "algo:\n  lr: 0.25\nseeds: 5\n")
    assert soft().algo == SoftConfig()
    assert soft(env="big_hunt").env.size == 12  # file over default
    assert TrainConfig().env_steps == 200_000
    assert soft(train="long").train.env_steps == 1_000_000
    assert soft().train.seeds == 4
    assert compose(algo="soft", env="hunt_hard", presets=["hard"]).algo.lr == 1e-2  # preset over default
    assert compose(algo="soft", presets=["hard"]).train.seeds == 9  # preset over file
    both = compose(algo="soft", presets=["hard"], files=[mine])
    assert (both.algo.lr, both.train.seeds, both.env.punishment) == (0.25, 5, -2.0)  # user's file over preset
    typed = compose(algo="soft", presets=["hard"], files=[mine], overrides=["algo.lr=0.5", "seeds=6"])
    assert (typed.algo.lr, typed.train.seeds) == (0.5, 6)  # overrides over all
    assert soft("algo.lr=1", "algo.lr=2").algo.lr == 2.0


@pytest.mark.usefixtures("shipped")
def test_an_environment_is_called_by_its_map():
    assert compose().where == "predator_prey"
    assert compose(env="smax/8m").where == "smax/8m"
    assert compose(env="smac/MMM2").where == "smac/MMM2"


def test_presets_apply_in_order(registry):
    write(registry / "configs" / "preset", "algo: {hidden: 7}\n", "small.yaml")
    assert soft(presets=["big", "small"]).algo.hidden == 7
    assert soft(presets=["small", "big"]).algo.hidden == 128


def test_names_are_files_or_registered_and_may_contain_a_slash(registry):
    assert soft(env="hunt_hard").env == HuntConfig(punishment=-2.0)
    assert soft(env="hunt_hard").env_name == "hunt"
    assert soft(env="maps/small").env.size == 3
    assert soft(train="long").train.env_steps == 1_000_000
    assert soft(env="table").env == TableConfig()  # registered, no file
    assert soft(env="hunt").env == HuntConfig()


def test_a_file_can_choose_the_environment(registry):
    mine = write(registry, "env:\n  name: table\n  payoff: [[1, 2], [3, 4]]\nalgo: {name: soft, twin: true}\n")
    made = compose(files=[mine], algo=None)
    assert (made.env_name, made.env.payoff) == ("table", ((1, 2), (3, 4)))
    assert made.algo.twin
    assert compose(overrides=["env.name=maps/small", "algo.name=soft"]).env.size == 3


def test_an_unknown_name_in_a_file_is_refused_with_the_file(registry):
    mine = write(registry, "env: {name: tabel}\n")
    with pytest.raises(ConfigError) as error:
        compose(algo="soft", files=[mine])
    assert str(error.value) == f"unknown env 'tabel'; did you mean table? (in {mine})"


def test_a_later_file_replaces_the_environment_of_an_earlier_one(registry):
    table = write(registry, "env: {name: table, payoff: [[5]]}\n", "table.yaml")
    hunt = write(registry, "env: {name: hunt, size: 5}\n", "hunt.yaml")
    assert compose(algo="soft", files=[table, hunt]).env == HuntConfig(size=5)


def test_a_file_for_another_environment_than_asked_for_is_refused(registry):
    mine = write(registry, "env:\n  name: table\n")
    assert refusal(files=[mine]) == f"env 'hunt' was asked for, but {mine} is for env 'table'; leave out one"
    assert soft(files=[write(registry, "env: {name: hunt}\n")], env="hunt_hard").env.punishment == -2.0


def test_values_of_overrides_are_yaml(registry):
    made = soft("algo.lr=3e-4", "env.punishment=-2", "seeds=64", "seed=1", "algo.clip=null", "algo.twin=true")
    assert (made.algo.lr, made.env.punishment, made.train.seeds, made.train.seed) == (3e-4, -2.0, 64, 1)
    assert made.algo.clip is None
    assert made.algo.twin is True
    assert soft("env.payoff=[[8,-12],[0,0]]", env="table").env.payoff == ((8, -12), (0, 0))
    assert soft("train.name=2024").train.name == "2024"
    assert soft("train.name=a,b").train.name == "a,b"
    assert soft("train.sinks=wandb,tensorboard").train.sinks == ("wandb", "tensorboard")
    assert soft("train.sinks=wandb").train.sinks == ("wandb",)
    assert soft("train.run_dir=/tmp/a=b").train.run_dir == "/tmp/a=b"


def test_whole_numbers_become_floats_where_the_setting_is_one():
    assert type(soft("algo.lr=1").algo.lr) is float


# Refusals


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("algo.lamda_1=1", "unknown key algo.lamda_1 of soft; did you mean algo.lambda_1? (in an override)"),
        ("algo.zzz=1", "unknown key algo.zzz of soft; expected one of algo."),
        ("trian.seeds=1", "unknown section 'trian' of key trian.seeds; did you mean train? (in an override)"),
        ("sedes=1", "unknown key sedes; did you mean seeds? (in an override)"),
        ("lr=1", "unknown key lr; expected its section too: algo.lr or env.lr or train.lr (in an override)"),
        ("train.seeds=0", "train.seeds is 0; expected a number >= 1 and <= 1000000 (in an override)"),
        ("train.seeds=-3", "train.seeds is -3; expected a number >= 1 and <= 1000000 (in an override)"),
        ("train.seeds=3.0", "train.seeds is 3.0; expected a whole number (in an override)"),
        ("train.seeds=true", "train.seeds is true; expected a whole number (in an override)"),
        ("train.seeds=", "train.seeds is ; expected a whole number (in an override)"),
        ("train.env_steps=-5", "train.env_steps is -5; expected a number >= 1 and <= 2000000000 (in an override)"),
        ("train.env_steps=1e6", "train.env_steps is 1e6; expected a whole number (in an override)"),
        ("algo.trace=1.1", "algo.trace is 1.1; expected a number >= 0 and <= 1 (in an override)"),
        ("algo.lr=0", "algo.lr is 0; expected a number > 0 (in an override)"),
        ("algo.lr=fast", "algo.lr is fast; expected a number (in an override)"),
        ("algo.lr=.nan", "algo.lr is .nan; expected a finite number (in an override)"),
        ("algo.lr=.inf", "algo.lr is .inf; expected a finite number (in an override)"),
        ("algo.clip=x", "algo.clip is x; expected a number or null (in an override)"),
        ("algo.twin=1", "algo.twin is 1; expected true or false (in an override)"),
        ("algo.twin=yes", "algo.twin is yes; expected true or false (in an override)"),
        ("algo.target=sotf", "algo.target is sotf; expected one of greedy, soft (in an override)"),
        (
            "train.matmul_precision=float16",
            "train.matmul_precision is float16; expected one of float32, tensorfloat32, bfloat16 (in an override)",
        ),
        ("train.sinks=3", "train.sinks is 3; expected a list of text (in an override)"),
        ("train.sinks=csv", "train.sinks is csv; expected one of tensorboard, wandb, trackio (in an override)"),
        ("train.sinks=[csv]", "train.sinks is [csv]; expected one of tensorboard, wandb, trackio (in an override)"),
        ("algo.lr", "cannot read override 'algo.lr'; expected section.key=value, for example algo.lr=3e-4"),
        ("=3", "cannot read override '=3'; expected section.key=value, for example algo.lr=3e-4"),
        ("env.punishment=[", "env.punishment line 1: "),
        ("train.name=../x", "train.name is '../x'; expected a folder's name; put its path into train.run_dir"),
    ],
)
def test_a_bad_value_is_refused_by_key_value_and_expectation(word, message):
    assert refusal(word).startswith(message)


def test_a_bad_value_in_a_file_is_refused_with_the_file(registry):
    mine = write(registry, "algo:\n  lamda_1: 1\n")
    assert refusal(files=[mine]) == f"unknown key algo.lamda_1 of soft; did you mean algo.lambda_1? (in {mine})"
    mine = write(registry, "algo:\n  twin: 'true'\n")
    assert refusal(files=[mine]) == f"algo.twin is 'true'; expected true or false (in {mine})"
    assert "(in configs/train/default.yaml)" in _with_file(registry, "train/default.yaml", "seedz: 3\n")
    assert "env.name is missing" in _with_file(registry, "env/big_hunt.yaml", "size: 3\n", env="big_hunt")
    assert "did you mean hunt?" in _with_file(registry, "env/big_hunt.yaml", "name: hunts\n", env="big_hunt")


def _with_file(registry, name, text, **more) -> str:
    write(registry / "configs", FILES[name], name)
    write(registry / "configs", text, name)
    message = refusal(**more)
    write(registry / "configs", FILES[name], name)
    return message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"algo": "sofd"}, "unknown algo 'sofd'; did you mean soft?"),
        ({"algo": "SOFT"}, "unknown algo 'SOFT'; did you mean soft?"),
        ({"env": "hunt_hart"}, "unknown env 'hunt_hart'; did you mean hunt_hard?"),
        ({"train": "lang"}, "unknown train 'lang'; did you mean long?"),
        ({"presets": ["bug"]}, "unknown preset 'bug'; did you mean big?"),
        ({"env": "zzz"}, "unknown env 'zzz'; expected one of big_hunt, hunt, hunt_hard, maps/small, table"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(names, message):
    with pytest.raises(ConfigError) as error:
        compose(**{"algo": "soft", "env": "hunt", **names})
    assert str(error.value) == message


def test_a_batch_larger_than_replay_is_refused():
    assert refusal("algo.batch_size=64", "train.buffer_capacity=32") == (
        "algo.batch_size is 64; expected at most train.buffer_capacity (32); "
        "raise train.buffer_capacity or lower algo.batch_size"
    )


def test_a_replay_that_rollouts_do_not_fill_evenly_is_refused_with_the_nearest_sizes():
    assert refusal("train.buffer_capacity=100") == (
        "train.buffer_capacity is 100; expected a multiple of train.n_envs (8); use 96 or 104"
    )
    assert refusal("train.buffer_capacity=5").endswith("use 8")


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused():
    assert refusal("train.micro_batch=3") == (
        "train.micro_batch is 3; expected a divisor of algo.batch_size (32): 1, 2, 4, 8, 16, 32, "
        "or 0 to let the planner choose"
    )
    assert soft("train.micro_batch=8").train.micro_batch == 8


def test_a_configuration_built_by_hand_is_checked_too():
    made = soft()
    composition.check(made)
    bad = dataclasses.replace(made, algo=dataclasses.replace(made.algo, trace=2.0))
    with pytest.raises(ConfigError, match=r"algo.trace is 2.0; expected a number >= 0 and <= 1"):
        composition.check(bad)
    with pytest.raises(ConfigError, match=r"train\.seeds is 0"):
        composition.check(dataclasses.replace(made, train=TrainConfig(seeds=0)))
    with pytest.raises(ConfigError, match="grid key hidden cannot be swept"):
        composition.check(dataclasses.replace(made, grid=(("hidden", (1.0, 2.0)),)))
    with pytest.raises(ConfigError, match="expected it to start with"):
        composition.check(dataclasses.replace(made, grid=(("lr", (1.0, 2.0)),)))


def test_what_an_environment_refuses_is_a_config_error():
    assert composition.make_env(soft("env.payoff=[[1,2,3],[3,4,3],[0,0,0]]", env="table")).max_return == 4.0
    with pytest.raises(ConfigError, match=r"env.payoff is \(1, 2\); expected one axis per agent"):
        composition.make_env(soft("env.payoff=[1, 2]", env="table"))


# Grids


def test_comma_lists_on_traced_numbers_form_a_cartesian_grid():
    made = soft("algo.lr=1e-3,3e-4", "algo.trace=0,0.5,1", "seeds=2")
    assert dict(made.grid) == {"lr": (1e-3, 3e-4), "trace": (0.0, 0.5, 1.0)}
    points = composition.grid_points(made)
    assert len(points) == 6
    assert points[0] == {"lr": 1e-3, "trace": 0.0}
    assert points[1] == {"lr": 1e-3, "trace": 0.5}
    assert points[3] == {"lr": 3e-4, "trace": 0.0}
    assert (made.algo.lr, made.algo.trace) == (1e-3, 0.0)  # the first point


def test_without_a_grid_there_is_one_empty_point():
    assert composition.grid_points(soft()) == ({},)


def test_swept_keys_are_the_traced_ones():
    assert composition.swept_keys("soft") == ("lr", "lambda_1", "trace", "anneal")


@pytest.mark.parametrize("word", ["algo.hidden=32,64", "env.punishment=0,-2", "train.n_envs=4,8"])
def test_a_comma_list_on_a_static_key_is_refused_with_the_keys_that_can_be_swept(word):
    message = refusal(word)
    assert message.startswith(word.partition("=")[0] + " has several values")
    assert "keys that can be swept: algo.lr, algo.lambda_1, algo.trace, algo.anneal" in message


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("algo.trace=0.5,2", "algo.trace is 2; expected"),
        ("algo.trace=0.5,", "algo.trace is null; expected a number"),
        ("algo.lr=1e-3,0.001", "expected different ones"),
        ("algo.anneal=1,2.5", "algo.anneal is 2.5; expected a whole number"),
    ],
)
def test_every_value_of_a_grid_is_checked(word, part):
    assert part in refusal(word)


def test_a_file_may_hold_a_grid_and_an_override_replaces_it(registry):
    mine = write(registry, "grid:\n  algo.lr: [1e-3, 3e-4]\n")
    assert soft(files=[mine]).grid == (("lr", (1e-3, 3e-4)),)
    assert soft("algo.lr=1e-2", files=[mine]).grid == ()
    assert soft("algo.lr=1e-2", files=[mine]).algo.lr == 1e-2
    assert "expected a list of numbers" in refusal(files=[write(registry, "grid: {algo.lr: 3}\n")])


# Resolved files and resuming


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("algo.lr=1e-5", "algo.clip=null", "train.name='3e-4'", "train.sinks=[wandb]", "train.run_dir=off"),
        ("algo.lr=1e-3,3e-4", "algo.anneal=5,7"),
        ("env.punishment=-0.1", "algo.lambda_1=0.30000000000000004"),
    ],
)
def test_a_resolved_file_reads_back_exactly(registry, words):
    made = soft(*words)
    assert from_yaml(to_yaml(made)) == made
    assert compose(files=[write(registry, to_yaml(made))]) == made
    assert to_yaml(from_yaml(to_yaml(made))) == to_yaml(made)


def test_a_resolved_file_with_a_payoff_reads_back_exactly():
    made = soft("env.payoff=[[8,-12.5],[0,0]]", "env.labels=[on,'1']", env="table")
    assert from_yaml(to_yaml(made)) == made
    assert made.env.labels == ("on", "1")


def test_a_resolved_file_holds_every_setting():
    content = yaml12.parse(to_yaml(soft()), "text")
    assert set(content["train"]) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert content["algo"].keys() - {"name"} == {field.name for field in dataclasses.fields(SoftConfig)}


def test_a_resolved_file_without_a_name_is_refused():
    with pytest.raises(ConfigError, match=r"algo\.name is missing"):
        from_yaml("train: {seeds: 3}\n")


def test_differences_name_the_key_and_both_values():
    saved = soft("algo.lr=1e-3")
    assert composition.differences(saved, saved) == []
    assert composition.differences(saved, soft("algo.lr=3e-4", "env.size=9")) == [
        "algo.lr: 0.001 -> 0.0003",
        "env.size: 10 -> 9",
    ]
    other = composition.differences(saved, soft("algo.lr=1e-3", env="table"))
    assert other[0] == "env.name: hunt -> table"
    assert "env.size: 10 -> (absent)" in other
    grid = composition.differences(saved, soft("algo.lr=1e-3,2e-3"))
    assert grid == ["grid algo.lr: (absent) -> [0.001, 0.002]"]


RESUMABLE = {
    "train": {
        *("env_steps", "chunk_seconds", "checkpoint_minutes", "run_dir", "name", "sinks", "cache_dir", "memory_gib"),
        *("cpu_devices", "replay"),
    },
    "env": {
        "python",
        "sc2_path",
        "deadline",
        "launch_deadline",
        "stagger",
        "backoff",
        "max_restarts",
        "min_ready",
        "hosts",
    },
}


@pytest.mark.usefixtures("shipped")
def test_a_resumed_run_may_have_other_values_of_these_settings_and_of_no_others():
    of_train = {f"train.{key}" for key in RESUMABLE["train"]}
    for algo in algorithms.ALGORITHMS:
        assert composition.resumable_keys(compose(algo=algo)) == of_train, algo
    for env, entry in envs.ENVS.items():
        keys = {field.name for field in dataclasses.fields(entry.config)} if entry.hosted else set()
        expected = of_train | {f"env.{key}" for key in keys & RESUMABLE["env"]}
        assert composition.resumable_keys(compose(env=env)) == expected, env


def test_differences_ignore_what_may_change_on_resume():
    changed = ("train.env_steps=7", "train.chunk_seconds=1", "train.checkpoint_minutes=1", "train.run_dir=x")
    changed += ("train.name=y", "train.sinks=[wandb]", "train.cache_dir=off", "train.memory_gib=2")
    assert composition.differences(soft(), soft(*changed)) == []
    assert composition.differences(soft(), soft("train.seed=1")) == ["train.seed: 0 -> 1"]


@pytest.mark.usefixtures("shipped")
def test_differences_ignore_where_games_on_the_host_are_played():
    saved = compose(env="smac")
    assert composition.differences(saved, compose(env="smac", overrides=["env.deadline=5", "env.min_ready=2"])) == []
    assert composition.differences(saved, compose(env="smac", overrides=["env.overlap=false"])) == [
        "env.overlap: true -> false"
    ]


# Keys that have gone


@pytest.fixture
def old(shipped):
    """The config.yaml of a run from before `algo.updates` was the only number of updates, as text by that number."""
    text = to_yaml(compose(algo="qmix", overrides=["algo.updates=4", "seeds=3"]))
    return lambda n: text.replace("  buffer_capacity:", f"  updates_per_iteration: {n}\n  buffer_capacity:")


def test_an_old_run_that_left_its_updates_to_the_algorithm_is_read(old):
    assert "updates_per_iteration: 0" in old(0)
    assert from_yaml(old(0)) == compose(algo="qmix", overrides=["algo.updates=4", "seeds=3"])


def test_an_old_runs_own_number_of_updates_becomes_that_of_the_algorithm(old):
    assert from_yaml(old(2)) == compose(algo="qmix", overrides=["algo.updates=2", "seeds=3"])
    with pytest.raises(ConfigError, match=r"algo\.updates is -1; expected a number >= 1"):
        from_yaml(old(-1))


def test_a_key_that_has_gone_is_refused_elsewhere_with_what_it_became(old, tmp_path):
    def complaint(**given):
        with pytest.raises(ConfigError) as error:
            compose(algo="qmix", **given)
        return str(error.value)

    gone = "unknown key train.updates_per_iteration; it is algo.updates now"
    assert complaint(overrides=["train.updates_per_iteration=2"]) == f"{gone} (in an override)"
    mine = write(tmp_path, old(0))
    assert complaint(files=[mine]) == f"{gone} (in {mine})"
    with pytest.raises(ConfigError, match=r"it is algo\.updates now"):
        from_yaml(old(0), overrides=["train.updates_per_iteration=2"])


def test_overrides_are_laid_over_a_runs_text_and_leave_its_names_alone():
    text = to_yaml(soft("algo.lr=1e-3,3e-4", "seeds=2"))
    assert from_yaml(text, overrides=["seeds=5", "algo.clip=null"]) == soft(
        "algo.lr=1e-3,3e-4", "seeds=5", "algo.clip=null"
    )
    assert from_yaml(text, overrides=["algo.lr=1"]).grid == ()
    assert from_yaml(text, overrides=["env.name=hunt"]) == from_yaml(text)
    with pytest.raises(ConfigError, match=r"env\.name is table; expected hunt, as in run/config\.yaml; leave it alone"):
        from_yaml(text, "run/config.yaml", ["env.name=table"])
    with pytest.raises(ConfigError, match=r"unknown key algo\.lrr of soft; did you mean algo\.lr"):
        from_yaml(text, overrides=["algo.lrr=1"])


# Documentation


def test_description_gives_key_default_meaning_and_range():
    docs = {doc.key: doc for doc in documents.describe("algo", SoftConfig, composition.swept_keys("soft"))}
    assert next(iter(docs)) == "algo.lr"
    assert docs["algo.trace"] == ("algo.trace", "0.6", "TD(λ)", "a number >= 0 and <= 1", True)
    assert docs["algo.target"] == ("algo.target", "greedy", "kind of target", "one of greedy, soft", False)
    assert docs["algo.clip"].allowed == "a number > 0"
    hunt = {doc.key: doc for doc in documents.describe("env", HuntConfig)}
    assert hunt["env.punishment"] == ("env.punishment", "0.0", "reward of a lone catch", "a number", False)


def test_a_setting_without_a_range_allows_everything():
    plain = dataclasses.fields(HuntConfig)[0]
    assert settings.range_problem(plain, -1e9) is None
    assert settings.range_text(plain) == ""


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (tuple[float, ...], [1, 2.5], None),
        (tuple[float, ...], [1, "a"], "a list of numbers"),
        (tuple[int, int], [1], "a list of 2 whole numbers"),
        (tuple[tuple[float, ...], ...], [1.0], "a list of lists of numbers"),
        (tuple, 3, "a list"),
        (int | None, "x", "a whole number or null"),
        (float, 10**400, "a finite number"),
        (float | None, math.inf, "a finite number or null"),
        (tuple[float, ...], [math.nan], "a list of numbers"),
        (int, 2**31, "a whole number of at most 2147483647"),
        (int, -(10**400), "a whole number of at most 2147483647"),
        (str, "a\0b", "text that a file can hold"),
        (str, "\ud800", "text that a file can hold"),
        (tuple[str, ...], ["\ud800"], "a list of text"),
        (str, "é 😀 \u2028", None),
        (int, True, "a whole number"),
        (Any, "anything", None),
    ],
)
def test_types_are_checked_strictly(annotation, value, expected):
    assert settings.type_problem(annotation, value) == expected


def test_freezing_makes_tuples_and_floats():
    assert settings.freeze(tuple[tuple[float, ...], ...], [[1, 2], [3, 4]]) == ((1.0, 2.0), (3.0, 4.0))
    assert type(settings.freeze(float | None, 3)) is float
    assert settings.freeze(float | None, None) is None


@pytest.mark.usefixtures("shipped")
def test_a_mapping_is_a_setting_in_files_and_on_the_command_line_and_comes_back_equal():
    made = compose(
        env="jaxmarl", overrides=["env.game=overcooked", "env.arguments={layout: ring, sizes: [[1, 2], [3]]}"]
    )
    assert made.env.arguments == {"layout": "ring", "sizes": [[1, 2], [3]]}
    assert from_yaml(to_yaml(made)) == made
    assert hash(from_yaml(to_yaml(made))) == hash(made)
    with pytest.raises(ConfigError, match=r"^env\.arguments is ring; expected a mapping or null \(in an override\)$"):
        compose(env="jaxmarl", overrides=["env.arguments=ring"])


# Shipped files

SHIPPED = {section: list(files.config_files(section)) for section in ("env", "train", "preset")}
NAMED = [("algo", name) for name in algorithms.ALGORITHMS] + [("env", name) for name in envs.ENVS]
NAMED += [(section, name) for section in SHIPPED for name in SHIPPED[section]]


@pytest.fixture
def shipped(monkeypatch):
    """The real registries and files instead of the small ones above."""
    monkeypatch.undo()


def build(made: Config):
    """Every part that a configuration describes."""
    composition.check(made)
    env = composition.make_env(made)
    algorithm = algorithms.ALGORITHMS[made.algo_name].factory(env.spec, made.algo, env.observe)
    return env, algorithm


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(("section", "name"), NAMED)
def test_every_registered_name_and_every_shipped_file_is_built(section, name):
    needed = [f"env.make={ZOO}"] if name == "parallel" else []  # which has no game of its own
    made = compose(presets=[name]) if section == "preset" else compose(**{section: name}, overrides=needed)
    if made.env_name == "jaxmarl" and not HAS_JAXMARL:
        pytest.skip("jaxmarl is not installed: pip install 'jaxmarl>=0.2,<0.3'")
    if made.env_name == "jumanji" and not HAS_JUMANJI:
        pytest.skip("jumanji is not installed: pip install 'lsf-jax[jumanji]'")
    env, algorithm = build(made)
    assert env.spec.n_agents >= 2
    assert algorithm.name == made.algo_name
    assert from_yaml(to_yaml(made)) == made


@pytest.mark.usefixtures("shipped")
def test_a_registered_name_alone_is_its_defaults():
    for name, entry in algorithms.ALGORITHMS.items():
        assert compose(algo=name).algo == entry.config(), name
    for name, entry in envs.ENVS.items():
        assert compose(env=name).env == entry.config(), name


@pytest.mark.usefixtures("shipped")
def test_no_file_says_what_the_registry_says_already():
    assert not (files.config_folder() / "algo").exists()
    assert [name for name in SHIPPED["env"] if name in envs.ENVS] == []


@pytest.mark.usefixtures("shipped")
def test_files_named_default_hold_the_defaults():
    assert compose().train == TrainConfig()
    assert compose().algo == algorithms.ALGORITHMS["lsf_sac"].config()


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(("name", "p"), [("p0", 0.0), ("p05", -0.5), ("p125", -1.25), ("p15", -1.5), ("p2", -2.0)])
def test_named_punishments(name, p):
    assert compose(env=f"predator_prey_{name}").env == dataclasses.replace(compose().env, punishment=p)


PROTOCOLS = """
pymarl  vdn       32  5e-4 rmsprop 5e-6 5  0   1   0.05 50000  -         1 5000
pymarl  qmix      32  5e-4 rmsprop 5e-6 5  0   1   0.05 50000  -         1 5000
pymarl  iql       32  5e-4 rmsprop 5e-6 5  0   1   0.05 50000  -         1 5000
pymarl  qtran     32  5e-4 rmsprop 0    10 -   1   0.05 50000  -         1 5000
pymarl  qplex     32  5e-4 rmsprop 5e-6 5  0   1   0.05 50000  -         1 5000
pymarl  ow_qmix   32  5e-4 rmsprop 5e-6 5  0   1   0.05 50000  -         1 5000
pymarl  coma      8   5e-4 rmsprop 0    10 0.8 0.5 0.01 100000 all       8 8
pymarl  vdac_mix  8   5e-4 rmsprop 0    10 0.8 0.5 0.01 100000 all       8 8
pymarl  dop       16  1e-4 rmsprop 0    20 0.8 0.5 0.05 500000 all       4 5000
pymarl  fop       32  5e-4 rmsprop 0    10 0.8 1   0.05 50000  -         1 5000
pymarl  ndq       32  5e-4 rmsprop 0    10 0   1   0.05 50000  -         8 5000
pymarl2 vdn       128 1e-3 adam    0    10 0.6 1   0.05 100000 -         8 5000
pymarl2 qmix      128 1e-3 adam    0    10 0.6 1   0.05 100000 -         8 5000
pymarl2 iql       32  5e-4 adam    0    10 0   1   0.05 100000 -         8 5000
pymarl2 qtran     128 5e-4 adam    0    10 -   1   0.05 100000 -         8 5000
pymarl2 qplex     128 1e-3 adam    0    10 0.6 1   0.05 100000 -         8 5000
pymarl2 cw_qmix   128 1e-3 adam    0    5  0.6 1   0.05 100000 -         8 5000
pymarl2 dop       32  5e-4 rmsprop 1e-8 20 0.8 0.5 0.05 500000 available 8 5000
pymarl2 vdac_mix  8   1e-3 rmsprop 1e-8 10 0.8 0.5 0    100000 available 8 8
pymarl2 lsf_sac   128 1e-3 adam    0    10 0.6 1   0.05 100000 -         8 5000
"""
"""By the YAML files of the code bases: batch, lr, optimiser, its ε (0: rmsprop 1e-5, adam 1e-8) and clip (both half,
where our loss is half of theirs), λ, ε from, to, over how many steps, over which actions where it is a floor,
environments, episodes stored."""
ON_POLICY = ("coma", "maa2c", "vdac_sum", "vdac_mix")


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("line", PROTOCOLS.strip().splitlines())
def test_presets_pymarl_and_pymarl2_are_what_these_code_bases_run(line):
    preset, name, *numbers = line.split()
    full = compose(algo=name, presets=[preset])
    algo, train = full.algo, full.train
    epsilon = (algo.epsilon_start, algo.epsilon_finish, algo.epsilon_anneal)
    optimizer = (algo.optimizer, algo.optimizer_epsilon, algo.grad_clip)
    trace, floor = (getattr(algo, key, "-") for key in ("trace", "floor_over"))
    actual = [algo.batch_size, algo.lr, *optimizer, trace, *epsilon, floor]
    for got, expected in zip([*actual, train.n_envs, train.buffer_capacity], numbers, strict=True):
        assert got == (float(expected) if expected[0].isdigit() else expected)
    assert full.algo.updates == 1


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("preset", ["pymarl", "pymarl2", "paper", "release", "smax"])
def test_a_preset_without_an_algorithm_suits_every_one(preset):
    """On-policy data stay the newest, with a policy that has a gradient; an ablation keeps what makes it one."""
    for name, entry in algorithms.ALGORITHMS.items():
        full, usual = compose(algo=name, presets=[preset]), compose(algo=name)
        assert entry.config is type(full.algo)
        if name in ON_POLICY:
            assert full.algo.batch_size == full.train.n_envs == 8
            assert full.algo.epsilon_start < 1
        if name in ("masac_double_q", "lsf_sac_fixed_alpha"):
            assert full.algo.learn_temperature == usual.algo.learn_temperature
            assert full.algo.td_target == usual.algo.td_target
    assert compose(algo="lsf_sac_fixed_alpha", presets=[preset]).algo.alpha == 1.0


@pytest.mark.usefixtures("shipped")
def test_a_misspelt_key_in_a_preset_for_any_algorithm_suits_none(monkeypatch):
    bad = {("algo", "treis"): layers.Given(0.5, "configs/preset/bad.yaml")}
    monkeypatch.setattr(layers, "preset_layer", lambda found, name, algo=None: bad)
    with pytest.raises(composition.ConfigError, match=r"unknown key algo\.treis"):
        compose(algo="qmix", presets=["bad"])


def test_a_preset_may_say_what_is_different_for_one_algorithm(registry):
    text = "algo: {{lr: 0.5}}\ntrain: {{seeds: 9}}\nalgorithms:\n  {}: {{algo: {{lr: 0.25}}, train: {{seeds: 7}}}}\n"
    write(registry / "configs" / "preset", text.format("soft"), "mixed.yaml")
    mixed = soft(presets=["mixed"])
    assert (mixed.algo.lr, mixed.train.seeds) == (0.25, 7)
    assert soft("algo.lr=1", presets=["mixed"]).algo.lr == 1.0
    assert layers.preset_layer(files.named_files(), "mixed")["algo", "lr"].value == 0.5
    write(registry / "configs" / "preset", text.format("sofd"), "mixed.yaml")
    assert refusal(presets=["mixed"]) == "algo.name is sofd; did you mean soft? (in configs/preset/mixed.yaml)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algorithms: 3\n", "algorithms is 3; expected 'key: value' lines below it (in configs/preset/bad.yaml)"),
        ("algorithms: {soft: [1]}\n", "algorithms soft is [1]; expected 'key: value' lines below it"),
        ("algorithms: {soft: {algo: x}}\n", "algo is x; expected 'key: value' lines below it"),
    ],
)
def test_a_preset_with_something_else_where_lines_belong_is_refused(registry, text, message):
    write(registry / "configs" / "preset", text, "bad.yaml")
    assert refusal(presets=["bad"]).startswith(message)


@pytest.mark.usefixtures("shipped")
def test_presets_paper_and_release_differ_in_documented_keys_only():
    lines = composition.differences(compose(presets=["paper"]), compose(presets=["release"]))
    documented = {
        "message_routing",
        "label",
        "trace",
        "policy_sign",
        "behaviour",
        "target_entropy",
        "alpha",
        "alpha_lr",
    }
    documented |= {"alpha_clamps", "logit_clamp", "mask_messages", "actor_clip"}
    assert {line.partition(":")[0] for line in lines} == {f"algo.{key}" for key in documented}
    assert compose(presets=["release"]).algo.alpha == pytest.approx(math.exp(-0.07), rel=1e-12)
    assert compose(presets=["paper"]).algo.batch_size == compose(presets=["release"]).algo.batch_size == 128


@pytest.mark.usefixtures("shipped")
def test_every_setting_of_every_section_is_explained():
    sections = [("algo", entry.config) for entry in algorithms.ALGORITHMS.values()]
    sections += [("env", entry.config) for entry in envs.ENVS.values()] + [("train", TrainConfig)]
    for section, config_class in sections:
        unexplained = [doc.key for doc in documents.describe(section, config_class) if not (doc.doc and doc.allowed)]
        assert unexplained == [], config_class


@pytest.mark.usefixtures("shipped")
def test_every_traced_number_is_a_setting():
    for name, entry in algorithms.ALGORITHMS.items():
        assert composition.swept_keys(name) == entry.hyper._fields


def test_a_single_seed_is_one():
    sizes = [compose(algo="soft", env="hunt", overrides=[f"seeds={n}", "train.env_steps=2000"]).size for n in (1, 2)]
    assert sizes == ["1 seed, 2,000 env steps each", "2 seeds, 2,000 env steps each"]
