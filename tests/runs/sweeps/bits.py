"""Whether two run folders hold the same bits, however their files were cut and named."""

import jax
import numpy as np

from lsf_jax.runs import checkpoint, params_file, tables
from lsf_jax.runs.leaves import record_of
from lsf_jax.runs.manifest import verify


def blocks_of(run):
    return len(list((run / "checkpoints").glob("block-*")))


def arrays_of(run, index):
    """What a block's checkpoint holds, by name, and what was saved with it apart from the configuration."""
    folder = checkpoint.newest(checkpoint.block_folder(run, index))
    body = verify(folder)
    records = [record_of(entry) for entry in body["leaves"]]
    stored = checkpoint._in_thread(lambda: checkpoint._read_arrays(folder / checkpoint.ARRAYS, records))
    return stored, {key: value for key, value in body["meta"].items() if key != "config"}


def assert_same_bits(one, other):
    """Tables, policies and checkpoints."""
    assert blocks_of(one) == blocks_of(other) > 0
    for table in ("train", "eval"):
        first, second = (tables.read_table(run, table) for run in (one, other))
        assert first.column_names == second.column_names
        for name in first.column_names:
            left, right = (np.ascontiguousarray(tables.to_arrays(each)[name]) for each in (first, second))
            assert left.tobytes() == right.tobytes(), (table, name)
    for index in range(blocks_of(one)):
        (first, meta), (second, other_meta) = arrays_of(one, index), arrays_of(other, index)
        assert meta == other_meta
        assert {name: leaf.tobytes() for name, leaf in first.items()} == {
            name: leaf.tobytes() for name, leaf in second.items()
        }
        name = f"policies/block-{index:04d}.safetensors"
        kept = [jax.tree.leaves(params_file.load_params(run / name)[0]) for run in (one, other)]
        assert [leaf.tobytes() for leaf in kept[0]] == [leaf.tobytes() for leaf in kept[1]]
