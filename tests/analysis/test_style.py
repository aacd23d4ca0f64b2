import itertools

import numpy as np
import pytest

from lsf_jax.analysis.style import LETTER, Drawn, broken, save, spread_apart, width_of


def test_places_move_as_little_as_need_be_until_they_are_apart():
    """Against a search over a fine lattice."""
    places, least = np.array([0.5, 0.1, 0.55]), 0.2
    found = spread_apart(places, least)
    ticks = np.arange(-0.2, 1.0, 0.05)
    tried = np.array([c for c in itertools.product(ticks, repeat=3) if min(c[0] - c[1], c[2] - c[0]) > least - 1e-9])
    best = tried[np.argmin(((tried - places) ** 2).sum(axis=1))]
    np.testing.assert_allclose(found, best, atol=0.051)
    assert min(found[0] - found[1], found[2] - found[0]) >= least - 1e-9
    assert spread_apart(np.array([0.0, 1.0]), 0.1).tolist() == [0.0, 1.0]


PNG = b"\x89PNG"


@pytest.mark.parametrize(("name", "start"), [("a.png", PNG), ("a.pdf", b"%PDF"), ("a.SVG", b"<?xml"), ("a", PNG)])
def test_the_ending_says_what_is_written_and_the_same_figure_gives_the_same_file(tmp_path, name, start):
    figures = [Drawn(2.0, 1.0) for _ in range(2)]
    files = []
    for place, figure in enumerate(figures):
        figure.subplots().plot([0, 1], [0, 1])
        save(figure, tmp_path / str(place) / name)
        files.append((tmp_path / str(place) / name).read_bytes())
    assert files[0].startswith(start)
    if not name.endswith("SVG"):  # whose ids are drawn anew
        assert files[0] == files[1]


def test_a_figure_shows_itself_in_a_notebook():
    figure = Drawn(2.0, 1.0)
    figure.subplots().plot([0, 1], [0, 1])
    assert figure._repr_png_().startswith(PNG)


def test_long_names_are_broken_after_commas_and_before_brackets_alone():
    assert broken("qmix, lr=1 (12 seeds)", 12) == "qmix, lr=1\n(12 seeds)"
    assert broken("lsf_sac, lr=0.001, overestimate_weight=0.4", 26) == "lsf_sac, lr=0.001,\noverestimate_weight=0.4"
    assert broken("a-name-without-commas", 5) == "a-name-without-commas"
    assert width_of(["ab\nabcd", "abc"]) == 4 * LETTER
