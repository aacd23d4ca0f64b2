"""Settings of the JAX runtime: where compiled programs are kept, and how precise and repeatable kernels are."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lsf_jax.config.train_config import TrainConfig
from lsf_jax.platforms import compiling_for, platform
from lsf_jax.programs import runtime
from lsf_jax.settings import ConfigError

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_default_matmul_precision",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def as_before():
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_is_the_configured_one_then_the_variables_then_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/from/variable")
    assert runtime.cache_folder(TrainConfig(cache_dir=str(tmp_path))) == tmp_path
    assert runtime.cache_folder(TrainConfig(cache_dir="~/x")) == Path.home() / "x"
    assert runtime.cache_folder(TrainConfig()) == Path("/from/variable")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert runtime.cache_folder(TrainConfig()).parts[-2:] == ("lsf_jax", "xla")
    assert runtime.cache_folder(TrainConfig(cache_dir="off")) is None


def test_configure_makes_the_folder_and_turns_the_cache_on_also_after_off(tmp_path):
    runtime.configure(TrainConfig(cache_dir="off"))
    assert not jax.config.jax_enable_compilation_cache
    runtime.configure(TrainConfig(cache_dir=str(tmp_path / "a" / "b")))
    assert (tmp_path / "a" / "b").is_dir()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "b")
    assert jax.config.jax_enable_compilation_cache


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"train\.cache_dir is .*file/cache.*train\.cache_dir=off"):
        runtime.configure(TrainConfig(cache_dir=str(tmp_path / "file" / "cache")))


def test_precision_is_the_configured_one():
    runtime.configure(TrainConfig(matmul_precision="bfloat16", cache_dir="off"))
    assert jax.config.jax_default_matmul_precision == "bfloat16"


def test_determinism_adds_its_flags_once_and_keeps_the_users(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_mine=1")
    for _ in range(2):
        runtime.configure(TrainConfig(deterministic=True, cache_dir="off"))
    assert os.environ["XLA_FLAGS"].split() == ["--xla_mine=1", *runtime.DETERMINISTIC_FLAGS]


def test_programs_land_in_the_folder(tmp_path):
    code = (
        "import sys, jax, jax.numpy as jnp\n"
        "from lsf_jax.programs import runtime\n"
        "from lsf_jax.config.train_config import TrainConfig\n"
        "runtime.configure(TrainConfig(cache_dir=sys.argv[1]))\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "jax.jit(lambda x: x @ x + 1)(jnp.ones((7, 7))).block_until_ready()\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(tmp_path.iterdir())


def test_compiler_options_are_those_that_this_xla_knows(monkeypatch):
    monkeypatch.setattr(runtime, "SAFE_ON_CPU", {"xla_cpu_no_such_option": "1"})
    runtime._options_on_cpu.cache_clear()
    assert runtime.compiler_options() == {}
    monkeypatch.undo()
    runtime._options_on_cpu.cache_clear()
    assert runtime.compiler_options() in ({}, runtime.SAFE_ON_CPU)


def test_what_asks_for_the_platform_hears_the_one_that_is_compiled_for():
    assert platform() == jax.default_backend() == "cpu"
    with compiling_for("gpu"):
        assert platform() == "gpu"
        assert runtime.compiler_options() == {}
    assert platform() == "cpu"


DEVICES = (
    "import sys, jax\n"
    "from lsf_jax.programs import runtime\n"
    "from lsf_jax.config.train_config import TrainConfig\n"
    "runtime.configure(TrainConfig(cache_dir='off', cpu_devices=int(sys.argv[1])), int(sys.argv[2]))\n"
    "print(jax.device_count())\n"
    "runtime.configure(TrainConfig(cache_dir='off', cpu_devices=5))\n"
    "print(jax.device_count())\n"
)


@pytest.mark.parametrize(
    ("flags", "asked", "forced", "made"),
    [
        ("", 3, 0, 3),
        ("", 3, 4, 4),  # the layout of a run that is resumed
        ("--xla_force_host_platform_device_count=2", 3, 0, 2),
        ("", 0, 0, min(runtime.cores(), runtime.MOST_CPU_DEVICES)),
    ],
)
def test_a_cpu_becomes_several_devices_once_and_only_where_the_user_has_not_decided(flags, asked, forced, made):
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, "-c", DEVICES, str(asked), str(forced)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(made), str(made)]
