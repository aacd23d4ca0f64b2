import os

import numpy as np
import pytest

from lsf_jax.runs import checkpoint, tables
from lsf_jax.runs.policy_files import policy_path
from lsf_jax.runs.sweeps import courier as couriers
from lsf_jax.runs.sweeps.courier import Courier, Delivery
from lsf_jax.runs.sweeps.messages import Piece, Saved


def write_block(stage, step, index=1):
    """What a session leaves of a block: a part, policies, a checkpoint."""
    rows = {name: np.arange(2) for name in ("row", "seed", "env_steps")} | {"iteration": np.full(2, step)}
    tables.write_part(stage, "train", index, step, rows | {"loss": np.ones(2, np.float32)})
    policy_path(stage, index).parent.mkdir(exist_ok=True)
    policy_path(stage, index).write_bytes(b"policies")
    state = {"x": np.arange(1000, dtype=np.float32) + step}
    checkpoint.save(checkpoint.block_folder(stage, index), step, state, {"block": index}, filled=None)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def deliver(messages, delivery):
    for message in messages:
        delivery.commit(message) if isinstance(message, Saved) else delivery.take(message)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(couriers, "PIECE_BYTES", 300)  # so that files have several pieces
    (tmp_path / "stage").mkdir()
    (tmp_path / "run").mkdir()
    return tmp_path / "stage", tmp_path / "run"


def test_the_drivers_folder_ends_as_the_workers_byte_for_byte(folders):
    stage, run = folders
    sent = []
    courier, delivery = Courier(stage, 1, sent.append), Delivery(run, 1)
    for step in (5, 9):
        write_block(stage, step)
        courier.collect()
        deliver(sent, delivery)
        sent.clear()
        assert files_of(run) == files_of(stage)
    courier.collect()
    assert sent == []


def test_a_checkpoint_comes_after_what_it_makes_count(folders):
    stage, _ = folders
    sent = []
    write_block(stage, 5)
    Courier(stage, 1, sent.append).collect()
    assert isinstance(sent[-1], Saved)
    first = next(place for place, message in enumerate(sent) if message.names[0] == "checkpoints")
    assert {message.names[0] for message in sent[:first]} == {"metrics", "policies"}
    assert len([message for message in sent if isinstance(message, Piece)]) > len(files_of(stage))


def test_half_a_delivery_leaves_the_earlier_checkpoint_and_nothing_else(folders):
    stage, run = folders
    sent = []
    courier = Courier(stage, 1, sent.append)
    write_block(stage, 5)
    courier.collect()
    deliver(sent, Delivery(run, 1))
    before = files_of(run / "checkpoints")
    sent.clear()
    write_block(stage, 9)
    courier.collect()
    delivery = Delivery(run, 1)
    deliver(sent[:-2], delivery)
    delivery.give_up()
    assert files_of(run / "checkpoints") == before
    assert not [name for name in files_of(run) if "tmp" in name]


def test_a_checkpoint_with_a_changed_byte_is_refused(folders):
    stage, run = folders
    sent = []
    write_block(stage, 5)
    Courier(stage, 1, sent.append).collect()
    place = next(n for n, message in enumerate(sent) if message.names[0] == "checkpoints" and len(message.data) > 9)
    sent[place] = sent[place]._replace(data=os.urandom(len(sent[place].data)))
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        deliver(sent, Delivery(run, 1))


def test_a_name_that_leads_out_of_the_run_folder_is_refused(folders):
    _, run = folders
    (run / "metrics").symlink_to(run.parent)
    with pytest.raises(ValueError, match="link"):
        Delivery(run, 1).take(Piece(("metrics", "train", "part-000000001-0001.parquet"), b"x", True))
