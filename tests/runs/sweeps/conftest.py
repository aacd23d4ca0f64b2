import pytest

from tests.runs.sweeps.emulated import Driver, Emulated


@pytest.fixture(scope="module")
def three():
    """A cluster of three nodes with one CPU each; a test that takes one away puts another in its place."""
    made = Emulated()
    for _ in range(3):
        made.add()
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on this machine alone with as many threads, by its number of env steps and what else is set."""
    folder, made = tmp_path_factory.mktemp("alone"), {}

    def run(*words, steps=400):
        if (steps, words) not in made:
            driver = Driver(folder, f"alone-{len(made)}", "train.cpu_devices=1", *words, steps=steps, NPROC="1")
            driver.wait()
            made[steps, words] = driver.path
        return made[steps, words]

    return run


@pytest.fixture
def emulated():
    """A cluster without nodes, but for its head."""
    made = Emulated()
    yield made
    made.close()
