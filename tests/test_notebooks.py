"""Every notebook runs from top to bottom, as a user would run it, and is the script beside it."""

import os
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def pictures(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def test_there_is_a_quickstart():
    assert next(path.name for path in NOTEBOOKS).startswith("01_quickstart")


@each_notebook
def test_a_notebook_is_small_holds_its_pictures_and_is_the_script_beside_it(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(pictures(notebook)) >= 2
    assert path.stat().st_size < 500_000
    script = jupytext.read(path.with_suffix(".py"))
    ours, theirs = ([(cell.cell_type, cell.source) for cell in each.cells] for each in (notebook, script))
    assert ours == theirs, f"jupytext --sync {path.name} makes them equal"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@each_notebook
def test_notebook_runs_and_shows_pictures(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    user = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # a user has one device
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute(env=user)
    assert len(pictures(notebook)) >= 2
