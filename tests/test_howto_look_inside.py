"""The page on looking inside: its examples run from top to bottom, as a reader would run them."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from lsf_jax.cli.app import main
from tests.support.run_cases import finished_run

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "look_inside.md"
SMALL = ("train.seeds=4", "algo.recurrent=false", "env.n_steps=4")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the page's runs, the current one."""
    for name in ("NAME", "A", "B"):
        finished_run(tmp_path / "runs" / name, "lsf_sac", "m_step", *SMALL, block=4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("policy", None)


@pytest.mark.slow
def test_the_examples_run(place):
    names = {}
    exec("\n".join(blocks("python")), names)
    assert names["heard"].shape == (2, 2)
    assert names["action"].shape == (2,)
    assert np.isfinite(names["report"].bits).all()
    assert all((place / name).stat().st_size > 1000 for name in ("inside.png", "episode.html", "report.html"))


@pytest.mark.slow
def test_the_commands_work_and_write_what_the_page_says(place, capsys):
    said = {}
    for line in "".join(blocks("bash")).splitlines():
        words = re.sub(r"\s+#.*", "", line)
        assert main(shlex.split(words)[1:]) == 0
        said[words] = capsys.readouterr().out
    assert (place / "runs" / "NAME" / "inside-row0.png").is_file()
    assert {path.name for path in (place / "best").iterdir()} == {
        *("policy.safetensors", "spec.json", "README.md", "policy.py"),
    }
    found = json.loads(said["lsf-jax inspect runs/NAME --row 3 --episodes 50 --json"])
    assert found["messages"]["steps"] == 200
    assert "silence of one sender" in said["lsf-jax inspect runs/NAME"]
    assert (place / "episode.html").is_file()
    assert (place / "report.html").is_file()
