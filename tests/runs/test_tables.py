import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsf_jax.runs import part_schema, tables

N_SEEDS = 3


def make_rows(first, last, rows=range(N_SEEDS)):
    """Rows of some seeds for iterations first..last-1; every value says where it belongs."""
    row, iteration = (part.ravel() for part in np.meshgrid(np.array(rows), np.arange(first, last), indexing="xy"))
    loss = (100.0 * row + iteration).astype(np.float32)
    loss[iteration == 0] = np.nan
    table = np.stack([loss, -loss], axis=1)
    return {
        "loss": loss,
        "q_total": table,
        "row": row,
        "seed": row + 7,
        "iteration": iteration,
        "env_steps": iteration * 10,
        "updates": iteration,
    }


def assert_same(actual, expected):
    assert actual.schema.equals(expected.schema)
    left, right = tables.to_arrays(actual), tables.to_arrays(expected)
    assert list(left) == list(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def test_what_is_written_is_read_back(tmp_path):
    columns = make_rows(0, 4)
    path = tables.write_part(tmp_path, "train", 2, 0, columns)
    assert path == tmp_path / "metrics" / "train" / "part-000000000-0002.parquet"
    order = np.lexsort((columns["iteration"], columns["row"]))
    arrays = tables.to_arrays(tables.read_table(tmp_path, "train"))
    for name, values in columns.items():
        np.testing.assert_array_equal(arrays[name], values[order])


def test_columns_have_fixed_types_and_order(tmp_path):
    columns = make_rows(0, 2) | {"final": np.array([True] * 6), "loss": np.zeros(6), "n_bad": np.zeros(6, np.uint8)}
    tables.write_part(tmp_path, "eval", 0, 0, columns)
    schema = tables.read_table(tmp_path, "eval").schema
    expected = {
        "row": pa.int32(), "seed": pa.int64(), "iteration": pa.int64(), "env_steps": pa.int64(), "updates": pa.int64(),
        "final": pa.bool_(), "loss": pa.float32(), "n_bad": pa.int64(), "q_total": pa.list_(pa.float32(), 2),
    }  # fmt: skip
    assert list(zip(schema.names, schema.types, strict=True)) == list(expected.items())


def test_the_table_does_not_depend_on_how_rows_were_cut_into_parts(tmp_path):
    tables.write_part(tmp_path / "whole", "train", 0, 0, make_rows(0, 9))
    for block, rows in ((0, [0, 1]), (1, [2])):
        for first, last in ((4, 9), (0, 4)):
            tables.write_part(tmp_path / "cut", "train", block, first, make_rows(first, last, rows))
    assert_same(tables.read_table(tmp_path / "cut", "train"), tables.read_table(tmp_path / "whole", "train"))


def test_the_final_evaluation_comes_after_the_grid_evaluation_of_its_iteration(tmp_path):
    for part, final in ((4, True), (5, False)):
        columns = {name: np.array([5]) for name in ("row", "seed", "iteration", "env_steps")}
        tables.write_part(tmp_path, "eval", 0, part, columns | {"final": np.array([final])})
    assert tables.to_arrays(tables.read_table(tmp_path, "eval"))["final"].tolist() == [False, True]


def test_a_part_without_rows_is_allowed(tmp_path):
    tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 0))
    arrays = tables.to_arrays(tables.read_table(tmp_path, "train"))
    assert arrays["q_total"].shape == (0, 2)
    assert arrays["row"].shape == (0,)


def test_a_part_is_synced_then_renamed_then_its_folder_synced(tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, os.replace

    def watched_sync(descriptor):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def watched_rename(source, target):
        assert pq.read_metadata(source).num_rows == N_SEEDS * 2  # complete before it bears its name
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_rename)
    tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 2))
    if os.path.isdir("/proc/self/fd"):
        assert events == ["file", "rename", "folder"]


def test_a_failed_write_leaves_the_old_part_and_no_rubbish(tmp_path, monkeypatch):
    path = tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 2))
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 5))
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_leftover_temporary_files_are_not_parts(tmp_path):
    path = tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 2))
    path.with_name("part-000000002-0000.parquet.tmp").write_bytes(b"half a par")
    assert tables.part_paths(tmp_path, "train") == [path]
    assert tables.read_table(tmp_path, "train").num_rows == 2 * N_SEEDS


@pytest.mark.parametrize("iteration", [0, 1, 3, 4, 6, 7, 8, 9, 100])
def test_what_lies_past_a_checkpoint_is_dropped_and_written_again(tmp_path, iteration):
    for folder in (tmp_path / "whole", tmp_path / "resumed"):
        for first, last in ((0, 4), (4, 8), (8, 9)):
            tables.write_part(folder, "train", 0, first, make_rows(first, last))
    dropped = tables.drop_from(tmp_path / "resumed", "train", 0, iteration)
    assert dropped == max(9 - iteration, 0) * N_SEEDS
    if iteration:
        left = tables.to_arrays(tables.read_table(tmp_path / "resumed", "train"))
        assert left["iteration"].max() == min(iteration, 9) - 1
        assert len(left["row"]) == min(iteration, 9) * N_SEEDS
    if iteration < 9:
        tables.write_part(tmp_path / "resumed", "train", 0, iteration, make_rows(iteration, 9))
    assert_same(tables.read_table(tmp_path / "resumed", "train"), tables.read_table(tmp_path / "whole", "train"))


def test_dropping_leaves_other_blocks_alone_and_removes_own_leftovers(tmp_path):
    mine = tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 4, [0]))
    other = tables.write_part(tmp_path, "train", 1, 0, make_rows(0, 4, [1]))
    before = other.read_bytes()
    for block in (0, 1):
        mine.with_name(f"part-000000004-000{block}.parquet.tmp").write_bytes(b"half a par")
    tables.drop_from(tmp_path, "train", 0, 2)
    assert other.read_bytes() == before
    assert sorted(path.name for path in mine.parent.iterdir()) == [
        "part-000000000-0000.parquet", "part-000000000-0001.parquet", "part-000000004-0001.parquet.tmp",
    ]  # fmt: skip


def test_dropping_from_a_table_that_was_never_written_does_nothing(tmp_path):
    assert tables.drop_from(tmp_path, "train", 0, 0) == 0


def test_a_truncated_part_past_the_checkpoint_is_dropped(tmp_path):
    tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 4))
    truncate(tables.write_part(tmp_path, "train", 0, 4, make_rows(4, 8)))
    tables.drop_from(tmp_path, "train", 0, 4)
    assert tables.read_table(tmp_path, "train").num_rows == 4 * N_SEEDS


def test_a_truncated_part_before_the_checkpoint_is_named_and_nothing_is_changed(tmp_path):
    paths = [tables.write_part(tmp_path, "train", 0, first, make_rows(first, first + 4)) for first in (0, 4, 8)]
    truncate(paths[0])
    with pytest.raises(ValueError, match=f"{paths[0].name} is truncated"):
        tables.drop_from(tmp_path, "train", 0, 6)
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all" * 10])
def test_a_foreign_file_is_named(tmp_path, content):
    path = tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 2))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name} is truncated or no Parquet file"):
        tables.read_table(tmp_path, "train")


def test_a_truncated_file_is_named(tmp_path):
    path = tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 2))
    truncate(path)
    with pytest.raises(ValueError, match=rf"{path.name} is truncated"):
        tables.read_table(tmp_path, "train")
    with pytest.raises(ValueError, match=rf"{path.name} is truncated"):
        tables.write_part(tmp_path, "train", 0, 2, make_rows(2, 4))


def test_a_parquet_file_of_somebody_else_is_named(tmp_path):
    path = tables.part_path(tmp_path, "train", 0, 0)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"row": [1]}), path)
    with pytest.raises(ValueError, match=rf"{path.name} was not written by lsf_jax"):
        tables.read_table(tmp_path, "train")


def test_a_parquet_file_of_another_name_is_named(tmp_path):
    path = tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 2))
    path.rename(path.with_name("copy of part.parquet"))
    with pytest.raises(ValueError, match=r"copy of part\.parquet is not named like a part"):
        tables.read_table(tmp_path, "train")


def test_a_part_of_another_table_or_version_is_named(tmp_path, monkeypatch):
    path = tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 2))
    target = tables.part_path(tmp_path, "eval", 0, 0)
    target.parent.mkdir()
    target.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"belongs to the table 'train'"):
        tables.read_table(tmp_path, "eval")
    monkeypatch.setattr(part_schema, "READ_VERSIONS", (1,))
    with pytest.raises(ValueError, match=rf"{path.name} has schema version 2, this lsf_jax reads 1"):
        tables.read_table(tmp_path, "train")


def test_all_parts_share_a_schema(tmp_path):
    tables.write_part(tmp_path, "train", 0, 0, make_rows(0, 2))
    columns = make_rows(2, 4)
    columns["kl"] = columns.pop("loss")
    with pytest.raises(ValueError, match="differ in the columns kl, loss"):
        tables.write_part(tmp_path, "train", 0, 2, columns)


SETTINGS = {
    "algo.name": np.full(6, "qmix"),
    "algo.lr": np.tile([1e-3, 3e-4, 3e-4], 2),
    "env.size": np.full(6, 5),
    "env.shaped": np.full(6, True),
}


def test_settings_stand_last_in_a_part_with_64_bits_for_anybody_who_reads_parquet(tmp_path):
    path = tables.write_part(tmp_path, "train", 0, 0, SETTINGS | make_rows(0, 2))
    found = pq.read_table(path)
    assert found.column_names[-4:] == ["algo.lr", "algo.name", "env.shaped", "env.size"]
    assert found["algo.lr"].to_pylist() == [1e-3, 3e-4, 3e-4] * 2
    by_rate = found.group_by("algo.lr").aggregate([("row", "count")]).to_pylist()
    assert sorted((each["algo.lr"], each["row_count"]) for each in by_rate) == [(3e-4, 4), (1e-3, 2)]


def test_settings_are_no_part_of_the_table_and_may_be_missing_from_older_parts(tmp_path):
    tables.write_part(tmp_path / "with", "train", 0, 0, SETTINGS | make_rows(0, 2))
    tables.write_part(tmp_path / "without", "train", 0, 0, make_rows(0, 2))
    for folder, more in (("with", {}), ("without", SETTINGS)):
        tables.write_part(tmp_path / folder, "train", 0, 2, make_rows(2, 4) | more)
        tables.check_parts(tmp_path / folder, "train", 0)
    assert_same(tables.read_table(tmp_path / "with", "train"), tables.read_table(tmp_path / "without", "train"))


def test_a_part_that_is_cut_keeps_its_settings(tmp_path):
    path = tables.write_part(tmp_path, "train", 0, 0, SETTINGS | make_rows(0, 2))
    tables.drop_from(tmp_path, "train", 0, 1)
    assert pq.read_table(path)["algo.lr"].to_pylist() == [1e-3, 3e-4, 3e-4]


def test_a_setting_with_gaps_or_of_a_strange_type_is_named(tmp_path):
    path = tables.write_part(tmp_path, "train", 0, 0, SETTINGS | make_rows(0, 2))
    content = pq.read_table(path)
    place = content.column_names.index("algo.name")
    for column, message in (
        (pa.array([None] * 6, pa.string()), "algo.name has gaps"),
        (pa.array([b"x"] * 6), "algo.name is of type binary"),
    ):
        pq.write_table(content.set_column(place, "algo.name", column), path)
        with pytest.raises(ValueError, match=message):
            tables.read_table(tmp_path, "train")


def test_a_table_without_parts_says_so(tmp_path):
    with pytest.raises(ValueError, match="holds no metrics yet"):
        tables.read_table(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "lack seed"),
        ({"loss": np.zeros(2, np.float32)}, "differ in length"),
        ({"loss": np.zeros((6, 2, 2), np.float32)}, r"column 'loss' has shape"),
        ({"row": np.zeros((6, 2), np.int32)}, r"column 'row' has shape"),
        ({"loss": np.array(["a"] * 6)}, "column 'loss' has dtype"),
        ({"loss": np.array(1.0)}, "differ in length"),
    ],
)
def test_bad_columns_are_refused(tmp_path, change, message):
    columns = {name: values for name, values in (make_rows(0, 2) | change).items() if values is not None}
    with pytest.raises(ValueError, match=message):
        tables.write_part(tmp_path, "train", 0, 0, columns)
    assert not (tmp_path / "metrics").exists()


def test_bad_names_and_numbers_are_refused(tmp_path):
    rows = make_rows(2, 4)
    for arguments, message in (
        (("../train", 0, 2), "not a table name"),
        (("train", 10_000, 2), "block 10000"),
        (("train", 0, 10**9), "first_iteration 1000000000"),
        (("train", 0, 3), "first_iteration 3 lies above"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.write_part(tmp_path, *arguments, rows)
