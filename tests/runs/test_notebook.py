import queue
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import IPython.display
import numpy as np
import pytest
from ipykernel.iostream import OutStream
from jupyter_client.manager import KernelManager

from lsf_jax.runs import notebook
from lsf_jax.runs.notebook import NotebookProgress, fan_svg, in_cell, progress_for
from lsf_jax.runs.progress import Progress


class Cell:
    """Stands in for a cell of a notebook: what it shows now, and how often that was sent."""

    def __init__(self):
        self.data, self.sent = {}, 0

    def update(self, data, *, raw):
        assert raw
        self.data, self.sent = data, self.sent + 1


@pytest.fixture
def cell(monkeypatch):
    shown = Cell()

    def display(data, *, raw, display_id):
        assert display_id
        shown.update(data, raw=raw)
        return shown

    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def lines_of(svg):
    return [line.get("points") for line in ET.fromstring(svg).iter() if line.tag.endswith("polyline")]


def test_only_a_cells_own_output_gets_the_notebooks_display(monkeypatch):
    assert not in_cell()
    assert type(progress_for(10, "a run")) is Progress
    monkeypatch.setattr(sys, "stdout", OutStream.__new__(OutStream))
    assert in_cell()
    monkeypatch.setattr(notebook, "NotebookProgress", lambda *given: given)
    assert progress_for(10, "a run") == (10, "a run")


def test_bar_numbers_notes_and_fan_are_one_display(cell):
    now = [0.0]
    progress = NotebookProgress(1000, "a run of <b>", clock=lambda: now[0])
    with progress:
        for number in range(5):
            progress.note(f"note {number} & more")
        for step in (100, 300, 500):
            now[0] += 1.0
            progress.evaluated(np.arange(3), np.full(3, step), np.array([1.0, 5.0, np.nan]) * step)
            progress.update(env_steps=step, updates=step)
    page = cell.data["text/html"]
    assert "width:50.0%" in page
    assert "a run of &lt;b&gt;" in page
    assert "note 4 &amp; more" in page
    folded, _, last = page.partition("</details>")
    assert "note 0" in folded
    assert "note 0" not in last
    assert "500 / 1,000 (50%)" in cell.data["text/plain"]
    assert len(lines_of(page[page.index("<svg") : page.index("</svg>") + 6])) == 2 + 1  # two seeds and their median


def test_pictures_are_held_back_but_the_last_is_shown(cell):
    now = [0.0]
    with NotebookProgress(1000, "a run", clock=lambda: now[0]) as progress:
        for step in range(1, 101):
            now[0] += 0.01
            progress.update(env_steps=step, updates=step)
        assert cell.sent <= 3
    assert "100 / 1,000" in cell.data["text/plain"]
    sent = cell.sent
    progress.close()
    assert cell.sent == sent


def test_the_median_of_the_fan_is_that_of_the_seeds():
    points = {row: [(0.0, 0.0), (10.0, float(height))] for row, height in enumerate((0, 1, 10))}
    *seeds, middle = lines_of(fan_svg(points))
    assert middle == seeds[1]
    assert fan_svg({0: [(0.0, 1.0)], 1: []}) == ""


def test_of_many_seeds_and_points_some_are_drawn():
    points = {row: [(float(step), float(row)) for step in range(500)] for row in range(1000)}
    svg = fan_svg(points)
    assert len(lines_of(svg)) == notebook.MOST_LINES + 1
    assert f"{notebook.MOST_LINES} of 1,000 seeds" in svg
    assert len(svg) < 100_000


TRAINING = """
import lsf_jax
words = ["algo.hidden=8", "seeds=2", "train.env_steps=100000000", "train.evaluate_every=2000"]
words += ["train.chunk_seconds=0.2", "train.run_dir=runs", "train.name=stopped"]
result = lsf_jax.train(lsf_jax.compose(algo="qmix", env="matrix_game", overrides=words))
"""


def outputs_until(client, found, patience=1500.0):
    """Messages of a kernel until one satisfies `found`; that one is last."""
    seen, end = [], time.monotonic() + patience
    while time.monotonic() < end:
        try:
            seen.append(client.get_iopub_msg(timeout=1.0))
        except queue.Empty:
            continue
        if found(seen[-1]):
            return seen
    raise AssertionError([message["content"] for message in seen[-5:]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_in_a_kernel_the_fan_moves_and_an_interrupt_saves_and_returns(tmp_path):
    """pytest -m slow tests/runs/test_notebook.py."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=tmp_path)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        client.execute(TRAINING)

        def has_fan(message):
            return "<svg" in message["content"].get("data", {}).get("text/html", "")

        assert outputs_until(client, has_fan)[-1]["msg_type"] == "update_display_data"
        manager.interrupt_kernel()
        outputs_until(client, lambda message: message["content"].get("execution_state") == "idle")
        client.execute("print(result.finished, result.stopped, (result.path / 'config.yaml').exists())")
        answer = outputs_until(client, lambda message: message["msg_type"] == "stream")[-1]
        assert answer["content"]["text"].split() == ["False", "True", "True"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert list(Path(tmp_path, "runs", "stopped", "checkpoints").iterdir())
