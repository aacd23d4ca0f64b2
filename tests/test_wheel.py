import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIST = (
    "import json; from lsf_jax.config import files; print(json.dumps([str(files.config_folder()), files.list_names()]))"
)
COMMAND = "import sys; from lsf_jax.cli.app import main; sys.exit(main(['list']))"
COMPOSE = "import lsf_jax; print(lsf_jax.compose(env='matrix_game', overrides=['seeds=3']).train.seeds)"


def run(*command, folder, **variables) -> str:
    """Standard output of a command that must succeed, run outside the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    run(*build, folder=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel's content and nothing else of this package."""
    folder = tmp_path_factory.mktemp("site")
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target")
    run(*install, str(folder), str(wheel), folder=folder)
    return folder


def test_the_wheel_holds_every_config_and_the_suites_and_no_test_of_ours(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"lsf_jax_pytest.py", "lsf_jax/testing/test_suites.py"} <= names
    shipped = {f"lsf_jax/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert shipped
    assert shipped <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "notebooks/"))]


def test_an_installed_package_lists_its_configs_outside_the_checkout(installed, tmp_path):
    out = run(sys.executable, "-c", LIST, folder=tmp_path, PYTHONPATH=str(installed))
    folder, listed = json.loads(out)
    assert Path(folder) == installed / "lsf_jax" / "configs"
    assert "predator_prey" in dict(listed["env"])
    assert "lsf_sac" in dict(listed["algo"])
    assert {"paper", "release"} <= dict(listed["preset"]).keys()


def test_an_installed_package_composes_outside_the_checkout(installed, tmp_path):
    assert run(sys.executable, "-c", COMPOSE, folder=tmp_path, PYTHONPATH=str(installed)).strip() == "3"


def test_an_installed_package_has_the_suites_for_pytest(installed, tmp_path):
    """Found by its entry point, with the options; there all modules of the package are loaded by pytest."""
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", "--pyargs")
    out = run(*command, "lsf_jax.testing", "--env", "climbing", folder=tmp_path, PYTHONPATH=str(installed))
    assert "test_suites.py::TestConformance::test_terminal_implies_done[climbing]" in out
    assert "TestContract" not in out


def test_the_installed_command_lists_everything_outside_the_checkout(installed, tmp_path):
    out = run(sys.executable, "-c", COMMAND, folder=tmp_path, PYTHONPATH=str(installed))
    assert {"lsf_sac", "predator_prey", "matrix", "paper", "release"} <= {line.split()[0] for line in out.splitlines()}
    scripts = (next(installed.glob("lsf_jax-*.dist-info")) / "entry_points.txt").read_text()
    assert "lsf-jax = lsf_jax.cli.app:main" in scripts
    assert "[pytest11]\nlsf_jax_pytest = lsf_jax_pytest" in scripts
