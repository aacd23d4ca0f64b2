import os

import pytest

from tests.runs.sweeps.emulated import Driver, Emulated


@pytest.fixture(scope="module")
def quiet():
    before = dict(os.environ)
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def three(quiet):
    """A cluster of three nodes with one CPU each, for tests that take nothing away."""
    made = Emulated()
    for _ in range(3):
        made.add()
    yield made
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on this machine alone with as many threads, by its number of env steps."""
    folder, made = tmp_path_factory.mktemp("alone"), {}

    def run(steps):
        if steps not in made:
            driver = Driver(folder, f"alone-{steps}", "train.cpu_devices=1", steps=steps, NPROC="1")
            driver.wait()
            made[steps] = driver.path
        return made[steps]

    return run


@pytest.fixture
def emulated(quiet):
    made = Emulated()
    yield made
    made.cluster.shutdown()
