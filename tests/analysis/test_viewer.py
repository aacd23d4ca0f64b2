"""The page of an episode: it shows the numbers that the networks give, stands alone, and works in a browser."""

import base64
import json
import re
import zlib

import jax
import numpy as np
import pytest

from lsf_jax.analysis import playback, viewer
from lsf_jax.types import Disc, Line, Picture
from tests.support.browser import WIDTHS, needs_browser, opened, overflow
from tests.support.run_cases import finished_run

KEY = jax.random.key(3)


def policy_of(path, algo, env, *overrides):
    finished_run(path, algo, env, "train.seeds=2", *overrides)
    return playback.load_policies(path).row(1, stochastic=True)


def unpacked(page):
    """The data that a page holds."""
    text = re.search(r'<script type="text/plain">([^<]*)</script>', page)[1]
    return json.loads(zlib.decompress(base64.b64decode(text)))


@pytest.fixture(scope="module")
def game(tmp_path_factory):
    """A policy of the matrix game, an episode, and its page."""
    policy = policy_of(tmp_path_factory.mktemp("viewer") / "run", "iql", "matrix_game", "algo.recurrent=false")
    episode = policy.play(KEY)
    return policy, episode, viewer.episode_page(policy, episode, title="<script>alert(1)</script> & co")


def test_the_page_holds_what_the_networks_say_of_the_episode(game):
    policy, episode, page = game
    data, found = unpacked(page), policy.look(episode)
    np.testing.assert_allclose(data["q"], found.q, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(data["action"], episode.action)
    assert data["earned"] == [0.0, float(episode.reward[0])]
    assert [data[name] for name in ("pi", "messages", "weights", "total", "value", "picture")] == [None] * 6
    assert "payoff" in data["texts"][0]
    assert np.array(data["obs"]).shape == (2, 2, policy.program.env.spec.obs_dim)
    assert np.array(data["avail"]).shape == (1, 2, 3)


def test_what_users_wrote_is_escaped(game):
    page = game[2]
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page


def test_the_page_asks_nothing_of_a_network(game):
    page = game[2]
    assert not re.findall(r"(?:src|href|url)\s*[=(]", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in page


def test_shapes_that_stay_stand_once():
    still, moving = Line((0.0, 0.0), (1.0, 0.0), "grid"), [Disc(0.1 * x, 0.5, 0.2, "ally", "7") for x in range(3)]
    found = viewer._shapes([Picture(1, 1, 10, (still, disc, still)) for disc in moving])
    assert found["common"] == [["line", 0.0, 0.0, 1.0, 0.0, "grid", 2]]
    assert [frame[0][1] for frame in found["frames"]] == [0.0, 0.1, 0.2]
    assert [len(frame) for frame in found["frames"]] == [2, 2, 2]


def test_what_is_no_number_is_shown_as_such():
    assert viewer._numbers(np.array([[1.23456, np.nan], [np.inf, -0.0]])) == [[1.235, None], [None, -0.0]]
    assert viewer._numbers(np.array([True, False])) == [1, 0]


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize(
    ("algo", "env", "more"),
    [
        ("lsf_sac", "predator_prey", ("env.episode_limit=30",)),
        ("lsf_sac", "matrix_game", ()),
        ("qmix", "smax/3m", ()),
        ("vdac_mix", "m_step", ()),
    ],
)
def test_in_a_browser_the_slider_moves_board_and_numbers(algo, env, more, device, tmp_path):
    policy = policy_of(tmp_path / "run", algo, env, *more)
    episode = policy.play(KEY)
    page_file, length = tmp_path / "episode.html", int(episode.valid.sum())
    viewer.episode_page(policy, episode, page_file)
    with opened(page_file, device, "dark" if device == "phone" else "light") as page:
        page.wait_for_selector(".viewer[data-state=ready]")
        assert overflow(page) <= 0
        shown = lambda: page.locator(".board, .viewer pre").first.evaluate("e => e.outerHTML")
        first, caption = shown(), page.locator(".caption").inner_text()
        assert page.locator("tr.agent").count() == policy.program.env.spec.n_agents
        page.locator("tr.agent").last.click()
        assert f"agent {policy.program.env.spec.n_agents - 1}" in page.locator("h3").first.inner_text()
        slider = page.locator("input[type=range]")
        assert slider.get_attribute("max") == str(length)
        slider.focus()
        slider.press("End")
        assert page.locator(".caption").inner_text() != caption
        assert (shown() != first) or env == "matrix_game"
        assert "the episode is over" in page.locator(".viewer").inner_text()
        page.locator("button").click()
        page.wait_for_timeout(700)
        assert 0 < int(slider.input_value()) <= length
