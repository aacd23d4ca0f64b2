import pytest

from lsf_jax.programs.cost_model import Range
from lsf_jax.programs.layouts import even_width
from lsf_jax.programs.planner import Plan
from lsf_jax.programs.targets import Survey
from lsf_jax.runs.sweeps import foresight
from lsf_jax.runs.sweeps.foresight import Shape, foreseen, foresight_text


@pytest.mark.parametrize(
    ("most", "rows", "slots", "expected"),
    [
        (100, 1000, 128, 8),  # every slot has a block
        (100, 30_000, 128, 79),  # 235 rows for each slot: three blocks rather than two full ones and a rest
        (4, 10, 100, 1),
        (64, 64, 1, 64),
    ],
)
def test_blocks_are_as_equal_as_they_can_be(most, rows, slots, expected):
    width = even_width(most, rows, slots)
    assert width == expected
    assert width <= most


def survey_of(rows, width, blocks):
    plan = Plan(rows, 1, width, blocks, 32, 32, {"parameters": 1}, 10**9, disk_bytes=1000)
    return Survey("h100", 1, plan, 8, 100, 10, 10**6, 10**9, [{"required": 10**8}], None, None, False, "")


def test_hours_are_those_of_the_device_with_most_blocks(monkeypatch):
    monkeypatch.setattr(foresight, "estimate", lambda found: (Range(1.0, 0.5), Range(30.0, 60.0)))
    seen = foreseen(Shape(2, 4, "h100"), survey_of(rows=300, width=20, blocks=15))
    assert seen.rounds == 2  # 15 blocks on 8 devices
    assert seen.hours == Range(4.0, 8.0)  # 30 to 60 h for 15 blocks: 2 to 4 h each
    assert seen.disk_bytes == 1000 * (15 + 8)
    text = foresight_text(seen)
    assert "2 nodes of 4 × h100: 8 blocks at a time" in text
    assert "4.0 h to 8.0 h, up to 64.0 h of devices" in text


def test_devices_without_a_block_are_told(monkeypatch):
    monkeypatch.setattr(foresight, "estimate", lambda found: None)
    text = foresight_text(foreseen(Shape(16, 8, "h100"), survey_of(rows=100, width=1, blocks=100)))
    assert "28 devices have no block" in text
    assert "estimate" not in text
