import types

import pytest

from lsf_jax.runs.sweeps import pool as pools
from lsf_jax.runs.sweeps.pool import Hand, Hooks, Pool
from lsf_jax.settings import ConfigError
from tests.runs.sweeps.stand_in_ray import Actor, DiedError, Ray, RayTaskError


class Driver:
    """Hooks that write down what they are told, and workers that follow a script."""

    def __init__(self, script, nodes=None, opening=None):
        self.ray = Ray(nodes or {"node-1": {"CPU": 2.0}})
        self.script, self.opening, self.saved = script, opening, {}
        self.actors, self.taken, self.notes = [], [], []
        self.refuse = lambda opened: None
        hooks = Hooks(
            accept=lambda opened: self.refuse(opened),
            begin=lambda job, opened: job,
            take=lambda job, message: self.taken.append((job, message)),
            lost=lambda job: self.saved.get(job),
            note=self.notes.append,
        )
        self.pool = Pool(self.ray, self.start, {"CPU": 1.0}, hooks)

    def start(self):
        actor = Actor(self.script)
        self.actors.append(actor)
        return Hand(actor, self.opening or types.SimpleNamespace(node="node-1"))


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch):
    monkeypatch.setattr(pools, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(pools, "WAIT_SECONDS", 0.0)


def test_every_job_is_done_once_and_workers_are_kept():
    driver = Driver(lambda job, actor: [f"{job}a", f"{job}b"])
    assert driver.pool.run(range(5), lambda: False) == {}
    assert sorted(driver.taken) == [(job, f"{job}{part}") for job in range(5) for part in "ab"]
    assert len(driver.actors) == 2
    assert set(driver.ray.killed) == set(driver.actors)


def test_there_are_no_more_workers_than_jobs():
    driver = Driver(lambda job, actor: ["done"], nodes={"node-1": {"CPU": 64.0}})
    driver.pool.run(range(3), lambda: False)
    assert len(driver.actors) == 3


def test_a_job_whose_worker_dies_is_done_by_another():
    died = []

    def script(job, actor):
        if job == 1 and not died:
            died.append(actor)
            return [DiedError()]
        return ["done"]

    driver = Driver(script)
    assert driver.pool.run(range(3), lambda: False) == {}
    assert sorted(driver.taken) == [(job, "done") for job in range(3)]
    assert driver.pool.healed == 1
    assert died[0] in driver.ray.killed


def test_what_fails_three_times_for_one_reason_is_given_up_while_the_others_finish():
    driver = Driver(lambda job, actor: [RayTaskError(ConfigError("no room"))] if job == 0 else ["done"])
    assert driver.pool.run(range(4), lambda: False) == {0: "no room"}
    assert sorted(driver.taken) == [(job, "done") for job in (1, 2, 3)]
    assert "given up: no room" in driver.notes[-1]


@pytest.mark.parametrize(
    ("reasons", "failures"),
    [([f"[Errno 21] '/tmp/.tmp-{n}x' has {n} bytes" for n in range(9)], 3), ([chr(65 + n) for n in range(26)], 20)],
    ids=["of one kind", "all different"],
)
def test_reasons_that_differ_in_numbers_and_names_are_one_and_of_others_there_is_an_end(reasons, failures):
    left = iter(reasons)
    driver = Driver(lambda job, actor: [RayTaskError(OSError(next(left)))])
    assert driver.pool.run([0], lambda: False) == {0: f"OSError: {reasons[failures - 1]}"}
    assert len(driver.actors) == failures


def test_errors_of_one_kind_are_no_recovery_however_little_further_a_job_gets():
    driver = Driver(lambda job, actor: ["done"])

    def script(job, actor):
        driver.saved[job] = len(driver.actors)  # something more is saved before each failure
        return [RayTaskError(ConfigError("a folder is in the way"))]

    driver.script = script
    assert driver.pool.run([0], lambda: False) == {0: "a folder is in the way"}
    assert len(driver.actors) == 3


def test_losses_count_anew_when_a_job_has_got_further():
    failures = iter(range(5))
    driver = Driver(lambda job, actor: ["done"])

    def script(job, actor):
        number = next(failures, None)
        if number is None:
            return ["done"]
        driver.saved[job] = number // 2  # a later checkpoint after every second failure
        return [DiedError()]

    driver.script = script
    assert driver.pool.run([0], lambda: False) == {}
    assert driver.pool.healed == 5


def test_nodes_that_are_lost_do_not_count_as_the_jobs_fault():
    lost = iter(range(5))

    def script(job, actor):
        if next(lost, None) is None:
            return ["done"]
        driver.ray.named = {"node-2": {"CPU": 1.0}}
        return [DiedError()]

    driver = Driver(script)
    assert driver.pool.run([0], lambda: False) == {}
    assert all("node was lost" in note for note in driver.notes)


def test_a_stop_saves_what_is_at_hand_and_begins_nothing():
    asked = []

    def script(job, actor):
        def messages():
            yield "begun"
            asked.append(True)
            while not actor.asked_to_stop:
                yield "going on"
            yield "saved"

        return messages()

    driver = Driver(script, nodes={"node-1": {"CPU": 1.0}})
    driver.pool.run(range(9), lambda: bool(asked))
    assert driver.taken[0] == (0, "begun")
    assert driver.taken[-1] == (0, "saved")
    assert {job for job, _ in driver.taken} == {0}


def test_workers_that_cannot_start_end_the_run_with_the_reason():
    driver = Driver(lambda job, actor: ["done"], opening=RayTaskError(ConfigError("plug-in mine is missing")))
    with pytest.raises(ConfigError, match="plug-in mine is missing"):
        driver.pool.run(range(2), lambda: False)


def test_a_node_that_joins_gets_jobs():
    joined = []

    def script(job, actor):
        if job == 2 and not joined:
            joined.append(True)
            driver.ray.named = {"node-1": {"CPU": 1.0}, "node-2": {"CPU": 1.0}}
        return ["done"]

    driver = Driver(script, nodes={"node-1": {"CPU": 1.0}})
    driver.pool.run(range(8), lambda: False)
    assert len(driver.actors) == 2
    assert len(driver.taken) == 8


def test_a_worker_that_is_refused_later_gets_no_job_and_the_others_go_on():
    driver = Driver(lambda job, actor: [id(actor)])
    driver.refuse = lambda opened: None if len(driver.actors) < 2 or driver.pool.parked else "unlike"
    driver.pool.hands.append(driver.start())
    driver.pool.hands[0].opened, driver.pool.hands[0].pending = types.SimpleNamespace(node="node-1"), None
    assert driver.pool.run(range(4), lambda: False) == {}
    assert driver.notes == ["unlike"]
    assert {actor for _, actor in driver.taken} == {id(driver.actors[0])}
    assert driver.actors[1] in driver.ray.killed


def test_where_every_worker_is_refused_the_run_ends_with_the_reason():
    driver = Driver(lambda job, actor: ["done"])
    driver.refuse = lambda opened: "unlike"
    with pytest.raises(ConfigError, match="unlike"):
        driver.pool.run(range(2), lambda: False)


def test_idle_workers_tidy_up_before_they_end():
    driver = Driver(lambda job, actor: ["done"])
    driver.pool.run(range(3), lambda: False)
    assert all(actor.closed for actor in driver.actors)
