"""Datasets and frames against the tables they are made of, cell by cell."""

import sys

import numpy as np
import pytest

from lsf_jax.analysis.frames import Runs


@pytest.fixture
def uneven(make_run):
    """Two seeds at two grid points; the second row has crossed its budget early and has fewer evaluations."""
    env_steps = np.array([[100, 200, 300, 400], [150, 350, 360, 380], [90, 190, 290, 390], [100, 200, 300, 400]])
    run = make_run(np.arange(16.0).reshape(4, 4), env_steps=env_steps, budget=300, grid="1e-3, 1e-4")
    run.evaluation["q_total"] = np.stack([run.evaluation["return"], -run.evaluation["return"]], axis=1)
    return run


def test_each_row_of_the_table_stands_in_its_cell_and_the_rest_is_nan(uneven):
    data = uneven.to_xarray()
    assert data["return"].dims == ("point", "seed", "step")
    assert data.sizes == {"point": 2, "seed": 2, "step": 4, "q_total_index": 2}
    table, seen = uneven.evaluation, 0
    for index in range(len(table["row"])):
        before = int((table["row"][:index] == table["row"][index]).sum())
        step = 3 if table["final"][index] else before
        cell = data.isel(point=table["grid"][index], step=step).sel(seed=table["seed"][index])
        assert cell["return"] == table["return"][index]
        assert cell["q_total"].values.tolist() == table["q_total"][index].tolist()
        assert cell["env_steps"] == table["env_steps"][index]
        seen += 1
    assert int(data["return"].notnull().sum()) == seen == 15
    assert data["final"].isel(step=-1).values.all()


def test_settings_are_coordinates_and_the_card_is_attributes(uneven):
    uneven.card["versions"] = {"jax": "0.10"}
    uneven.card["layout"] = {"width": 4}
    data = uneven.to_xarray()
    assert data["algo.lr"].values.tolist() == [1e-3, 1e-4]
    assert data["env.name"].values.tolist() == ["predator_prey"] * 2
    assert (data.attrs["versions.jax"], data.attrs["layout.width"]) == ("0.10", 4)
    best = data["return"].isel(step=-1).median("seed").groupby("algo.lr").mean()
    assert best.sel({"algo.lr": 1e-4}) == 13.0


def test_the_axis_is_labelled_with_the_env_steps_of_the_seeds_with_most_evaluations(uneven):
    assert uneven.to_xarray()["step"].values.tolist() == [100, 200, 300, 400]
    assert uneven.to_xarray("train")["step"].values.tolist() == [90, 190, 290, 390]


def test_whole_numbers_and_truth_values_keep_their_type_where_no_cell_is_missing(make_run):
    run = make_run(np.ones((2, 3)))
    run.evaluation["optimal"] = np.ones(6, bool)
    assert run.to_xarray()["optimal"].dtype == bool
    assert run.to_xarray()["iteration"].dtype == np.int64


def test_several_runs_follow_each_other_along_the_points(make_run):
    first, second = make_run([[1.0, 2.0]], name="a"), make_run([[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]], name="b")
    second.config["algo"] = {"name": "qmix", "trace": 0.6}
    data = Runs((first, second)).to_xarray()
    assert data["run"].values.tolist() == ["a", "b"]
    assert data["algo.name"].values.tolist() == ["lsf_sac", "qmix"]
    np.testing.assert_array_equal(data["algo.trace"], [np.nan, 0.6])
    np.testing.assert_array_equal(data["return"][0, 0], [1.0, np.nan, 2.0])
    np.testing.assert_array_equal(data["return"][1], [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]])
    assert np.isnan(data["return"][0, 1]).all()


def test_a_dataset_goes_to_a_file_and_comes_back(uneven, tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("scipy")
    uneven.to_xarray().to_netcdf(tmp_path / "run.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "run.nc", engine="scipy") as back:
        np.testing.assert_array_equal(back["return"], uneven.to_xarray()["return"])


def test_a_frame_is_the_table_with_settings_as_columns(uneven):
    frame = uneven.to_frame()
    assert list(frame)[:6] == ["run", "algo.name", "env.name", "algo.lr", "point", "row"]
    assert frame["algo.lr"].tolist() == np.where(uneven.evaluation["grid"] == 0, 1e-3, 1e-4).tolist()
    np.testing.assert_array_equal(frame["return"], uneven.evaluation["return"])
    np.testing.assert_array_equal(frame["q_total[1]"], -uneven.evaluation["return"])
    assert frame[frame["final"]].groupby("algo.lr")["return"].median().to_dict() == {1e-3: 5.0, 1e-4: 13.0}
    assert len(uneven.to_frame("train")) == len(uneven.train["row"])


def test_frames_of_several_runs_are_put_below_each_other_with_settings_last(make_run):
    first, second = make_run([[1.0]], name="a"), make_run([[2.0]], name="b")
    second.config["algo"] = {"name": "qmix", "trace": 0.6}
    second.evaluation["extra"] = np.ones(1)
    frame = Runs((first, second)).to_frame()
    assert frame["run"].tolist() == ["a", "b"]
    assert frame["return"].tolist() == [1.0, 2.0]
    names = list(frame)
    assert names.index("extra") < names.index("algo.trace")


def test_a_run_without_evaluations_is_an_empty_frame(make_run):
    run = make_run([[1.0]])._replace(evaluation={})
    assert len(run.to_frame()) == 0
    assert run.to_xarray().sizes["step"] == 0


def test_an_unknown_table_and_a_missing_package_are_one_line(make_run, monkeypatch):
    run = make_run([[1.0]])
    with pytest.raises(ValueError, match="table is 'evals'; expected one of eval, train"):
        run.to_frame("evals")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match=r"pip install 'lsf-jax\[analysis\]'"):
        run.to_frame()
