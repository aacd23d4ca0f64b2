"""A run folder never makes us run code that the user has not named."""

import dataclasses
import json
import shlex

import jax
import pytest

from lsf_jax.analysis.compare import compare_runs
from lsf_jax.cli import app
from lsf_jax.config.composition import compose, from_yaml, make_env, make_hosted
from lsf_jax.config.documents import to_yaml
from lsf_jax.config.trust import unconfirmed
from lsf_jax.envs import ENVS
from lsf_jax.envs.parallel.hosted import from_parallel_env
from lsf_jax.programs import runtime
from lsf_jax.runs import folder
from lsf_jax.settings import ConfigError
from tests.support.parallel_cases import ZOO

REFUSED = "names code to run, which a run folder alone may not; if you trust it, name it again: "


def noted(config, words=(), modules=()):
    return unconfirmed({"env": config.env, "train": config.train}, words, modules)


def parallel(*words):
    return compose(algo="qmix", env="parallel", overrides=[f"env.make={ZOO}", *words])


@pytest.fixture
def run(tmp_path):
    """A run folder whose game leaves a file as soon as any of its code runs; and that file."""

    def make(name="run"):
        path, ran = tmp_path / name, tmp_path / "ran"
        (path / "policies").mkdir(parents=True)
        (path / "policies" / "block-0000.safetensors").touch()
        arguments = json.dumps({"marker": str(ran)})
        config = parallel(f"env.arguments={arguments}", "env.game=zoo")
        (path / folder.CONFIG).write_text(to_yaml(config))
        card = {"setup": {"environment": "zoo version 1"}, "layout": {"n_devices": 1}}
        (path / folder.CARD).write_text(json.dumps(card))
        return path, ran, [f"env.make={ZOO}", f"env.arguments={arguments}"]

    return make


def test_code_that_a_folder_names_is_not_run_before_the_user_has_named_it(run):
    path, ran, words = run()
    config, _ = folder.read_run(path)
    assert [shlex.split(word)[0] for word in config.unconfirmed] == words
    for use in (make_env, make_hosted):
        with pytest.raises(ConfigError, match=REFUSED):
            use(config)
    assert not ran.exists()
    config, _ = folder.read_run(path, words)
    assert config == folder.read_run(path)[0]
    assert make_env(config).spec.n_agents == 3
    assert ran.exists()


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_commands_say_what_to_name_in_one_line_that_can_be_pasted(run, capsys, command):
    path, ran, words = run()
    for given in ([], words[:1], words[1:]):
        assert app.main([command, str(path), *given]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        asked = shlex.split(said.partition(REFUSED)[2])
        assert sorted([*asked, *given]) == sorted(words)
    assert not ran.exists()


def test_other_code_than_the_runs_own_is_no_confirmation(run, capsys):
    path, _, words = run()
    for command, start in (("resume", "cannot be resumed with"), ("evaluate", "are not for")):
        assert app.main([command, str(path), "env.make=json:loads", words[1]]) == 2
        assert f"{start} env.make: {ZOO[:20]}" in capsys.readouterr().err


def test_rendering_such_a_run_is_refused_for_what_it_is(run, capsys):
    path, ran, _ = run()
    assert app.main(["render", str(path)]) == 2
    assert "env parallel is played on the host, which records its own games" in capsys.readouterr().err
    assert not ran.exists()


def test_such_runs_are_compared_by_what_is_written_of_them(run):
    (one, ran, _), (two, *_) = run("one"), run("two")
    assert compare_runs([one, two]).rows == (("environment", ("zoo version 1",) * 2),)
    assert not ran.exists()


def test_names_that_mean_no_code_need_no_confirmation():
    config = parallel("env.team_reward=sum", "env.state=observations", "env.deadline=5")
    assert [word.partition("=")[0] for word in noted(config)] == ["env.make"]
    assert noted(compose(env="smac/3m", overrides=["env.hosts=auto"])) == ()
    assert noted(parallel("env.state=mine:state"), [f"env.make={ZOO}"]) == ("env.state=mine:state",)


def test_programs_and_other_games_of_smac_are_code_too():
    words = ["env.python=bin/python", "env.sc2_path=here", "env.factory=mine.py:Env", "env.hosts=head:6379"]
    config = compose(env="smac/3m", overrides=words)
    assert sorted(noted(config)) == sorted(words)
    assert noted(config, words) == ()


def test_modules_that_the_user_has_named_otherwise_are_trusted_with_what_is_below_them():
    config = compose(env="parallel", overrides=["env.make=mine.games:make", "env.state=mine_too:state"])
    assert noted(config, modules=["mine"]) == ("env.state=mine_too:state",)
    assert noted(config, modules=["mine.games", "mine_too"]) == ()


def test_code_of_an_environment_of_ones_own_is_its_authors(monkeypatch):
    entry = from_parallel_env(ZOO, name="zoo", arguments={"max_cycles": 3})
    monkeypatch.setitem(ENVS, "zoo", entry)
    assert noted(compose(env="zoo")) == ()
    assert noted(compose(env="zoo", overrides=["env.make=other:make"])) == ("env.make=other:make",)


def test_what_a_user_composes_is_confirmed_and_copies_stay_what_they_are():
    assert parallel().unconfirmed == ()
    read = from_yaml(to_yaml(parallel()))
    assert read == parallel()
    assert dataclasses.replace(read, algo=read.algo).unconfirmed == (f"env.make={ZOO}",)


def test_arguments_are_names_with_values_from_a_file_and_from_the_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("env:\n  arguments:\n    max_cycles: 7\n    faults: {}\n")
    config = compose(env="parallel", files=[file])
    assert config.env.arguments == {"max_cycles": 7, "faults": {}}
    assert parallel("env.arguments={max_cycles: 7, faults: {}}").env.arguments == config.env.arguments
    with pytest.raises(ConfigError, match=r"env\.arguments is 3; expected a mapping or null"):
        parallel("env.arguments=3")


def test_a_cache_that_a_folder_names_is_not_used_before_the_user_has_named_it(tmp_path):
    cache, default = tmp_path / "elsewhere", tmp_path / "mine"
    text = to_yaml(compose(algo="qmix", env="climbing", overrides=[f"train.cache_dir={cache}"]))
    told = []
    config = from_yaml(text)
    assert config.unfollowed == (f"train.cache_dir={cache}",)
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(default))
        try:
            runtime.configure_run(config, told.append)
            assert (cache.exists(), default.exists()) == (False, True)
            assert f"if you trust it: train.cache_dir={cache}" in told[0]
            named = from_yaml(text, overrides=[f"train.cache_dir={cache}"])
            assert named == config
            runtime.configure_run(named, told.append)
        finally:
            jax.config.update("jax_compilation_cache_dir", before[0])
            jax.config.update("jax_enable_compilation_cache", before[1])
    assert (cache.exists(), len(told)) == (True, 1)
    for harmless in ("off", ""):
        assert from_yaml(text, overrides=[f"train.cache_dir={harmless}"]).unfollowed == ()
        assert from_yaml(text.replace(f"cache_dir: {cache}", f"cache_dir: '{harmless}'")).unfollowed == ()
