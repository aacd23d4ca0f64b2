"""Settings that several algorithms share, each declared once; an algorithm's config is these plus its own.

Numbers that can be swept are declared with `number`; everything else shapes the program. The defaults are one protocol
for all: eight episodes a batch, four updates after eight episodes, TD(0.8), steps of 5e-4: what learns
predator-prey on a CPU. The presets `pymarl` and `pymarl2` hold the protocols of those code bases.
"""

from dataclasses import dataclass

from lsf_jax.settings import number, setting


@dataclass(frozen=True)
class CommonConfig:
    """What every algorithm has."""

    batch_size: int = setting(8, low=1, doc="episodes in one update; pymarl 32, pymarl2 and the release 128")
    updates: int = setting(4, low=1, high=100_000, doc="updates after each collection of train.n_envs episodes")
    lr: float = number(5e-4, low=0.0, doc="optimiser step; pymarl 5e-4, pymarl2 and the release 1e-3")
    lr_anneal: float = setting(
        0.0, low=0.0, doc="env steps over which all learning rates fall linearly to 0; 0: they stay as they are"
    )
    discount: float = number(0.99, low=0.0, high=1.0, doc="γ for each env step")
    reward_scale: float = number(1.0, above=0.0, doc="factor on every reward that learning sees")
    epsilon_start: float = number(1.0, low=0.0, high=1.0, doc="exploration probability at env step 0")
    epsilon_finish: float = number(0.05, low=0.0, high=1.0, doc="exploration probability at the end")
    epsilon_anneal: float = number(100_000.0, low=0.0, doc="env steps over which ε falls linearly; pymarl 50,000")

    optimizer: str = setting("adam", choices=("adam", "rmsprop"), doc="adam (pymarl2) or rmsprop with ρ 0.99 (pymarl)")
    optimizer_epsilon: float = setting(
        0.0, low=0.0, doc="ε of the optimiser; 0: its own, adam 1e-8, rmsprop 1e-5 as in pymarl (1e-8 in pymarl2)"
    )
    grad_clip: float = setting(10.0, low=0.0, doc="global norm of a group's gradient; 0: no clipping")
    hidden: int = setting(64, low=1, doc="width H of the agent networks")
    recurrent: bool = setting(True, doc="GRU in agent networks; false for games whose observation is the state")
    remat: bool = setting(True, doc="recompute GRU gates in the backward pass: less memory, and faster on CPUs")


@dataclass(frozen=True)
class TraceConfig:
    """TD(λ)."""

    trace: float = number(0.8, low=0.0, high=1.0, doc="λ of TD(λ); pymarl and the paper 0, pymarl2 and the release 0.6")


@dataclass(frozen=True)
class FloorConfig:
    """A policy with an ε floor."""

    floor_over: str = setting(
        "available",
        choices=("available", "all"),
        doc="actions over which softmax and ε floor are taken; all: pymarl's, what is available renormalised",
    )


@dataclass(frozen=True)
class LearnedFloorConfig(FloorConfig):
    """A policy with an ε floor of which learning need not know."""

    epsilon_floor: str = setting(
        "inside",
        choices=("inside", "outside"),
        doc="ε is part of π (pymarl) or known to acting only (pymarl2), which biases the gradient",
    )


@dataclass(frozen=True)
class TargetConfig:
    """A target network."""

    target_interval: int = setting(200, low=1, doc="episodes between hard target copies")


@dataclass(frozen=True)
class MonotonicConfig:
    """QMIX's mixer."""

    mixer_embed: int = setting(32, low=1, doc="width of the mixer's hidden layer; QMIX")
    hyper_hidden: int = setting(64, low=0, doc="width of the hypernetworks' hidden layer; 0: single linear layers")


@dataclass(frozen=True)
class ValueConfig(TargetConfig, TraceConfig, CommonConfig):
    """Value-based learning without a mixer's settings."""


@dataclass(frozen=True)
class MixedValueConfig(MonotonicConfig, ValueConfig):
    """Value-based learning with QMIX's mixer."""
