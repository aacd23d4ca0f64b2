"""Whole runs on games of the host: trained, evaluated, broken, resumed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsf_jax
from lsf_jax import envs
from lsf_jax.analysis import playback
from lsf_jax.analysis.frames import load_run
from lsf_jax.config.composition import compose
from lsf_jax.engine.host_replay import init_on_host
from lsf_jax.engine.training import make_train_step
from lsf_jax.envs.host import HostError
from lsf_jax.programs.compiled import jit_init
from lsf_jax.programs.hosted import HostSizes, make_host_programs
from lsf_jax.programs.parts import bind, make_rows
from lsf_jax.programs.planner import make_plan
from lsf_jax.registry import Entry
from lsf_jax.runs import checkpoint
from tests.support import host_cases
from tests.support.engine_cases import NETWORKS
from tests.support.host_cases import LIMIT, ToyConfig

SMALL = ("algo.recurrent=false", "train.seeds=2", "train.env_steps=60", "train.evaluate_every=20")


@pytest.fixture
def toys(monkeypatch):
    """Register the toy; returns the games that runs open, oldest first."""
    opened = []
    offer(monkeypatch, lambda cfg: host_cases.host_toy(cfg, opened))
    return opened


def offer(monkeypatch, hosted):
    monkeypatch.setitem(envs.ENVS, "toy", Entry("toy", ToyConfig, host_cases.make_toy, "a toy", hosted=hosted))


def config_of(tmp_path, *words, algo="qmix"):
    known = vars(compose(algo=algo, env="matrix_game").algo)
    networks = [word for word in NETWORKS if word.startswith("train.") or word.split("=")[0][5:] in known]
    place = [f"train.run_dir={tmp_path}", "train.name=run"]
    return compose(algo=algo, env="toy", overrides=[*networks, *SMALL, *place, *words])


@pytest.mark.parametrize("overlap", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_run_trains_evaluates_and_leaves_what_any_run_leaves(toys, tmp_path, overlap):
    result = lsf_jax.train(
        config_of(tmp_path, f"env.overlap={overlap}", "env.lose_every=5", "train.eval_stochastic=true")
    )
    assert result.finished
    assert [games.open for games in toys] == [False]
    thirds = 3 * result.final["success"]  # of three episodes, those of the odd worker are won
    assert set(thirds.round(5).tolist()) <= {1.0, 2.0}
    run = load_run(result.path)
    steps = run.train["env_steps"].reshape(2, -1)  # sorted by row
    assert (np.diff(steps, axis=1) > 0).all()
    assert steps[:, -1].min() >= 60
    learned = run.train["updates"] > 0
    assert learned.sum() == learned.size - 2  # the first iteration has too few episodes
    assert np.isfinite(run.train["td"][learned]).all()
    assert {"success", "sampled_success", "won", "length"} <= set(run.evaluation)
    assert (tmp_path / "run" / "policies" / "block-0000.safetensors").exists()
    episodes = run.train["episodes"].max() * 2
    evaluated = run.evaluation["final"].size * 3 * 2  # three greedy episodes a row, and three sampled ones
    assert len(toys[0].finished) >= episodes + evaluated
    assert toys[0].counters["lost_episodes"] > 0


@pytest.mark.slow
def test_a_trained_policy_is_evaluated_on_fresh_games_which_record_themselves(toys, tmp_path):
    run = lsf_jax.train(config_of(tmp_path)).path
    policies = playback.load_policies(run)
    columns = playback.evaluate_policies(policies, 5, replays=tmp_path / "replays")
    assert columns["row"].tolist() == [0, 1]
    assert len(toys[-1].finished) == 2 * 5
    assert not toys[-1].open
    saved = sorted(str(path.relative_to(tmp_path / "replays")) for path in (tmp_path / "replays").rglob("*.replay"))
    assert saved == ["row0/0.replay", "row0/1.replay", "row1/2.replay", "row1/3.replay"]
    with pytest.raises(lsf_jax.ConfigError, match=r"--replays FOLDER"):
        playback.record_episode(policies, 0, jax.random.key(0))


def test_on_policy_learning_takes_what_the_newest_policy_has_played_and_leaves_every_worker_idle(toys, tmp_path):
    config = config_of(tmp_path, "algo.batch_size=2", algo="maa2c")
    program = bind(config)
    assert program.buffer.on_policy
    sizes = HostSizes(seeds=2, n_envs=2, log_every=1, eval_episodes=1)
    host = make_host_programs(program, sizes, 0)
    state = jit_init(program, 0)(make_rows(config, program.algorithm))
    for played in (4, 8, 12):
        state, log = host.chunk(state, jnp.int32(1), jnp.int32(1000))
        assert len(toys[0].finished) == played
    assert int(log.episodes[0]) == 6
    norms = [values for name, values in log.metrics.items() if name.endswith("_norm")]
    assert norms
    assert np.isfinite(norms).all()


@pytest.mark.slow
def test_with_overlap_the_next_batch_is_there_when_the_update_returns(toys, tmp_path):
    config = config_of(tmp_path)
    program = bind(config)
    host = make_host_programs(program, HostSizes(seeds=2, n_envs=2, log_every=1, eval_episodes=1), 0)
    state = jit_init(program, 0)(make_rows(config, program.algorithm))
    for played in (8, 12):
        state, _ = host.chunk(state, jnp.int32(1), jnp.int32(1000))
        assert len(toys[0].finished) >= played


def test_an_iteration_equals_the_device_step_on_the_same_episodes(toys, tmp_path):
    config = config_of(tmp_path, "env.overlap=false", "algo.batch_size=2")
    program = bind(config)
    host = make_host_programs(program, HostSizes(seeds=2, n_envs=2, log_every=1, eval_episodes=1), 0)
    init = jit_init(program, 0)
    rows = make_rows(config, program.algorithm)
    taken = []
    collect = host.collector.collect
    host.collector.collect = lambda *arguments: taken.append(collect(*arguments)) or taken[-1]
    after, log = host.chunk(init(rows), jnp.int32(1), jnp.int32(1000))
    for seed in range(2):
        fresh = jax.tree.map(lambda leaf: jnp.asarray(leaf[seed]), taken[0])  # noqa: B023
        step = make_train_step(program.algorithm, program.buffer, lambda *_: fresh, 1)  # noqa: B023
        start = init(rows)
        clock = start.clock._replace(env_steps=start.clock.env_steps[seed])
        alone = jax.tree.map(lambda leaf: leaf[seed] if leaf.ndim else leaf, start._replace(clock=()))  # noqa: B023
        expected, metrics = jax.jit(step)(alone._replace(clock=clock), jnp.int32(1000))
        for got, wanted in zip(jax.tree.leaves(after.agent), jax.tree.leaves(expected.agent), strict=True):
            np.testing.assert_allclose(got[seed], wanted, rtol=1e-5, atol=1e-6)
        for name in set(metrics) - {"valid_fraction"}:  # which tells of the longest game of both seeds
            np.testing.assert_allclose(log.metrics[name][0, seed], metrics[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_games_that_break_lose_nothing_learned_and_a_resumed_run_ends_as_any(toys, tmp_path, monkeypatch):
    config = config_of(tmp_path)
    broken = ToyConfig(fail_after=100)
    offer(monkeypatch, lambda cfg: host_cases.host_toy(broken, toys))
    with pytest.raises(HostError, match="mend it"):
        lsf_jax.train(config)
    assert [games.open for games in toys] == [False]
    saved = checkpoint.read_meta(tmp_path / "run" / "checkpoints" / "block-0000")[1]
    assert min(saved["env_steps"]) > 0
    offer(monkeypatch, lambda cfg: host_cases.host_toy(cfg, toys))
    result = lsf_jax.resume(tmp_path / "run")
    assert result.finished
    steps = load_run(result.path).train["env_steps"].reshape(2, -1)
    assert (np.diff(steps, axis=1) > 0).all()
    assert steps[:, -1].min() >= 60


@pytest.mark.slow
def test_replay_on_the_host_learns_the_same_bits(toys, tmp_path):
    """With `algo.batch_size` below what is stored, so that sampling chooses."""
    states = {}
    for host_replay in (False, True):
        config = config_of(tmp_path, "env.overlap=false", "algo.updates=2")
        program = bind(config)
        sizes = HostSizes(seeds=2, n_envs=2, log_every=1, eval_episodes=1, host_replay=host_replay)
        host = make_host_programs(program, sizes, 0)
        init, rows = jit_init(program, 0), make_rows(config, program.algorithm)
        state = init_on_host(init, rows) if host_replay else init(rows)
        for _ in range(4):
            state, log = host.chunk(state, jnp.int32(1), jnp.int32(1000))
        states[host_replay] = state, log
    for got, wanted in zip(jax.tree.leaves(states[True]), jax.tree.leaves(states[False]), strict=True):
        if jnp.issubdtype(got.dtype, jax.dtypes.prng_key):
            got, wanted = jax.random.key_data(got), jax.random.key_data(wanted)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.slow
def test_a_run_with_replay_on_the_host_stops_and_goes_on(toys, tmp_path, monkeypatch):
    config = config_of(tmp_path, "train.replay=host")
    assert make_plan(config).host_replay
    broken = ToyConfig(fail_after=100)
    offer(monkeypatch, lambda cfg: host_cases.host_toy(broken, toys))
    with pytest.raises(HostError, match="mend it"):
        lsf_jax.train(config)
    offer(monkeypatch, lambda cfg: host_cases.host_toy(cfg, toys))
    assert lsf_jax.resume(tmp_path / "run").finished


def test_replay_on_the_host_is_for_games_on_the_host():
    with pytest.raises(lsf_jax.ConfigError, match=r"train\.replay is host"):
        make_plan(compose(env="matrix_game", overrides=["train.replay=host"]))


def test_a_plan_takes_one_device_and_counts_the_observations_that_replay_keeps(toys, tmp_path):
    plan = make_plan(config_of(tmp_path, "train.devices=0"))
    assert plan.n_devices == 1
    # float16 observations and state, mask bits; action, reward; two flags in bits
    per_episode = (LIMIT + 1) * (2 * 4 * 2 + 3 * 2 + 2) + LIMIT * (2 + 4) + 2
    assert plan.bytes_per_row["replay"] == 16 * per_episode
