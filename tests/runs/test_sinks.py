import subprocess
import sys
import types

import pytest

from lsf_jax.runs import sinks


def make_module(name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    return module


@pytest.fixture
def fake_packages(monkeypatch):
    """Stand-ins that record what they are sent."""
    sent = []

    class SummaryWriter:
        def __init__(self, logdir):
            sent.append(("open", logdir))

        def add_scalar(self, name, value, global_step):
            sent.append((name, value, global_step))

        def close(self):
            sent.append("closed")

    class Run:
        def log(self, values):
            sent.append(values)

        def finish(self):
            sent.append("finished")

    def init(**settings):
        sent.append(settings)
        return Run()

    class Tracked:
        def log(self, values, step):
            sent.append((values, step))

        def finish(self):
            sent.append("finished")

    def init_trackio(**settings):
        sent.append(settings)
        return Tracked()

    monkeypatch.setitem(sys.modules, "tensorboardX", make_module("tensorboardX", SummaryWriter=SummaryWriter))
    monkeypatch.setitem(sys.modules, "wandb", make_module("wandb", init=init))
    monkeypatch.setitem(sys.modules, "trackio", make_module("trackio", init=init_trackio))
    return sent


def test_tensorboard_is_sent_scalars_but_no_nan(fake_packages, tmp_path):
    (sink,) = sinks.make_sinks(["tensorboard", "tensorboard"], tmp_path)
    sinks.write_all([sink], 100, {"train/loss": 0.5, "train/kl": float("nan")})
    sink.close()
    assert fake_packages == [("open", str(tmp_path / "tensorboard")), ("train/loss", 0.5, 100), "closed"]


def test_wandb_is_sent_the_config_and_scalars_but_no_nan(fake_packages, tmp_path):
    (sink,) = sinks.make_sinks(["wandb"], tmp_path / "my-run", {"seeds": 4})
    sinks.write_all([sink], 100, {"train/loss": 0.5, "train/kl": float("nan")})
    sink.close()
    opened, logged, closed = fake_packages
    assert opened["config"] == {"seeds": 4}
    assert opened["name"] == "my-run"
    assert logged == {"train/loss": 0.5, "env_steps": 100}
    assert closed == "finished"


def test_trackio_is_sent_the_config_and_scalars_at_their_step_but_no_nan(fake_packages, tmp_path):
    (sink,) = sinks.make_sinks(["trackio"], tmp_path / "my-run", {"seeds": 4}, "qmix")
    sinks.write_all([sink], 100, {"train/loss": 0.5, "train/kl": float("nan")})
    sink.close()
    opened, logged, closed = fake_packages
    assert (opened["project"], opened["name"], opened["config"]) == ("qmix", "my-run", {"seeds": 4})
    assert logged == ({"train/loss": 0.5, "env_steps": 100}, 100)
    assert closed == "finished"


def test_packages_are_asked_for_without_opening_anything(fake_packages):
    sinks.require_packages(["tensorboard", "wandb", "trackio"])
    assert fake_packages == []


def test_an_unknown_sink_lists_the_choices(tmp_path):
    with pytest.raises(ValueError, match="sink 'wanda' is unknown; choose from tensorboard, wandb, trackio"):
        sinks.make_sinks(["wanda"], tmp_path)


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("trackio", "trackio")]
)
def test_a_missing_package_says_how_to_get_it(name, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"pip install 'lsf-jax\[{name}\]'") as error:
        sinks.make_sinks([name], tmp_path)
    assert "\n" not in str(error.value)


def test_no_sink_package_is_imported_unless_asked_for(tmp_path):
    code = "import sys, pathlib; from lsf_jax.runs import sinks; sinks.make_sinks([], pathlib.Path('.'))\n"
    code += "sys.exit(bool({'tensorboardX', 'wandb', 'trackio'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
