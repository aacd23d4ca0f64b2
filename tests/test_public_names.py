"""What `import lsf_jax` offers, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lsf_jax

BUILDING = (  # what an algorithm, a mixer, an environment or a host game of a third party needs
    *("Entry", "setting", "number", "ALGORITHMS", "ENVS", "Algorithm", "Env", "Learner", "make_update", "Mixer"),
    *("register", "load_plugins", "Sink", "Event", "Parts", "td_target", "AgentNetwork", "unroll", "agent_acting"),
    *("q_mixing", "value_based", "uniform", "latest", "bundle", "td_lambda", "Hosted", "HostEnv", "hosted_env"),
)


@pytest.mark.parametrize("name", lsf_jax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(lsf_jax, name) is not None


def test_what_one_builds_with_is_public():
    assert set(BUILDING) <= set(lsf_jax.__all__)


def test_completion_offers_the_public_names_and_nothing_else():
    assert dir(lsf_jax) == sorted(lsf_jax.__all__)
    assert {"train", "compose", "load_run"} <= set(dir(lsf_jax))


def test_type_checkers_see_every_public_name():
    """They follow no `__getattr__`: each name stands in the block for them."""
    tree = ast.parse(Path(lsf_jax.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert {name.asname for node in block.body for name in node.names} == set(lsf_jax.__all__) - {"__version__"}
    assert Path(lsf_jax.__file__).with_name("py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        lsf_jax.trian  # noqa: B018


def test_importing_the_package_imports_no_jax():
    code = "import sys, lsf_jax; dir(lsf_jax); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
