"""The example of `docs/howto/parallel.md` is complete: it is read from the page and run."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lsf_jax.cli import app
from tests.envs.parallel.test_game import begun, masks, play

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "howto" / "parallel.md").read_text(encoding="utf-8")
SMALL = "seeds=1 train.env_steps=200 train.n_envs=2 train.buffer_capacity=64 algo.hidden=8 train.eval_episodes=2"


def block(language, word):
    """The text of the page's block of a language in which a word stands."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if word in text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the page's file in it."""
    (tmp_path / "my_games.py").write_text(block("python", "class Corridor"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_s_game_is_played_as_it_says(folder):
    pytest.importorskip("gymnasium", reason="pip install gymnasium")
    spec = importlib.util.spec_from_file_location("my_games", folder / "my_games.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    code = {"team_reward": module.team_reward, "state": module.state}
    game = begun(module.make(length=4), code=code, info=["met"])
    assert masks(game) == [[1, 0, 1], [1, 1, 0]]
    answers = play(game, (2, 0), (2, 1))
    assert [answer[:3] for answer in answers] == [(-0.01, False, False), (0.99, True, False)]
    assert game.look()[1].tolist() == [2.0, 2.0, pytest.approx(0.1)]


@pytest.mark.slow
def test_the_page_s_commands_and_its_script_run(folder):
    pytest.importorskip("gymnasium", reason="pip install gymnasium")
    train = block("bash", "my_games:make env.team_reward").replace("\\\n", " ").strip()
    words = [*shlex.split(train)[1:], *SMALL.split(), f"train.run_dir={folder}", "train.name=run"]
    assert app.main(words) == 0
    *_, evaluate = block("bash", "lsf-jax evaluate").replace("\\\n", " ").strip().splitlines()
    assert app.main([word.replace("runs/NAME", str(folder / "run")) for word in shlex.split(evaluate)[1:]]) == 0
    more = ", ".join(f'"{word}"' for word in [*SMALL.split(), f"train.run_dir={folder}", "train.name=python"])
    script = block("python", "from_parallel_env").replace('"train.env_steps=20000"', more)
    (folder / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "python" / "card.json").exists()
