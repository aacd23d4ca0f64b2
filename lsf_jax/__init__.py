"""LSF-SAC in JAX and Flax: multi-agent learning on device, vmapped over seeds and hyper-parameters.

    import lsf_jax
    config = lsf_jax.compose(env="matrix_game", overrides=["seeds=64"])
    result = lsf_jax.train(config)
    run = lsf_jax.load_run(result.path)

Names are imported at first use, so that `import lsf_jax` costs nothing and initialises no backend.
"""

import ast
import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the public names; `_homes` reads them from here too, so that no second list can differ
    from lsf_jax.algorithms import ALGORITHMS as ALGORITHMS
    from lsf_jax.algorithms.base import agent_acting as agent_acting
    from lsf_jax.algorithms.base import first_policy as first_policy
    from lsf_jax.algorithms.base import hyper_of as hyper_of
    from lsf_jax.algorithms.base import init_agent as init_agent
    from lsf_jax.algorithms.base import init_network as init_network
    from lsf_jax.algorithms.base import make_optimizers as make_optimizers
    from lsf_jax.algorithms.base import network_outputs as network_outputs
    from lsf_jax.algorithms.base import off_policy as off_policy
    from lsf_jax.algorithms.base import on_policy as on_policy
    from lsf_jax.algorithms.base import tabulate as tabulate
    from lsf_jax.algorithms.configs import CommonConfig as CommonConfig
    from lsf_jax.algorithms.configs import MixedValueConfig as MixedValueConfig
    from lsf_jax.algorithms.configs import ValueConfig as ValueConfig
    from lsf_jax.algorithms.q_learning import Parts as Parts
    from lsf_jax.algorithms.q_learning import q_mixing as q_mixing
    from lsf_jax.algorithms.q_learning import td_target as td_target
    from lsf_jax.algorithms.q_learning import value_based as value_based
    from lsf_jax.analysis.bounds import bounds_of as bounds_of
    from lsf_jax.analysis.compare import compare_runs as compare_runs
    from lsf_jax.analysis.compare import comparison_text as comparison_text
    from lsf_jax.analysis.comparison_figures import plot_aggregates as plot_aggregates
    from lsf_jax.analysis.comparison_figures import plot_improvement as plot_improvement
    from lsf_jax.analysis.comparison_figures import plot_profiles as plot_profiles
    from lsf_jax.analysis.comparison_figures import plot_table_one as plot_table_one
    from lsf_jax.analysis.efficiency import SampleEfficiency as SampleEfficiency
    from lsf_jax.analysis.efficiency import area_under_curve as area_under_curve
    from lsf_jax.analysis.efficiency import sample_efficiency as sample_efficiency
    from lsf_jax.analysis.extract import extract_policy as extract_policy
    from lsf_jax.analysis.few_seeds import few_seeds_risk as few_seeds_risk
    from lsf_jax.analysis.few_seeds import few_seeds_text as few_seeds_text
    from lsf_jax.analysis.figures import plot_dynamics as plot_dynamics
    from lsf_jax.analysis.figures import plot_fan as plot_fan
    from lsf_jax.analysis.figures import plot_histograms as plot_histograms
    from lsf_jax.analysis.figures import plot_map as plot_map
    from lsf_jax.analysis.frames import Run as Run
    from lsf_jax.analysis.frames import Runs as Runs
    from lsf_jax.analysis.frames import load_run as load_run
    from lsf_jax.analysis.frames import load_runs as load_runs
    from lsf_jax.analysis.inspection import inspect_policy as inspect_policy
    from lsf_jax.analysis.inspection import inspection_text as inspection_text
    from lsf_jax.analysis.inspection import plot_inspection as plot_inspection
    from lsf_jax.analysis.messages import inspect_messages as inspect_messages
    from lsf_jax.analysis.messages import play_episodes as play_episodes
    from lsf_jax.analysis.playback import Policies as Policies
    from lsf_jax.analysis.playback import evaluate_policies as evaluate_policies
    from lsf_jax.analysis.playback import load_policies as load_policies
    from lsf_jax.analysis.playback import record_episode as record_episode
    from lsf_jax.analysis.plots import plot_curves as plot_curves
    from lsf_jax.analysis.plots import plot_q_table as plot_q_table
    from lsf_jax.analysis.policy import Policy as Policy
    from lsf_jax.analysis.reliability import Scores as Scores
    from lsf_jax.analysis.reliability import aggregate as aggregate
    from lsf_jax.analysis.reliability import normalized as normalized
    from lsf_jax.analysis.reliability import performance_profile as performance_profile
    from lsf_jax.analysis.reliability import probability_of_improvement as probability_of_improvement
    from lsf_jax.analysis.reliability import scores_of as scores_of
    from lsf_jax.analysis.report import report_page as report_page
    from lsf_jax.analysis.searching import Optimized as Optimized
    from lsf_jax.analysis.searching import optimize as optimize
    from lsf_jax.analysis.summary import summary_table as summary_table
    from lsf_jax.analysis.sweeping import sweep as sweep
    from lsf_jax.analysis.viewer import episode_page as episode_page
    from lsf_jax.config.composition import Config as Config
    from lsf_jax.config.composition import compose as compose
    from lsf_jax.config.composition import replace as replace
    from lsf_jax.config.train_config import TrainConfig as TrainConfig
    from lsf_jax.engine.buffers import bundle as bundle
    from lsf_jax.engine.buffers import latest as latest
    from lsf_jax.engine.buffers import uniform as uniform
    from lsf_jax.engine.distributions import best_value as best_value
    from lsf_jax.engine.distributions import greedy as greedy
    from lsf_jax.engine.distributions import masked_log_softmax as masked_log_softmax
    from lsf_jax.engine.distributions import probabilities as probabilities
    from lsf_jax.engine.distributions import take_actions as take_actions
    from lsf_jax.engine.exploration import behave_epsilon_greedy as behave_epsilon_greedy
    from lsf_jax.engine.exploration import behave_sample as behave_sample
    from lsf_jax.engine.learner import Learner as Learner
    from lsf_jax.engine.learner import hard_copy as hard_copy
    from lsf_jax.engine.learner import make_update as make_update
    from lsf_jax.engine.packing import as_trajectory as as_trajectory
    from lsf_jax.engine.returns import discounts as discounts
    from lsf_jax.engine.returns import td_lambda as td_lambda
    from lsf_jax.engine.returns import traces as traces
    from lsf_jax.engine.rollouts import rollout as rollout
    from lsf_jax.envs import ENVS as ENVS
    from lsf_jax.envs import make as make
    from lsf_jax.envs.host import FIRST as FIRST
    from lsf_jax.envs.host import LOST as LOST
    from lsf_jax.envs.host import STEP as STEP
    from lsf_jax.envs.host import Event as Event
    from lsf_jax.envs.host import Finding as Finding
    from lsf_jax.envs.host import Hosted as Hosted
    from lsf_jax.envs.host import HostEnv as HostEnv
    from lsf_jax.envs.host import HostError as HostError
    from lsf_jax.envs.host import hosted_env as hosted_env
    from lsf_jax.envs.jaxmarl import from_jaxmarl as from_jaxmarl
    from lsf_jax.envs.parallel.hosted import from_parallel_env as from_parallel_env
    from lsf_jax.networks.agents import AgentNetwork as AgentNetwork
    from lsf_jax.networks.agents import trajectory_inputs as trajectory_inputs
    from lsf_jax.networks.agents import unroll as unroll
    from lsf_jax.networks.mixers import Mixer as Mixer
    from lsf_jax.programs.planner import make_plan as make_plan
    from lsf_jax.registry import Entry as Entry
    from lsf_jax.registry.plugins import load_plugins as load_plugins
    from lsf_jax.registry.plugins import register as register
    from lsf_jax.runs.experiment import Result as Result
    from lsf_jax.runs.experiment import resume as resume
    from lsf_jax.runs.experiment import train as train
    from lsf_jax.runs.sinks import Sink as Sink
    from lsf_jax.runs.sweeps.cluster import Cluster as Cluster
    from lsf_jax.runs.watching import Evaluation as Evaluation
    from lsf_jax.settings import ConfigError as ConfigError
    from lsf_jax.settings import number as number
    from lsf_jax.settings import setting as setting
    from lsf_jax.types import AgentState as AgentState
    from lsf_jax.types import Algorithm as Algorithm
    from lsf_jax.types import Buffer as Buffer
    from lsf_jax.types import Channel as Channel
    from lsf_jax.types import Clock as Clock
    from lsf_jax.types import Cross as Cross
    from lsf_jax.types import Disc as Disc
    from lsf_jax.types import Env as Env
    from lsf_jax.types import EnvSpec as EnvSpec
    from lsf_jax.types import Episode as Episode
    from lsf_jax.types import EpisodeStats as EpisodeStats
    from lsf_jax.types import Insight as Insight
    from lsf_jax.types import JointTable as JointTable
    from lsf_jax.types import Line as Line
    from lsf_jax.types import Observation as Observation
    from lsf_jax.types import Payoff as Payoff
    from lsf_jax.types import Picture as Picture
    from lsf_jax.types import PRNGKey as PRNGKey
    from lsf_jax.types import Rectangle as Rectangle
    from lsf_jax.types import TimeStep as TimeStep
    from lsf_jax.types import TrainState as TrainState
    from lsf_jax.types import Trajectory as Trajectory


def _homes() -> dict[str, str]:
    """Name -> module of the imports above."""
    source = __loader__.get_data(__file__)  # which every loader has, pytest's too
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return {name.name: node.module or "" for node in found for name in node.names if name.name == name.asname}


_HOMES = _homes()

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lsf_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
