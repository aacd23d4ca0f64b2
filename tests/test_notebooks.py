"""Every notebook runs from top to bottom, as a user would run it."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SHORT = {"seeds=64": "seeds=8", "train.block=32": "train.block=4", "train.env_steps=8000": "train.env_steps=1000"}
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_is_a_quickstart():
    assert next(path.name for path in NOTEBOOKS).startswith("01_quickstart")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_short", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["short", "whole"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_pictures(path, is_short, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    if is_short:  # the same cells with fewer seeds and steps; where a notebook writes them otherwise, it runs whole
        for cell in notebook.cells:
            for whole, part in SHORT.items():
                cell.source = cell.source.replace(f'"{whole}"', f'"{part}"')
    user = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # a user has one device
    if is_short:
        user["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiling is most of it
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute(env=user)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert not [output for output in outputs if output.output_type == "error"]
