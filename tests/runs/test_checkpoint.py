"""Checkpoints: the same bits back, always a whole one on disk, and clear words about anything else."""

import asyncio
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine import buffers
from lsf_jax.runs import checkpoint, manifest
from lsf_jax.runs.checkpoint import CheckpointError, checkpoint_bytes, latest, leaf_records, read_meta, restore, save
from lsf_jax.types import AgentState, Clock, Episode, Kept, TrainState

SEEDS, CAPACITY = 3, 7


class Numbers(NamedTuple):
    rate: Any
    discount: Any


def make_state(filled: int = 4, width: int = 5, salt: int = 0) -> TrainState:
    rng = np.random.default_rng(salt)

    def replay(*shape: int, dtype: Any) -> jax.Array:
        data = np.zeros((SEEDS, CAPACITY, *shape), dtype)
        data[:, :filled] = rng.integers(0, 2 if dtype is bool else 200, (SEEDS, filled, *shape)).astype(dtype)
        return jnp.array(data)

    params = {"actor": {"fc1": {"kernel": jnp.array(rng.normal(size=(SEEDS, 2, width)).astype(np.float32))}}}
    return TrainState(
        agent=AgentState(
            params=params,
            targets={"half": jnp.array(rng.normal(size=(SEEDS, width))).astype(jnp.bfloat16)},
            opt_state={"actor": (jnp.full((SEEDS,), -0.0), (), {"empty": jnp.zeros((SEEDS, 0))})},
        ),
        kept=Kept(
            params={"nan": jnp.array(np.full(SEEDS, 0x7FC00123, np.uint32).view(np.float32))}, env_steps=jnp.arange(3)
        ),
        hyper=Numbers(rate=jnp.full((SEEDS,), 1e-3), discount=jnp.full((SEEDS,), 0.99)),
        buffer={
            "world": replay(3, dtype=np.uint8),
            "wide": replay(2, 2, dtype=np.uint16),
            "valid": replay(dtype=bool),
            "reward": replay(4, dtype=np.float32),
        },
        clock=Clock(env_steps=jnp.arange(SEEDS) * 11, episodes=jnp.array(filled), updates=jnp.array(9)),
        iteration=jnp.array(5),
        key=jax.vmap(jax.random.key)(jnp.arange(SEEDS)),
    )


def structure(state: Any) -> Any:
    return jax.eval_shape(lambda: state)


def bits(tree: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    rows = []
    for leaf in jax.tree_util.tree_leaves(tree):
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        rows.append((str(leaf.dtype), leaf.shape, np.asarray(data).tobytes()))
    return rows


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("filled", [0, 1, 4, CAPACITY, None])
def test_every_bit_comes_back(tmp_path, filled):
    state = make_state(filled=CAPACITY if filled is None else filled)
    path = save(tmp_path / "block", 5, state, {"note": "é", "list": [1, 2.5, None]}, filled=filled)
    restored, meta = restore(tmp_path / "block", structure(state))
    assert bits(restored) == bits(state)
    assert jax.tree_util.tree_structure(restored) == jax.tree_util.tree_structure(state)
    assert meta == {"note": "é", "list": [1, 2.5, None]}
    assert read_meta(tmp_path / "block") == (5, meta)
    assert path.name == "step-000000005"
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree_util.tree_leaves(restored))
    draw = jax.vmap(lambda key: jax.random.uniform(key, (2,)))
    np.testing.assert_array_equal(draw(restored.key), draw(state.key))


def test_only_the_filled_part_of_replay_is_on_disk(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 20_000), dtype=np.uint8)
    state = {"buffer": jnp.array(noise), "other": jnp.zeros((1, 64))}
    save(tmp_path, 1, state, {}, filled=16)
    on_disk = sum(map(len, files(tmp_path).values()))
    assert 16 * 20_000 <= on_disk <= checkpoint_bytes(structure(state), 16) < 2 * 16 * 20_000
    restored, _ = restore(tmp_path, structure(state))
    np.testing.assert_array_equal(restored["buffer"][:, :16], noise[:, :16])
    assert not np.asarray(restored["buffer"][:, 16:]).any()
    assert restored["other"].shape == (1, 64)


RINGS = {"latest": 2, "on": 6, "off": 14}


def bundled_state(n_writes: int) -> TrainState:
    """Three rings of different capacity after writes of two noisy episodes of each seed."""

    def noise(key: Any) -> Episode:
        number = jax.random.normal(key, (2, 4))
        return Episode(
            world=jax.random.bits(key, (2, 5, 3), jnp.uint8),
            action=jax.random.bits(key, (2, 4, 1), jnp.uint8),
            reward=number,
            terminal=number > 1.0,
            valid=number > -1.0,
            info={},
        )

    example = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], noise(jax.random.key(0))))
    rings = {name: buffers.uniform(example, capacity=RINGS[name], batch_size=2, n_envs=2) for name in ("on", "off")}
    bundle = buffers.bundle(latest=buffers.latest(example, batch_size=RINGS["latest"], n_envs=2), **rings)
    state, clock = jax.vmap(lambda _: bundle.init())(jnp.arange(SEEDS)), make_state().clock
    for write in range(n_writes):
        fresh = jax.vmap(noise)(jax.random.split(jax.random.key(write), SEEDS))
        state = jax.vmap(bundle.add, in_axes=(0, None, 0))(state, clock._replace(episodes=jnp.int32(2 * write)), fresh)
    return make_state()._replace(buffer=state, clock=clock._replace(episodes=jnp.int32(2 * n_writes)))


@pytest.mark.parametrize("n_writes", [0, 1, 2, 3, 5, 9])
def test_rings_of_different_capacity_come_back_whether_they_have_wrapped_or_not(tmp_path, n_writes):
    state = bundled_state(n_writes)
    save(tmp_path, 5, state, {}, filled=int(state.clock.episodes))
    assert bits(restore(tmp_path, structure(state))[0]) == bits(state)
    stored = {record.name.split("/")[1]: record.stored_shape[1] for record in _of_replay(state, 2 * n_writes)}
    assert stored == {name: min(2 * n_writes, capacity) for name, capacity in RINGS.items()}
    assert all(np.asarray(ring.reward).any() == (n_writes > 0) for ring in state.buffer.values())


def _of_replay(state: TrainState, filled: int) -> list[checkpoint.LeafRecord]:
    return [record for record in leaf_records(state, filled) if record.name.startswith("buffer/")]


def test_more_episodes_than_a_ring_holds_store_what_its_capacity_would():
    state = make_state(filled=CAPACITY)
    assert leaf_records(state, 1000 * CAPACITY) == leaf_records(state, CAPACITY)


def test_disk_is_bounded_before_and_counts_what_is_filled():
    like = {"buffer": jax.ShapeDtypeStruct((4, 5000, 6000), jnp.uint8), "key": structure(jax.random.key(0))}
    assert checkpoint_bytes(like, 100) == pytest.approx(4 * 100 * 6000, rel=0.15)
    assert checkpoint_bytes(like, None) == checkpoint_bytes(like, 9999) == pytest.approx(4 * 5000 * 6000, rel=0.02)


def test_arrays_can_be_donated_after_loading_and_after_saving(tmp_path):
    state = {f"{n}": jnp.arange(4096.0) for n in range(16)}  # many: whether memory is shared depends on its alignment
    save(tmp_path, 1, state, {}, filled=None)
    restored, _ = restore(tmp_path, structure(state))
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    for tree in (restored, state):  # neither may leave a NumPy view behind
        places = {leaf.unsafe_buffer_pointer() for leaf in tree.values()}
        after = step(tree)
        assert {leaf.unsafe_buffer_pointer() for leaf in after.values()} == places
        np.testing.assert_array_equal(after["7"], np.arange(1.0, 4097.0, dtype=np.float32))


def test_a_leaf_with_a_sharding_is_placed_by_it(tmp_path):
    mesh = jax.make_mesh((4,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
    by_seed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seeds"))
    state = {"x": jnp.arange(8.0), "key": jax.vmap(jax.random.key)(jnp.arange(8))}
    state = jax.tree.map(lambda leaf: jax.device_put(leaf, by_seed), state)
    save(tmp_path, 1, state, {}, filled=None)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_seed), state)
    restored, _ = restore(tmp_path, like)
    assert bits(restored) == bits(state)
    assert restored["x"].sharding == by_seed
    assert restored["key"].sharding.is_equivalent_to(by_seed, 1)


def test_arrays_larger_than_one_chunk_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 1000)
    state = {"buffer": jnp.arange(2 * 977 * 13, dtype=jnp.int32).reshape(2, 977, 13)}
    save(tmp_path, 1, state, {}, filled=971)
    np.testing.assert_array_equal(restore(tmp_path, structure(state))[0]["buffer"][:, :971], state["buffer"][:, :971])


def test_works_where_an_event_loop_already_runs(tmp_path):
    state = {"a": jnp.arange(3)}

    async def notebook_cell() -> Any:
        save(tmp_path, 1, state, {}, filled=None)
        return restore(tmp_path, structure(state))

    restored, _ = asyncio.run(notebook_cell())
    assert bits(restored) == bits(state)


def test_the_callers_event_loop_stays(tmp_path):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        save(tmp_path, 1, {"a": jnp.arange(3)}, {}, filled=None)
        restore(tmp_path, structure({"a": jnp.arange(3)}))
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_nothing_is_pickled_or_unpickled(tmp_path, monkeypatch):
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    state = make_state()
    save(tmp_path, 1, state, {}, filled=4)
    assert bits(restore(tmp_path, structure(state))[0]) == bits(state)


def test_a_checkpoint_does_not_tell_where_it_was_written(tmp_path):
    save(tmp_path, 1, make_state(), {}, filled=4)
    assert not [name for name, data in files(tmp_path).items() if str(tmp_path).encode() in data]


def test_only_the_newest_stays_and_leftovers_go(tmp_path):
    state = make_state()
    (tmp_path / "tmp-000000001-99").mkdir()
    (tmp_path / "tmp-000000001-99" / "half").write_text("x")
    assert latest(tmp_path) is None
    assert latest(tmp_path / "missing") is None
    for step in (1, 2, 3):
        path = save(tmp_path, step, state, {"step": step}, filled=4)
        assert list(tmp_path.iterdir()) == [path] == [latest(tmp_path)]


def test_a_block_is_read_while_another_process_saves_it(tmp_path, monkeypatch):
    def save_block(steps):
        meta = {"block": 3, "finished_budget": 0, "env_steps": [steps], "updates": 1}
        save(checkpoint.block_folder(tmp_path, 3), steps, {"a": jnp.zeros(2)}, meta, filled=None)

    read, later = checkpoint.read_manifest, [20, 30]

    def read_too_late(path):
        if later:
            save_block(later.pop(0))
        return read(path)

    assert checkpoint.read_block(tmp_path, 3) is None
    save_block(10)
    monkeypatch.setattr(checkpoint, "read_manifest", read_too_late)
    found = checkpoint.read_block(tmp_path, 3)
    assert found is not None
    assert found.env_steps == [30]
    damaged = checkpoint.newest(checkpoint.block_folder(tmp_path, 3)) / "manifest.json"
    damaged.unlink()
    with pytest.raises(CheckpointError):
        checkpoint.read_block(tmp_path, 3)


def test_a_step_may_be_saved_again(tmp_path):
    for count in range(4):
        path = save(tmp_path, 8, {"a": jnp.full((2,), count)}, {"count": count}, filled=None)
        assert latest(tmp_path) == path
        assert read_meta(tmp_path) == (8, {"count": count})
    assert len(list(tmp_path.iterdir())) == 1


def test_an_earlier_step_does_not_replace_a_later_one(tmp_path):
    save(tmp_path, 8, {"a": jnp.zeros(2)}, {}, filled=None)
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match="holds step-000000008, later than step 7"):
        save(tmp_path, 7, {"a": jnp.zeros(2)}, {}, filled=None)
    assert files(tmp_path) == before


def test_steps_are_ordered_as_numbers(tmp_path):
    for name in ("step-000000010", "step-000000009-r12", "step-000000009-r2", "step-1000000000", "step-x", "steps"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "step-000000009-r2",
        "step-000000009-r12",
        "step-000000010",
        "step-1000000000",
    ]


def test_no_room_is_refused_before_anything_is_touched(tmp_path, monkeypatch):
    state = make_state()
    save(tmp_path, 1, state, {}, filled=4)
    before = files(tmp_path)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 1000)
    with pytest.raises(CheckpointError, match=r"needs 0\.\d MiB and the disk has 0\.0 MiB free"):
        save(tmp_path, 2, state, {}, filled=4)
    assert files(tmp_path) == before


@pytest.mark.parametrize("where", ["_orbax_save", "write_manifest"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: full")])
def test_a_failing_write_keeps_the_last_good_one(tmp_path, monkeypatch, where, error):
    state = make_state()
    save(tmp_path, 1, state, {"good": True}, filled=4)

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoint, where, fail)
    with pytest.raises(CheckpointError, match=r"could not be written .*(No space|full)"):
        save(tmp_path, 2, state, {}, filled=4)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert restore(tmp_path, structure(state))[1] == {"good": True}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file/block is not writable"):
        save(tmp_path / "file" / "block", 1, {"a": jnp.zeros(1)}, {}, filled=None)


def test_meta_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="meta must be JSON"):
        save(tmp_path / "block", 1, {"a": jnp.zeros(1)}, {"x": object()}, filled=None)
    assert not (tmp_path / "block").exists()


def test_free_space_is_known_for_a_folder_that_is_not_there_yet(tmp_path):
    there = checkpoint.free_bytes(tmp_path)
    assert there > 0
    assert checkpoint.free_bytes(tmp_path / "a" / "b") == pytest.approx(there, rel=0.2)


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        restore(tmp_path, {})
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        read_meta(tmp_path)


def largest(path: Path) -> Path:
    return max((file for file in (path / "arrays").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def cut(path: Path) -> None:
    os.truncate(largest(path), largest(path).stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(largest(path).read_bytes())
    data[len(data) // 2] ^= 1
    largest(path).write_bytes(data)


def lose(path: Path) -> None:
    largest(path).unlink()


def edit(path: Path) -> None:
    text = (path / manifest.MANIFEST).read_text()
    (path / manifest.MANIFEST).write_text(text.replace('"rounds": 5', '"rounds": 6'))


def halve(path: Path) -> None:
    text = (path / manifest.MANIFEST).read_text()
    (path / manifest.MANIFEST).write_text(text[: len(text) // 2])


def replace(path: Path) -> None:
    (path / manifest.MANIFEST).write_text(json.dumps([1, 2]))


def strip(path: Path) -> None:
    (path / manifest.MANIFEST).unlink()


def age(path: Path) -> None:
    document = json.loads((path / manifest.MANIFEST).read_text())
    document["body"]["version"] = 99
    document["sha256"] = manifest._text_digest(document["body"])
    (path / manifest.MANIFEST).write_text(json.dumps(document))


DAMAGE = {
    cut: r"has \d+ bytes, not \d+",
    flip: "does not match its checksum",
    lose: "is missing",
    edit: "manifest.json does not match its own checksum",
    halve: "manifest.json cannot be read",
    replace: "manifest.json cannot be read",
    strip: "is foreign or incomplete: it has no manifest.json",
    age: "version 99, expected 'lsf_jax checkpoint' version 1",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("with_older", [False, True])
def test_damage_is_named_and_files_are_left_alone(tmp_path, damage, with_older):
    state = {"a": jnp.arange(1000.0), "buffer": jnp.zeros((2, 3))}
    path = save(tmp_path, 2, state, {"rounds": 5}, filled=None)
    if with_older:
        shutil.copytree(path, tmp_path / "step-000000001")
    damage(path)
    before = files(tmp_path)
    advice = "step-000000001 .* delete step-000000002" if with_older else "there is no complete older checkpoint"
    with pytest.raises(CheckpointError, match=f"step-000000002 .*{DAMAGE[damage]}.*; {advice}") as caught:
        restore(tmp_path, structure(state))
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before
    if with_older:  # the advice works
        shutil.rmtree(path)
        assert bits(restore(tmp_path, structure(state))[0]) == bits(state)


def test_a_changed_configuration_names_the_first_array_that_differs(tmp_path):
    state = make_state(width=5)
    save(tmp_path, 1, state, {}, filled=4)
    before = files(tmp_path)
    expected = (
        r"agent/params/actor/fc1/kernel float32\[3, 2, 5\] where agent/params/actor/fc1/kernel float32\[3, 2, 6\]"
    )
    with pytest.raises(CheckpointError, match=expected):
        restore(tmp_path, structure(make_state(width=6)))
    like = structure(state)
    other = like._replace(buffer=like.buffer | {"world": jax.ShapeDtypeStruct((SEEDS, CAPACITY + 1, 3), jnp.uint8)})
    with pytest.raises(CheckpointError, match=r"buffer/world uint8\[3, 7, 3\] where buffer/world uint8\[3, 8, 3\]"):
        restore(tmp_path, other)
    with pytest.raises(CheckpointError, match=r"key key<fry>\[3\] where nothing more is expected"):
        restore(tmp_path, like._replace(key=()))
    with pytest.raises(CheckpointError, match=r"iteration int32\[\] where iteration int16\[\]"):
        restore(tmp_path, like._replace(iteration=jax.ShapeDtypeStruct((), jnp.int16)))
    save(tmp_path / "dict", 1, {"a": jnp.zeros(1)}, {}, filled=None)
    with pytest.raises(CheckpointError, match="holds nothing more where zzz"):
        restore(tmp_path / "dict", structure({"a": jnp.zeros(1), "zzz": jnp.zeros(1)}))
    assert {name: data for name, data in files(tmp_path).items() if not name.startswith("dict")} == before


def forged(path: Path, name: str, **entry: Any) -> None:
    """The manifest with another entry for one array, signed as if it had been written so."""
    document = json.loads((path / manifest.MANIFEST).read_text())
    next(leaf for leaf in document["body"]["leaves"] if leaf["name"] == name).update(entry)
    document["sha256"] = manifest._text_digest(document["body"])
    (path / manifest.MANIFEST).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (
            "buffer/wide",
            {"stored_shape": [3, 2, 2, 2]},
            r"buffer/wide is uint16\[3, 4, 2, 2\] where .*\[3, 2, 2, 2\] is",
        ),
        ("buffer/wide", {"stored_shape": [3, 8, 2, 2]}, r"of buffer/wide .* it stores \[3, 8, 2, 2\], which cannot be"),
        ("buffer/wide", {"stored_shape": [3, 4, 2]}, r"it stores \[3, 4, 2\], which cannot be"),
        ("clock/env_steps", {"stored_shape": [2]}, r"it stores \[2\], which cannot be"),
        ("key", {"key_impl": "rbg"}, r"it stores \[3, 2\] rbg, which cannot be"),
        ("key", {"key_impl": "mine"}, r"it stores \[3, 2\] mine, which cannot be"),
        ("key", {"key_impl": 3}, r"manifest.json: expected `str \| null`, got `int` - at `leaves\[16\].key_impl`"),
    ],
)
def test_a_forged_manifest_is_refused_before_memory_is_taken(tmp_path, name, entry, message):
    state = make_state()
    forged(save(tmp_path, 1, state, {}, filled=4), name, **entry)
    with pytest.raises(CheckpointError, match=message) as caught:
        restore(tmp_path, structure(state))
    assert "\n" not in str(caught.value)


def test_a_link_among_the_files_is_refused(tmp_path):
    (tmp_path / "theirs").write_text("x")
    path = save(tmp_path / "block", 1, {"a": jnp.zeros(3)}, {}, filled=None)
    (path / "arrays" / "more").symlink_to(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="arrays/more is no plain file"):
        restore(tmp_path / "block", structure({"a": jnp.zeros(3)}))


KILLED = """
import sys, pathlib
import jax.numpy as jnp
from lsf_jax.runs.checkpoint import save
for step in range(int(sys.argv[2]), 10**6):
    state = {"buffer": jnp.full((2, 50, 2000), step, jnp.int32), "a": jnp.full((3,), step)}
    save(pathlib.Path(sys.argv[1]), step, state, {"step": step}, filled=50)
    sys.stdout.write(f"{step}\\n")
    sys.stdout.flush()
"""


def test_sigkill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    like = {"buffer": jax.ShapeDtypeStruct((2, 50, 2000), jnp.int32), "a": jax.ShapeDtypeStruct((3,), jnp.int32)}
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(checkpoint.__file__).parents[2])}
    moment = random.Random(0)
    start = 0
    for _ in range(5):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for _ in range(3):
                assert process.stdout.readline()
            time.sleep(moment.uniform(0.0, 0.15))
            process.send_signal(signal.SIGKILL)
            reported = [start + 2, *map(int, process.stdout.read().split())]
        restored, meta = restore(tmp_path, like)
        assert meta["step"] >= max(reported)  # what was reported as saved is not lost
        assert np.unique(np.asarray(restored["buffer"])).tolist() == [meta["step"]]
        assert np.unique(np.asarray(restored["a"])).tolist() == [meta["step"]]
        start = meta["step"] + 1
