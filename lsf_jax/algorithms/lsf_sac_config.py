"""Settings of LSF-SAC: every reading of the paper and its released code that a user may choose between."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array

from lsf_jax.fields import setting


@dataclass(frozen=True)
class LsfSacConfig:
    """Every setting of LSF-SAC. Those named in `LsfSacHyper` are traced numbers that can be swept."""

    batch_size: int = setting(8, low=1, doc="episodes drawn from replay for one update; paper and release 128")
    lr: float = setting(5e-4, low=0.0, doc="Adam step of critic, mixer, encoder and decoder; release 1e-3")
    actor_lr: float = setting(5e-4, low=0.0, doc="Adam step of the actor; release 1e-3")
    alpha_lr: float = setting(1e-3, low=0.0, doc="Adam step of log α; SAC's usual value 3e-4, release 1e-4")
    discount: float = setting(0.99, low=0.0, high=1.0, doc="γ for each env step")
    trace: float = setting(0.8, low=0.0, high=1.0, doc="λ of TD(λ); paper 0, release 0.6")
    lambda_1: float = setting(1e-3, low=0.0, doc="weight of the message loss in eq. (8); release")
    lambda_2: float = setting(1.0, low=0.0, doc="weight of the policy loss in eq. (8); without clipping Adam undoes it")
    beta: float = setting(1e-3, low=0.0, doc="weight of the KL in eq. (12), for each nat; release")
    alpha: float = setting(0.1, above=0.0, doc="temperature at the start, or always if learn_temperature is false")
    target_entropy_fraction: float = setting(0.4, low=0.0, high=1.0, doc="H0 as a share of log |available actions|")
    epsilon_start: float = setting(0.995, low=0.0, high=1.0, doc="exploration probability at env step 0; release")
    epsilon_finish: float = setting(0.05, low=0.0, high=1.0, doc="exploration probability at the end; release")
    epsilon_anneal: float = setting(100_000.0, low=0.0, doc="env steps over which ε falls linearly; release")
    reward_scale: float = setting(1.0, above=0.0, doc="factor on every reward that learning sees")

    message_routing: str = setting(
        "broadcast", choices=("broadcast", "per_receiver"), doc="one message for all (paper) or one for each receiver"
    )
    message_dim: int = setting(3, low=1, doc="D, numbers in one message; release")
    encoder_input: str = setting(
        "current", choices=("current", "history"), doc="the encoder reads this step (release) or has its own GRU"
    )
    label: str = setting(
        "critic_greedy",
        choices=("critic_greedy", "actor_greedy", "actor_soft"),
        doc="p(A_j|T) in eq. (12): argmax of the target critic, argmax of π (release), or π",
    )
    td_target: str = setting(
        "greedy_actor",
        choices=("greedy_actor", "critic_max", "double_q", "expected", "soft_expected"),
        doc="bootstrap of eq. (16); release greedy_actor",
    )
    policy_sign: str = setting(
        "paper", choices=("paper", "release"), doc="eq. (14): -f(E[q - α log π]), or the release's +f(E[α log π - q])"
    )
    behaviour: str = setting(
        "sample",
        choices=("sample", "epsilon_greedy", "epsilon_sample"),
        doc="exploration: a ~ π (paper), ε-greedy on argmax π (release), or a ~ π with probability 1 - ε",
    )
    learn_temperature: bool = setting(True, doc="adapt α by eq. (15); false keeps algo.alpha")
    target_entropy: str = setting(
        "fraction", choices=("fraction", "minus_n_actions"), doc="H0: a share of log |available|, or -A (release)"
    )
    alpha_clamps: bool = setting(False, doc="release: α <= 0.999 before 2M env steps, >= 0.19 after 3M")
    logit_clamp: bool = setting(False, doc="release: clip the actor's logits to [-5, 2]")
    mask_messages: bool = setting(True, doc="leave padded steps out of the message loss; release false")
    decoder_mask: bool = setting(False, doc="leave unavailable actions out of the decoder's softmax")
    td_gradient_to_encoder: bool = setting(True, doc="L_TD trains the encoder too; false: information bottleneck only")

    hidden: int = setting(64, low=1, doc="width H of actor and critic")
    recurrent: bool = setting(True, doc="GRU in actor and critic; false for games whose observation is the state")
    encoder_hidden: int = setting(64, low=1, doc="width of the encoder's hidden layers; NDQ")
    decoder_hidden: int = setting(0, low=0, doc="width of the decoder's hidden layers; 0 is NDQ's 4·D·N")
    mixer_embed: int = setting(32, low=1, doc="width of the mixer's hidden layer; QMIX")
    hyper_hidden: int = setting(64, low=0, doc="width of the hypernetworks' hidden layer; 0: single linear layers")
    target_interval: int = setting(200, low=1, doc="episodes between hard target copies")
    grad_clip: float = setting(10.0, low=0.0, doc="global norm of the critic's gradient; 0: no clipping")
    actor_clip: float = setting(10.0, low=0.0, doc="global norm of the actor's gradient; 0 (release): no clipping")
    remat: bool = setting(True, doc="recompute GRU gates in the backward pass: less memory, and faster on CPUs")


class LsfSacHyper(NamedTuple):
    """The traced numbers of `LsfSacConfig`, float32 scalars."""

    lr: Array
    actor_lr: Array
    alpha_lr: Array
    discount: Array
    trace: Array
    lambda_1: Array
    lambda_2: Array
    beta: Array
    alpha: Array
    target_entropy_fraction: Array
    epsilon_start: Array
    epsilon_finish: Array
    epsilon_anneal: Array
    reward_scale: Array
