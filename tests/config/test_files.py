"""Named files: the shipped folder, folders of the user's own, and what is listed of both without JAX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsf_jax import algorithms, envs, registry
from lsf_jax.config import files
from lsf_jax.config.composition import compose
from lsf_jax.runs import suite
from lsf_jax.settings import ConfigError

ROOT = Path(__file__).resolve().parents[2]
MINE = {
    "env/tiny_hunt.yaml": "# a hunt of mine\nname: predator_prey\ngrid_size: 4\n",
    "env/maps/odd.yaml": "name: m_step\nn_steps: 3\n",
    "train/short.yaml": "# a short run\nenv_steps: 100\n",
    "preset/quick.yaml": "# a quick protocol\nalgo: {lr: 0.25}\n",
    "suite/both.yaml": "env: tiny_hunt\ntrain: short\npresets: [quick]\nalgorithms: {vdn: [], qmix: []}\n",
}


def fill(folder: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A folder of the user's own."""
    monkeypatch.delenv(files.VARIABLE, raising=False)
    return fill(tmp_path / "mine", MINE)


def refusal(**asked) -> str:
    with pytest.raises(ConfigError) as error:
        compose(**asked)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_users_own_folder_is_searched_beside_the_shipped_one(mine):
    made = compose(env="tiny_hunt", train="short", presets=["pymarl2", "quick"], config_dirs=[mine])
    assert (made.env.grid_size, made.train.env_steps, made.algo.lr, made.algo.batch_size) == (4, 100, 0.25, 128)
    assert compose(env="maps/odd", config_dirs=[str(mine)]).env.n_steps == 3
    assert compose(env="smax/3m", config_dirs=[mine]) == compose(env="smax/3m")
    assert (
        refusal(env="tiny_hunt")
        == "unknown env 'tiny_hunt'" + refusal(env="tiny_hunt")[len("unknown env 'tiny_hunt'") :]
    )


def test_the_environment_variable_names_folders_too(mine, tmp_path, monkeypatch):
    other = fill(tmp_path / "other", {"preset/slow.yaml": "algo: {lr: 0.125}\n"})
    monkeypatch.setenv(files.VARIABLE, f"{mine}{os.pathsep}{other}{os.pathsep}")
    assert compose(env="tiny_hunt", presets=["quick", "slow"]).algo.lr == 0.125
    assert files.search_path([mine]) == (files.config_folder().resolve(), mine.resolve(), other.resolve())
    monkeypatch.setenv(files.VARIABLE, "nowhere")
    assert (
        refusal() == "$LSF_JAX_CONFIGS nowhere does not exist; expected a folder with env, train, preset or suite in it"
    )


def test_a_suite_of_ones_own_finds_what_it_names(mine):
    members = suite.members(suite.read_suite("both", [mine]), "runs")
    assert [member.algo for member in members] == ["vdn", "qmix"]
    assert all(member.config.env.grid_size == 4 for member in members)
    assert all((member.config.train.env_steps, member.config.algo.lr) == (100, 0.25) for member in members)


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("smax/3m", "env"),
        ("predator_prey_p2", "env"),
        ("million", "train"),
        ("paper", "preset"),
        ("matrix_table", "suite"),
    ],
)
def test_a_name_in_both_folders_is_refused_with_both_files(mine, name, section):
    path = fill(mine, {f"{section}/{name}.yaml": "name: m_step\n"}) / section / f"{name}.yaml"
    theirs = files.config_folder() / section / f"{name}.yaml"
    assert refusal(config_dirs=[mine]) == f"{section} {name!r} is both {theirs} and {path}; rename or remove one"


def test_a_name_in_two_of_the_users_folders_is_refused(mine, tmp_path):
    other = fill(tmp_path / "other", {"env/tiny_hunt.yaml": "name: m_step\n"})
    message = refusal(config_dirs=[mine, other])
    assert message.startswith(
        f"env 'tiny_hunt' is both {mine / 'env/tiny_hunt.yaml'} and {other / 'env/tiny_hunt.yaml'}"
    )
    assert compose(config_dirs=[mine, mine, mine / ".." / "mine"]) == compose()  # one folder, however often it is named


def test_a_file_cannot_bear_a_registered_name(mine):
    fill(mine, {"env/m_step.yaml": "name: m_step\n"})
    expected = f"env 'm_step' is both registered and the file {mine / 'env/m_step.yaml'}; rename the file"
    assert refusal(config_dirs=[mine]) == expected
    with pytest.raises(ConfigError) as error:
        files.list_names([mine])
    assert str(error.value) == expected


def test_a_folder_that_is_none_is_refused(mine, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    end = "expected a folder with env, train, preset or suite in it"
    assert refusal(config_dirs=[tmp_path / "gone"]) == f"--config-dir {tmp_path / 'gone'} does not exist; {end}"
    assert refusal(config_dirs=[tmp_path / "file"]) == f"--config-dir {tmp_path / 'file'} is no folder; {end}"
    assert refusal(config_dirs=[tmp_path / "empty"]) == f"--config-dir {tmp_path / 'empty'} holds none of these; {end}"
    assert refusal(config_dirs=[mine / "env"]) == f"--config-dir {mine / 'env'} holds none of these; {end}"


def test_what_is_wrong_in_a_users_file_is_told_with_its_path(mine):
    path = mine / "env" / "tiny_hunt.yaml"
    path.write_text("name: predator_pray\n")
    assert refusal(env="tiny_hunt", config_dirs=[mine]).endswith(f"did you mean predator_prey? (in {path})")
    path.write_bytes(b"name: \xe9")
    assert refusal(env="tiny_hunt", config_dirs=[mine]).startswith(f"cannot read config {path}: not UTF-8 text")


def test_everything_is_listed_with_a_line_about_itself(mine):
    listed = {section: dict(entries) for section, entries in files.list_names().items()}
    assert list(listed) == ["algo", "env", "train", "preset", "suite"]
    assert listed["algo"] == {name: entry.doc for name, entry in algorithms.ALGORITHMS.items()}
    assert {name: entry.doc for name, entry in envs.ENVS.items()}.items() <= listed["env"].items()
    assert listed["env"].keys() == {*envs.ENVS, *files.config_files("env")}
    for section, entries in listed.items():
        assert [name for name, line in entries.items() if len(line) < 20] == [], section
    assert dict(files.list_names([mine])["env"]).items() >= {"tiny_hunt": "a hunt of mine", "maps/odd": ""}.items()


@pytest.mark.parametrize(("package", "entries"), [("algorithms", algorithms.ALGORITHMS), ("envs", envs.ENVS)])
def test_what_is_read_from_the_source_is_what_is_registered(package, entries):
    assert registry.shipped(package) == {name: entry.doc for name, entry in entries.items()}


def test_listing_loads_no_jax():
    code = (
        "import sys; from lsf_jax.cli.app import main\n"
        "assert main(['list']) == 0\n"
        "heavy = {'jax', 'flax', 'numpy', 'jaxmarl', 'matplotlib', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "  lsf_sac " in done.stdout
    assert "  predator_prey_p2 " in done.stdout
