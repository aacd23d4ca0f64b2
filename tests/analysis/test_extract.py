"""A row taken out of a run acts in NumPy as it does here, for every algorithm; what acts otherwise is refused."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.analysis import extract, playback
from lsf_jax.analysis.numpy_policy import Policy
from lsf_jax.settings import ConfigError
from tests.support.run_cases import finished_run

ALGOS = sorted(ALGORITHMS)
STEPS = 6
TALKING = ["ndq", "lsf_sac algo.communicate=true", "lsf_sac algo.communicate=true algo.message_routing=broadcast"]


def extracted(tmp_path, algo, *overrides):
    """A run of two rows, and its row 1 taken out."""
    policies = loaded(tmp_path, algo, *overrides)
    return policies.row(1), extract.extract_policy(policies, 1, tmp_path / "out")


def loaded(tmp_path, algo, *overrides):
    """Policies of a run whose parameters are as large as those that training begins with."""
    finished_run(tmp_path / "run", algo, "m_step", "train.seeds=2", "env.n_steps=4", *overrides)
    policies = playback.load_policies(tmp_path / "run")
    return policies._replace(params=jax.tree.map(lambda leaf: np.float32(0.3) * leaf, policies.params))


def walk(policy, copy, random):
    """Outputs and greedy actions of both along the same random observations, at every step."""
    spec, carry, carry_copy = policy.program.env.spec, policy.start(), copy.start()
    for step in range(STEPS):
        obs = random.normal(size=(spec.n_agents, spec.obs_dim)).astype(np.float32)
        avail = random.random((spec.n_agents, spec.n_actions)) < 0.7
        avail[:, -1] = True
        key = jax.random.key(step)
        given = np.asarray(policy.jitted.scores(policy.params, carry, policy._seen(obs, avail, key), key), float)
        channel = policy.program.algorithm.channel
        noise = np.asarray(channel.drawn(key)) if channel is not None and channel.drawn else None
        own = copy.scores(obs, carry_copy, noise)
        carry, action = policy.act(obs, avail, carry, key)
        carry_copy, action_copy = copy.act(obs, avail, carry_copy, noise=noise)
        yield given, own, action, action_copy, avail
        carry_copy = carry_copy._replace(last_action=action)


@pytest.mark.default("vdac_sum", "ndq")  # of vdac's outputs only some choose: the others act by this code too
@pytest.mark.parametrize("words", [*ALGOS, *TALKING[1:]])
def test_the_copy_gives_the_same_outputs_and_actions(words, tmp_path):
    policy, folder = extracted(tmp_path, *words.split())
    decided = 0
    for given, own, action, action_copy, avail in walk(policy, Policy(folder), np.random.default_rng(1)):
        np.testing.assert_allclose(own, given, rtol=1e-6, atol=1e-6)
        best = np.sort(np.where(avail, given, -np.inf), axis=-1)
        clear = best[:, -1] - best[:, -2] > 1e-5
        np.testing.assert_array_equal(action_copy[clear], action[clear])
        decided += clear.sum()
    assert decided > STEPS


def test_networks_without_memory_and_clamped_logits_are_copied_too(tmp_path):
    policy, folder = extracted(tmp_path, "masac", "algo.recurrent=false", "algo.logit_clamp=true")
    with np.errstate(all="raise"):
        for given, own, *_ in walk(policy, Policy(folder), np.random.default_rng(2)):
            np.testing.assert_allclose(own, given, rtol=1e-6, atol=1e-6)
    assert json.loads((folder / "spec.json").read_text())["network"]["output_range"] == [-5.0, 2.0]


@pytest.fixture(scope="module")
def soft(tmp_path_factory):
    """MASAC, its second row taken out of a run on disk."""
    path = tmp_path_factory.mktemp("soft")
    params = finished_run(path / "run", "masac", "m_step", "train.seeds=2", "env.n_steps=4", "algo.recurrent=false")
    return params, extract.extract_policy(playback.load_policies(path / "run"), 1, path / "alone")


def test_parameters_are_those_of_the_run_bit_for_bit(soft):
    params, folder = soft
    found = safetensors.numpy.load_file(folder / "policy.safetensors")
    flat = jax.tree_util.tree_leaves_with_path(params)
    assert len(found) == len(flat)
    for path, leaf in flat:
        name = "/".join(key.key for key in path)
        assert found[name].dtype == leaf.dtype
        np.testing.assert_array_equal(found[name], leaf[1], err_msg=name)


def test_the_folder_acts_in_a_process_without_jax_and_without_this_package(soft, tmp_path):
    _, folder = soft
    code = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); from policy import Policy; p = Policy();"
        "obs = np.full((p.spec['n_agents'], p.spec['obs_dim']), 0.5); carry, action = p.act(obs, None, p.start());"
        "print(p.scores(obs, p.start()).tolist(), action.tolist());"
        "assert not {'jax', 'lsf_jax', 'safetensors', 'flax'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(folder)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    here = Policy(folder)
    obs = np.full((here.spec["n_agents"], here.spec["obs_dim"]), 0.5)
    scores = here.scores(obs, here.start())
    assert done.stdout.strip() == f"{scores.tolist()} {scores.argmax(-1).tolist()}"


def test_drawn_actions_follow_the_policy_and_log_pi_is_its_logarithm(soft):
    policy = Policy(soft[1])
    spec, random = policy.spec, np.random.default_rng(5)
    obs, avail = random.normal(size=(spec["n_agents"], spec["obs_dim"])), np.ones((spec["n_agents"], spec["n_actions"]))
    pi = np.exp(policy.log_pi(0.1 * obs, avail, policy.start()))
    np.testing.assert_allclose(pi.sum(-1), 1.0)
    drawn = np.stack([policy.act(0.1 * obs, avail, policy.start(), random)[1] for _ in range(2000)])
    np.testing.assert_allclose((drawn == 0).mean(0), pi[:, 0], atol=0.04)


def test_the_card_tells_that_there_is_no_result_and_what_would_be_shapes(soft):
    text = (soft[1] / "README.md").read_text(encoding="utf-8")
    assert "# masac on m_step" in text
    assert "holds no final evaluation" in text
    assert "obs [2, " in text


def test_the_card_holds_a_seed_beside_those_trained_alike(soft):
    row = np.repeat(np.arange(4), 2)
    columns = {"row": row, "grid": row // 2, "seed": row % 2, "iteration": row * 0, "final": np.tile([False, True], 4)}
    columns |= {"env_steps": 50 * np.tile([1, 2], 4), "return": np.array([9.0, 1.0, 9.0, 3.0, 9.0, 70.0, 9.0, 80.0])}
    lines = extract._result_lines(columns, np.array([0, 0, 1, 1]), 1)
    assert lines[0].startswith("After 100 env steps; beside it the 2 seed(s)")
    assert lines[-1] == "| return | 3 | 2 | 1 | 3 |"


def test_what_does_not_fit_is_refused(soft):
    policy = Policy(soft[1])
    with pytest.raises(ValueError, match=r"obs has shape \[1, 1\]; expected \[2, "):
        policy.act(np.zeros((1, 1)), None, policy.start())
    with pytest.raises(ValueError, match="avail has shape"):
        policy.act(np.zeros((2, policy.spec["obs_dim"])), np.ones((2, 9)), policy.start())


def test_messages_that_are_cut_are_refused_by_name(tmp_path):
    policies = loaded(tmp_path, "ndq", "algo.cut=rank", "algo.cut_threshold=50")
    line = r"a policy of ndq on m_step cannot be extracted: its messages are cut \(algo\.cut=rank\)"
    with pytest.raises(ConfigError, match=line):
        extract.extract_policy(policies, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_agents_that_talk_hear_other_noise_at_every_call_unless_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "_try", lambda *_: None)  # which other tests look at
    _, folder = extracted(tmp_path, "ndq", "algo.recurrent=false")
    policy = Policy(folder, seed=3)
    n_agents, obs_dim = policy.spec["n_agents"], policy.spec["obs_dim"]
    obs, carry = np.full((n_agents, obs_dim), 0.5), policy.start()
    size = policy.spec["network"]["messages"]["dim"] * n_agents
    silent = [policy.scores(obs, carry, np.zeros((n_agents, size))) for _ in range(2)]
    np.testing.assert_array_equal(*silent)
    assert not np.allclose(policy.scores(obs, carry), policy.scores(obs, carry))
    np.testing.assert_array_equal(Policy(folder, seed=3).scores(obs, carry), Policy(folder, seed=3).scores(obs, carry))
    with pytest.raises(ValueError, match=rf"noise has shape \[1\]; expected \[{n_agents}, {size}\]"):
        policy.scores(obs, carry, np.zeros(1))
    assert "These agents talk while they act" in (folder / "README.md").read_text(encoding="utf-8")


def test_an_algorithm_that_acts_otherwise_than_by_its_networks_outputs_is_found_out(tmp_path):
    policies = loaded(tmp_path, "iql", "algo.recurrent=false")
    algorithm = policies.program.algorithm
    twisted = lambda *given: -algorithm.scores(*given)
    jitted = policies.jitted._replace(
        scores=lambda params, carry, seen, key: twisted(params["q"]["agent"], carry, seen, key)
    )
    with pytest.raises(ConfigError, match="iql on m_step cannot be extracted: it makes something else"):
        extract.extract_policy(policies._replace(jitted=jitted), 0, tmp_path / "out")
