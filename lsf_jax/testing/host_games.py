"""What holds for every environment whose games live on the host: a few are opened, played and closed."""

import time
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.envs.host import FIRST, LOST, STEP, Event, Finding, Hosted, HostEnv, pack
from lsf_jax.registry import Entry
from lsf_jax.testing.suite import Suite, Tests, about
from lsf_jax.types import Env, EpisodeStats, Observation

WORKERS, EPISODES = 3, 3
"""Games side by side, and episodes that each of them plays to its end."""
PATIENCE = 120.0
"""Seconds without an event after which a game is taken to hang; StarCraft starts in 20."""


class Moment(NamedTuple):
    """An event, and what its worker reported with it."""

    event: Event
    seen: Observation  # NumPy, a copy


class Played(NamedTuple):
    """Games of random available actions."""

    env: Env
    hosted: Hosted
    moments: list[list[Moment]]  # of each worker
    spec: Any  # that the games say they have
    counters: dict[str, int]
    moved: list[int]  # workers whose observation changed without an event of theirs
    refused: dict[str, bool]  # kind of a wrong `send` -> whether it was refused with ValueError; if it came up


def is_hosted(entry: Entry) -> bool:
    """Whether an environment's games are played on the host."""
    return entry.hosted is not None


@lru_cache(maxsize=2)
def play(entry: Entry, config: Any) -> Played:
    """Open the games, play random available actions in all of them, and try two wrong sends on the way."""
    env, hosted = entry.factory(config), _hosted(entry, config)
    hosted.check()
    games = hosted.open(WORKERS, 3)
    try:
        games.start()
        moments, moved, refused = _play(games, np.random.default_rng(5))
    finally:
        games.close()
        games.close()  # as the protocol says, twice is once
    return Played(env, hosted, moments, games.spec, dict(games.counters), moved, refused)


def _hosted(entry: Entry, config: Any) -> Hosted:
    if entry.hosted is None:
        raise ValueError(f"environment {entry.name} lives on the device.")
    return entry.hosted(config)


def _play(games: HostEnv, rng: np.random.Generator) -> tuple[list[list[Moment]], list[int], dict[str, bool]]:
    moments: list[list[Moment]] = [[] for _ in range(games.n_workers)]
    moved: list[int] = []
    refused: dict[str, bool] = {}
    last = time.monotonic()
    while min(sum(moment.event.done for moment in of) for of in moments) < EPISODES:
        before = _copy(games.observation)
        events = games.receive(1, 5.0)
        last = time.monotonic() if events else last
        assert time.monotonic() - last < PATIENCE, f"no event for {PATIENCE:.0f} s, though games are under way"
        told = [event.worker for event in events]
        assert len(set(told)) == len(told), f"two events of one worker at a time: {events}"
        after = _copy(games.observation)
        moved += [w for w in range(games.n_workers) if w not in told and not _equal(_row(before, w), _row(after, w))]
        for event in events:
            moments[event.worker].append(Moment(event, _row(after, event.worker)))
        waiting = [event.worker for event in events if event.kind == FIRST or (event.kind == STEP and not event.done)]
        if not after.avail[waiting].any(-1).all() or not all(refused.values()):
            break  # nothing right can be sent, or something wrong was: what there is tells enough
        if waiting:
            _send(games, waiting, np.asarray(after.avail)[waiting], rng, refused)
    return moments, moved, refused


def _send(
    games: HostEnv, workers: list[int], avail: np.ndarray, rng: np.random.Generator, refused: dict[str, bool]
) -> None:
    """One step with random available actions; a wrong one before and after it, the first time that there is one."""
    actions = np.where(avail, rng.random(avail.shape), -1.0).argmax(-1)
    if "unavailable" not in refused and not avail[0].all():
        wrong = actions.copy()
        agent, action = np.argwhere(~avail[0])[0]
        wrong[0, agent] = action
        refused["unavailable"] = _refuses(games, workers, wrong)
        if not refused["unavailable"]:
            return
    games.send(workers, actions)
    if "under way" not in refused:
        refused["under way"] = _refuses(games, workers, actions)


def _refuses(games: HostEnv, workers: list[int], actions: np.ndarray) -> bool:
    try:
        games.send(workers, actions)
    except ValueError:
        return True
    return False


def _copy(observation: Observation) -> Observation:
    return jax.tree.map(np.array, observation)


def _row(observation: Observation, worker: int) -> Observation:
    return Observation(*(part[worker] for part in observation))


def _equal(left: Observation, right: Observation) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(left, right))


def _episodes(moments: list[Moment]) -> list[list[Moment]]:
    """A worker's moments cut at each FIRST; whole episodes alone."""
    starts = [place for place, moment in enumerate(moments) if moment.event.kind == FIRST]
    cut = [moments[start:end] for start, end in zip(starts, [*starts[1:], len(moments)])]
    return [episode for episode in cut if episode[-1].event.done]


def played_of(suite: Suite, name: str) -> Played:
    """A few games of the environment that a suite has under a name, played once."""
    return play(suite.entries[name], suite.configs[name])


def episodes_of(suite: Suite, name: str) -> list[list[Moment]]:
    """All whole episodes of all its workers."""
    return [episode for moments in played_of(suite, name).moments for episode in _episodes(moments)]


class HostGames(Tests):
    """Games on the host keep to the protocol of `lsf_jax.HostEnv`."""

    @about(is_hosted)
    def test_games_report_what_their_spec_says(self, name: str) -> None:
        """The `Env` of shapes and the games agree; observations are finite float32, masks bool."""
        played = played_of(self.suite, name)
        spec = played.env.spec
        assert played.spec == spec
        for moment in (moment for moments in played.moments for moment in moments):
            seen = moment.seen
            assert seen.obs.shape == (spec.n_agents, spec.obs_dim)
            assert seen.state.shape == (spec.state_dim,)
            assert seen.avail.shape == (spec.n_agents, spec.n_actions)
            assert (seen.obs.dtype, seen.state.dtype, seen.avail.dtype) == (np.float32, np.float32, bool)
            assert np.isfinite(seen.obs).all()
            assert np.isfinite(seen.state).all()

    @about(is_hosted)
    def test_an_episode_begins_with_first_and_the_next_one_by_itself(self, name: str) -> None:
        """After FIRST come steps; after a step that is done, and after LOST, comes FIRST."""
        for moments in played_of(self.suite, name).moments:
            kinds = [moment.event.kind for moment in moments]
            ended = [moment.event.done or moment.event.kind == LOST for moment in moments]
            assert set(kinds) <= {FIRST, STEP, LOST}
            assert kinds[0] == FIRST
            assert [kind == FIRST for kind in kinds[1:]] == ended[:-1]

    @about(is_hosted)
    def test_every_agent_has_an_action_whenever_one_is_wanted(self, name: str) -> None:
        """Who is out of the game still needs one: let it be the first."""
        for moment in (moment for moments in played_of(self.suite, name).moments for moment in moments):
            assert moment.event.done or moment.event.kind == LOST or moment.seen.avail.any(-1).all()

    @about(is_hosted)
    def test_episodes_end_by_the_game_or_by_their_limit(self, name: str) -> None:
        """Terminal implies done, and no episode has more than `episode_limit` steps."""
        limit = played_of(self.suite, name).env.spec.episode_limit
        for episode in episodes_of(self.suite, name):
            assert all(moment.event.done for moment in episode if moment.event.terminal)
            assert 1 <= len(episode) - 1 <= limit

    @about(is_hosted)
    def test_no_random_game_beats_the_best_return(self, name: str) -> None:
        """`max_return` is the best undiscounted return that there is."""
        best = played_of(self.suite, name).env.max_return
        for episode in episodes_of(self.suite, name):
            assert sum(moment.event.reward for moment in episode) <= best + 1e-4

    @about(is_hosted)
    def test_every_step_reports_the_info_that_is_promised(self, name: str) -> None:
        """The names in `Hosted.info`, all of them and no others, finite."""
        played = played_of(self.suite, name)
        for moment in (moment for moments in played.moments for moment in moments):
            if moment.event.kind == STEP:
                assert set(moment.event.info) == set(played.hosted.info)
                assert np.isfinite([*moment.event.info.values(), moment.event.reward]).all()

    @about(is_hosted)
    def test_an_observation_changes_with_an_event_of_its_worker_alone(self, name: str) -> None:
        """What a worker last reported stays until it reports again: agents act on it meanwhile."""
        assert played_of(self.suite, name).moved == []

    @about(is_hosted)
    def test_a_wrong_action_is_refused_and_nothing_is_sent(self, name: str) -> None:
        """An unavailable action, where there is one, and a worker that waits for none are ValueErrors."""
        refused = played_of(self.suite, name).refused
        assert all(refused.values()), refused

    @about(is_hosted)
    def test_replay_gives_back_what_was_seen(self, name: str) -> None:
        """Up to the rounding of the dtype in which `Hosted.store` keeps observations."""
        played = played_of(self.suite, name)
        seen = played.moments[0][0].seen
        store = np.dtype(played.hosted.store)
        again = played.env.observe(pack(seen, played.hosted.store))
        np.testing.assert_array_equal(np.asarray(again.avail), seen.avail)
        for kept, part in ((again.obs, seen.obs), (again.state, seen.state)):
            np.testing.assert_array_equal(np.asarray(kept), part.astype(store).astype(np.float32))

    @about(is_hosted)
    def test_success_judges_every_game(self, name: str) -> None:
        """One truth value for each, of what the games report."""
        played = played_of(self.suite, name)
        spec = played.env.spec
        stats = EpisodeStats(
            episode_return=jnp.array([played.env.max_return, -1e6]),
            length=jnp.array([spec.episode_limit, 1]),
            terminal=jnp.array([True, False]),
            info={key: jnp.array([1.0, 0.0]) for key in played.hosted.info},
            first_action=jnp.zeros((2, spec.n_agents), jnp.int32),
        )
        judged = np.asarray(played.env.success(stats))
        assert judged.shape == (2,)
        assert judged.dtype == bool

    @about(is_hosted)
    def test_the_doctor_is_told_what_there_is(self, name: str) -> None:
        """`check` passes here, and `examine` gives findings with text; counters count."""
        played = played_of(self.suite, name)
        findings = played.hosted.examine()
        assert all(isinstance(finding, Finding) and finding.name and finding.text for finding in findings)
        assert all(isinstance(count, int) for count in played.counters.values())
