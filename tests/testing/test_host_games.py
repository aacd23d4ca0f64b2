"""The conformance of games on the host notices what is wrong with them: every fault fails the test that is about it."""

from dataclasses import dataclass

import numpy as np
import pytest

from lsf_jax.envs.host import STEP
from lsf_jax.registry import Entry
from lsf_jax.settings import setting
from lsf_jax.testing import conformance, device_games, host_games
from tests.support.host_cases import LIMIT, ToyConfig, ToyGames, host_toy, make_toy


@dataclass(frozen=True)
class FaultyConfig(ToyConfig):
    """The toy with something wrong."""

    fault: str = setting("", doc="what is wrong")


class FaultyGames(ToyGames):
    def send(self, workers, actions):
        if self.cfg.fault == "sends whatever it is given":
            self.waiting |= set(workers)
            actions = np.where(self.observation.avail[list(workers)].any(-1), 0, actions)
        super().send(workers, actions)

    def _event(self, worker, kind, action):
        event = super()._event(worker, kind, action)
        if kind != STEP:
            return event
        wrong = {
            "a reward beyond the best": {"reward": 2.0 * LIMIT},
            "an info that is not promised": {"info": {**event.info, "more": 1.0}},
            "an info that is missing": {"info": {"won": 1.0}},
            "terminal and not done": {"terminal": not event.done},
        }
        return event._replace(**wrong.get(self.cfg.fault, {}))

    def _show(self, worker):
        super()._show(worker)
        if self.cfg.fault == "another worker's row changes":
            self.observation.obs[worker - 1] += 1
        if self.cfg.fault == "not a number":
            self.observation.state[worker] = np.nan
        if self.cfg.fault == "nothing to do" and self.time[worker] == 1:
            self.observation.avail[worker, 1] = False

    def receive(self, min_ready, timeout):
        events = super().receive(min_ready, timeout)
        if self.cfg.fault == "no first after the end":
            again = [event.worker for event in events if event.done]
            self.todo = type(self.todo)(job for job in self.todo if job[0] not in again)
            self.waiting |= set(again)
        return events


def host_faulty(cfg):
    return host_toy(cfg)._replace(open=lambda n_workers, seed: FaultyGames(cfg, n_workers))


FAULTS = {
    "": set(),
    "sends whatever it is given": {"test_a_wrong_action_is_refused_and_nothing_is_sent"},
    "a reward beyond the best": {"test_no_random_game_beats_the_best_return"},
    "an info that is not promised": {"test_every_step_reports_the_info_that_is_promised"},
    "an info that is missing": {"test_every_step_reports_the_info_that_is_promised"},
    "terminal and not done": {"test_episodes_end_by_the_game_or_by_their_limit"},
    "another worker's row changes": {"test_an_observation_changes_with_an_event_of_its_worker_alone"},
    "not a number": {"test_games_report_what_their_spec_says"},
    "nothing to do": {"test_every_agent_has_an_action_whenever_one_is_wanted"},
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_fails_the_test_that_is_about_it(fault):
    entry = Entry("faulty", FaultyConfig, make_toy, "the toy with a fault", hosted=host_faulty)
    suite = conformance(variants={"faulty": (entry, {"fault": fault})})
    failed = set()
    for test in (name for name in vars(host_games.HostGames) if name.startswith("test_")):
        try:
            getattr(suite(), test)(name="faulty")
        except AssertionError:
            failed.add(test)
    assert failed == FAULTS[fault]


def test_games_that_hang_are_noticed(monkeypatch):
    monkeypatch.setattr(host_games, "PATIENCE", 0.05)
    entry = Entry("faulty", FaultyConfig, make_toy, "the toy with a fault", hosted=host_faulty)
    suite = conformance(variants={"hangs": (entry, {"fault": "no first after the end"})})
    with pytest.raises(AssertionError, match="no event for 0 s"):
        suite().test_the_doctor_is_told_what_there_is(name="hangs")


def test_one_suite_over_both_kinds_of_games_runs_all_tests():
    """They are one class then: names that both have would hide each other."""
    device, host = (
        {name for name in vars(tests) if not name.startswith("__")}
        for tests in (device_games.DeviceGames, host_games.HostGames)
    )
    assert device & host == set()
    entry = Entry("faulty", FaultyConfig, make_toy, "the toy", hosted=host_faulty)
    both = conformance("m_step", variants={"toy": (entry, {})})
    assert device | host <= set(dir(both))
