"""Parameters as safetensors: whole, readable by others, and safe to open."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from lsf_jax.runs.manifest import CheckpointError
from lsf_jax.runs.params_file import load_params, save_params


def test_nested_parameters_and_metadata_come_back(tmp_path):
    params = {
        "actor": {
            "fc1": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros((0,))},
            "half": jnp.ones((2,), jnp.bfloat16),
        },
        "mask": np.array([True, False]),
        "count": jnp.array(3),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    path = tmp_path / "policy.safetensors"
    save_params(path, params, {"algo": "lsf_sac", "env": "matrix_game"})
    loaded, metadata = load_params(path)
    assert metadata == {"algo": "lsf_sac", "env": "matrix_game"}
    assert loaded.keys() == params.keys()
    assert loaded["actor"]["half"].dtype == jnp.bfloat16
    assert loaded["count"].shape == ()
    for ours, theirs in (
        (loaded["actor"]["fc1"]["kernel"], params["actor"]["fc1"]["kernel"]),
        (loaded["actor"]["fc1"]["bias"], params["actor"]["fc1"]["bias"]),
        (loaded["mask"], params["mask"]),
        (loaded["turned"], params["turned"]),
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    with safetensors.safe_open(path, framework="np") as file:
        assert set(file.keys()) == {"actor/fc1/kernel", "actor/fc1/bias", "actor/half", "mask", "count", "turned"}


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "p.safetensors"
    save_params(path, {"a": jnp.zeros(3)}, {})
    save_params(path, {"b": jnp.ones(3)}, {})
    assert list(load_params(path)[0]) == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.safetensors"]


@pytest.mark.parametrize("content", [b"", b"hello" * 20, pickle.dumps({"a": 1}), None])
def test_a_foreign_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "p.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"p\.safetensors cannot be read as safetensors") as caught:
        load_params(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    save_params(path, {"a": jnp.zeros(30)}, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_params(path)


def test_names_that_lie_inside_an_array_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(1), "a/b": np.zeros(1)}))
    with pytest.raises(CheckpointError, match="inside another"):
        load_params(path)


def test_a_slash_in_a_key_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="'a/b' contains '/'"):
        save_params(tmp_path / "p.safetensors", {"a/b": jnp.zeros(1)}, {})


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="could not be written"):
        save_params(tmp_path / "no" / "p.safetensors", {"a": jnp.zeros(1)}, {})


ROWS = {"critic": {"agent": {"bias": np.zeros((5, 3)), "kernel": np.zeros((5, 2, 3))}, "mixer": {}}, "empty": {}}
ONE = {"critic": {"agent": {"bias": np.zeros(3), "kernel": np.zeros((2, 3))}, "mixer": {}}, "empty": {}}


def test_groups_without_parameters_are_where_the_algorithm_has_them(tmp_path):
    path = tmp_path / "p.safetensors"
    save_params(path, ROWS, {})
    loaded, _ = load_params(path, ONE)
    assert jax.tree.structure(loaded) == jax.tree.structure(ROWS)
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, ROWS)
    assert list(load_params(path)[0]) == ["critic"]  # what a file can tell by itself


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            {"critic": {"agent": {"bias": np.zeros(4), "kernel": np.zeros((2, 3))}}},
            r"agent/bias is \[3\], .*\[4\]",
        ),
        ({"critic": {"agent": {"bias": np.zeros(3)}}}, r"critic/agent/kernel is \[5, 2, 3\], expected absent"),
        ({**ONE, "actor": {"bias": np.zeros(2)}}, r"actor/bias is absent, expected \[2\]"),
    ],
)
def test_parameters_of_another_tree_are_refused_by_name(tmp_path, like, message):
    path = tmp_path / "p.safetensors"
    save_params(path, ROWS, {})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_params(path, like)
    assert "\n" not in str(caught.value)
