"""Settings of LSF-SAC and its ablations: every reading of the paper and its released code that a user may choose.

An ablation is a class with other defaults; one factory, in `binding`, reads them all.
"""

from dataclasses import dataclass

from lsf_jax.algorithms.configs import MixedValueConfig
from lsf_jax.algorithms.lsf_sac.networks import MIXERS
from lsf_jax.algorithms.lsf_sac.readings import LABELS, POLICY_SIGNS, TARGET_ENTROPIES, TD_TARGETS
from lsf_jax.engine.exploration import BEHAVIOURS
from lsf_jax.networks.messages import ROUTINGS
from lsf_jax.settings import number, setting


@dataclass(frozen=True)
class SoftConfig(MixedValueConfig):
    """A multi-agent soft actor-critic with a factored critic, and no messages: MASAC."""

    actor_lr: float = number(5e-4, low=0.0, doc="optimiser step of the actor; release 1e-3")
    alpha_lr: float = number(1e-3, low=0.0, doc="Adam step of log α; SAC's usual value 3e-4, release 1e-4")
    lambda_2: float = number(1.0, low=0.0, doc="weight of the policy loss in eq. (8); without clipping Adam undoes it")
    alpha: float = number(0.1, above=0.0, doc="temperature at the start, or always if learn_temperature is false")
    target_entropy_fraction: float = number(0.4, low=0.0, high=1.0, doc="H0 as a share of log |available actions|")
    overestimate_weight: float = number(
        1.0,
        low=0.0,
        high=1.0,
        doc="NOT the paper's: OW-QMIX's weight of TD errors where Q_tot is not below its target; 1 is the paper",
    )

    td_target: str = setting(
        "greedy_actor", choices=tuple(TD_TARGETS), doc="bootstrap of eq. (16); release greedy_actor, Ablation 4 sampled"
    )
    policy_sign: str = setting(
        "paper", choices=tuple(POLICY_SIGNS), doc="eq. (14): -f(E[q - α log π]), or the release's +f(E[α log π - q])"
    )
    behaviour: str = setting(
        "sample",
        choices=tuple(BEHAVIOURS),
        doc="exploration: a ~ π (paper), ε-greedy on argmax π (release), or a ~ π with probability 1 - ε",
    )
    mixer: str = setting(
        "monotonic",
        choices=tuple(MIXERS),
        doc="f_mix of eq. (1): QMIX's network, the paper's; or NOT the paper's: VDN's sum of the agents' values",
    )
    mixer_init: float = setting(1.0, above=0.0, doc="factor on the first weights of the mixer's hypernetworks")
    twin: bool = setting(
        False, doc="two critics with a mixer each; targets and the policy loss take the smaller of their values"
    )
    learn_temperature: bool = setting(True, doc="adapt α by eq. (15); false keeps algo.alpha")
    target_entropy: str = setting(
        "fraction", choices=tuple(TARGET_ENTROPIES), doc="H0: a share of log |available|, or -A (release)"
    )
    alpha_clamps: bool = setting(False, doc="release: α <= 0.999 before 2M env steps, >= 0.19 after 3M")
    logit_clamp: bool = setting(False, doc="release: clip the actor's logits to [-5, 2]")
    actor_clip: float = setting(10.0, low=0.0, doc="global norm of the actor's gradient; 0 (release): no clipping")


@dataclass(frozen=True)
class DoubleSoftConfig(SoftConfig):
    """MASAC with twin critics: MASAC_DoubleQ of the paper's Ablation 4."""

    td_target: str = setting(
        "sampled", choices=tuple(TD_TARGETS), doc="bootstrap; Ablation 4 prints a' ~ π and no entropy: sampled"
    )
    twin: bool = setting(True, doc="two critics with a mixer each; false leaves MASAC with this class's td_target")


@dataclass(frozen=True)
class LsfSacConfig(SoftConfig):
    """LSF-SAC: the soft actor-critic whose critics read messages."""

    lambda_1: float = number(1e-3, low=0.0, doc="weight of the message loss in eq. (8); release")
    beta: float = number(1e-3, low=0.0, doc="weight of the KL in eq. (12), for each nat; release")

    message_routing: str = setting(
        "broadcast", choices=tuple(ROUTINGS), doc="one message for all (paper) or one for each receiver"
    )
    message_dim: int = setting(3, low=1, doc="D, numbers in one message; release")
    message_noise: float = setting(1.0, low=0.0, doc="standard deviation of messages around their means; paper 1")
    encoder_input: str = setting(
        "current", choices=("current", "history"), doc="the encoder reads this step (release) or has its own GRU"
    )
    label: str = setting(
        "critic_greedy",
        choices=tuple(LABELS),
        doc="p(A_j|T) in eq. (12): argmax of the (first) target critic, argmax of π (release), or π",
    )
    mask_messages: bool = setting(True, doc="leave padded steps out of the message loss; release false")
    decoder_mask: bool = setting(False, doc="leave unavailable actions out of the decoder's softmax")
    td_gradient_to_encoder: bool = setting(True, doc="L_TD trains the encoder too; false: information bottleneck only")
    communicate: bool = setting(
        False,
        doc="actors read the messages too, so agents communicate while acting: NOT CTDE; needs encoder_input current",
    )
    encoder_hidden: int = setting(64, low=1, doc="width of the encoder's hidden layers; NDQ")
    decoder_hidden: int = setting(0, low=0, doc="width of the decoder's hidden layers; 0 is NDQ's 4·D·N")


@dataclass(frozen=True)
class FixedAlphaConfig(LsfSacConfig):
    """LSF-SAC whose temperature stays 1: LSF-SAC_Fixed_α of the paper's Ablation 2, messages included."""

    alpha: float = number(1.0, above=0.0, doc="temperature; it stays unless learn_temperature is true; Ablation 2")
    learn_temperature: bool = setting(False, doc="adapt α by eq. (15); Ablation 2 does not")
