"""Settings of LSF-SAC and its ablations turned into modules and functions, once, and bound as an `Algorithm`.

The paper's ablations are the same code with other settings: `masac` (no messages), `masac_double_q` (twin critics
besides), `lsf_sac_fixed_alpha`. The actor alone acts and messages exist in the critic only, which is CTDE; the setting
`communicate` breaks that on purpose.
"""

from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import Array

from lsf_jax import types
from lsf_jax.algorithms import base
from lsf_jax.algorithms.lsf_sac import diagnostics, losses, networks, readings
from lsf_jax.algorithms.lsf_sac.config import DoubleSoftConfig, FixedAlphaConfig, LsfSacConfig, SoftConfig
from lsf_jax.engine import learner, packing
from lsf_jax.engine.exploration import BEHAVIOURS
from lsf_jax.engine.optimizers import adam, make_optimizer
from lsf_jax.networks import agents, messages
from lsf_jax.registry import Entry
from lsf_jax.settings import ConfigError


def make_networks(spec: types.EnvSpec, cfg: SoftConfig) -> networks.Networks:
    """The modules that a config asks for.

    Raises:
      ConfigError: if actors shall read messages of an encoder with history, which acting has no memory for.
    """
    agent = partial(agents.AgentNetwork, cfg.hidden, spec.n_actions, recurrent=cfg.recurrent, remat=cfg.remat)
    return networks.Networks(
        actor=agent(),
        bound=networks.clamp_logits if cfg.logit_clamp else networks.unchanged,
        critic=agent(),
        mixer=networks.MIXERS[cfg.mixer](spec, cfg.mixer_embed, cfg.hyper_hidden),
        messenger=make_messenger(spec, cfg) if isinstance(cfg, LsfSacConfig) else None,
        twin=cfg.twin,
        mixer_init=cfg.mixer_init,
    )


def make_messenger(spec: types.EnvSpec, cfg: LsfSacConfig) -> networks.Messenger:
    """The modules for messages; raises as `make_networks` does."""
    if cfg.communicate and cfg.encoder_input != "current":
        raise ConfigError(
            f"algo.encoder_input is {cfg.encoder_input}; expected current with algo.communicate=true, since acting "
            f"keeps no memory for an encoder; set algo.encoder_input=current or algo.communicate=false"
        )
    routing, received = messages.ROUTINGS[cfg.message_routing], spec.n_agents * cfg.message_dim
    sent = cfg.message_dim * routing.blocks(spec.n_agents)
    return networks.Messenger(
        encoder=messages.MessageEncoder(
            cfg.encoder_hidden, sent, history=cfg.encoder_input == "history", remat=cfg.remat
        ),
        decoder=messages.MessageDecoder(cfg.decoder_hidden or 4 * received, spec.n_actions),
        route=routing.route,
        received=received,
        noise=cfg.message_noise,
        to_critic=networks.unchanged if cfg.td_gradient_to_encoder else jax.lax.stop_gradient,
        to_actor=cfg.communicate,
    )


def make_temperature(cfg: SoftConfig) -> readings.Temperature:
    """α: learned or fixed, and with the release's clamps on request."""
    temperature = readings.learned_temperature if cfg.learn_temperature else readings.fixed_temperature
    return partial(readings.clamped_temperature, temperature) if cfg.alpha_clamps else temperature


def make_losses(cfg: SoftConfig) -> dict[str, learner.LossFn]:
    """What trains each parameter group."""
    temperature = make_temperature(cfg)
    td = partial(losses.td_loss, td_target=readings.TD_TARGETS[cfg.td_target], temperature=temperature)
    policy = partial(losses.policy_loss, f_mix=readings.POLICY_SIGNS[cfg.policy_sign], temperature=temperature)
    target_entropy = readings.TARGET_ENTROPIES[cfg.target_entropy]
    return {
        "critic": joined(td, make_message_loss(cfg)) if isinstance(cfg, LsfSacConfig) else td,
        "actor": policy,
        "temperature": partial(losses.temperature_loss, target_entropy=target_entropy),
    }


def make_message_loss(cfg: LsfSacConfig) -> learner.LossFn:
    """The message loss with the settings' label, decoder and treatment of padding."""
    padding = readings.leave_out_padding if cfg.mask_messages else readings.include_padding
    return partial(losses.message_loss, padding=padding, **_decoding(cfg))


def make_diagnose(cfg: SoftConfig) -> learner.LossFn:
    """What people see of an update."""
    diagnose = partial(diagnostics.diagnose, temperature=make_temperature(cfg))
    if not isinstance(cfg, LsfSacConfig):
        return diagnose
    return joined(diagnose, partial(diagnostics.message_metrics, message_dim=cfg.message_dim, **_decoding(cfg)))


def joined(*parts: learner.LossFn) -> learner.LossFn:
    """The terms of several losses that train one group, as one loss."""

    def loss(f: networks.Forward, t: types.Trajectory, clock: types.Clock, hyper: types.Hyper) -> learner.Terms:
        return {name: term for part in parts for name, term in part(f, t, clock, hyper).items()}

    return loss


def learning_rates(hyper: types.Hyper) -> dict[str, Array]:
    """Step sizes by parameter group."""
    return {"critic": hyper.lr, "actor": hyper.actor_lr, "temperature": hyper.alpha_lr}


def make_lsf_sac(
    spec: types.EnvSpec, cfg: SoftConfig, observe: packing.ObserveFn, *, name: str = "lsf_sac"
) -> types.Algorithm:
    """Bind LSF-SAC or one of its ablations for an environment.

    Args:
      spec: sizes of the environment.
      cfg: settings; a `LsfSacConfig` has messages, a `SoftConfig` that is none has not.
      observe: turns stored rows into trajectories.
      name: registered name.

    Raises:
      ConfigError: if actors shall read messages of an encoder with history.
    """
    net = make_networks(spec, cfg)
    optimizers = {
        "critic": make_optimizer(cfg.optimizer, cfg.grad_clip, cfg.optimizer_epsilon),
        "actor": make_optimizer(cfg.optimizer, cfg.actor_clip, cfg.optimizer_epsilon),
        "temperature": adam(0.0) if cfg.learn_temperature else optax.set_to_zero(),
    }
    parts = learner.Learner(
        forward=partial(networks.forward, net=net),
        losses=make_losses(cfg),
        owns=networks.OWNS,
        diagnose=make_diagnose(cfg),
        optimizers=optimizers,
        learning_rates=learning_rates,
    )

    def init(key: types.PRNGKey, hyper: types.Hyper) -> types.AgentState:
        return base.init_agent(networks.init_params(net, spec, key, hyper.alpha), optimizers, ("critic",))

    acting = base.agent_acting(spec, cfg.hidden, networks.acting_outputs(net), BEHAVIOURS[cfg.behaviour])
    unmasked = isinstance(cfg, LsfSacConfig) and not cfg.mask_messages
    return types.Algorithm(
        name=name,
        hyper=base.hyper_of(cfg),
        init=init,
        policy_params=partial(networks.policy_params, net),
        replay=base.off_policy(cfg.batch_size),
        update=learner.make_update(parts, observe),
        refresh=learner.hard_copy(cfg.target_interval, ("critic",)),
        joint_table=partial(diagnostics.joint_table, net=net),
        forward=parts.forward,
        insight=diagnostics.insight,
        channel=make_channel(net, spec, cfg),
        reads_padding="algo.mask_messages=false" if unmasked else "",
        **acting._asdict(),
    )


def make_channel(net: networks.Networks, spec: types.EnvSpec, cfg: SoftConfig) -> types.Channel | None:
    """How messages reach critics, and actors where they communicate; None where there are none."""
    if net.messenger is None or not isinstance(cfg, LsfSacConfig):
        return None
    hear = partial(diagnostics.hear, net=net, messenger=net.messenger)
    drawn = base.drawn_while_acting(spec.n_agents, net.messenger.encoder.outputs) if cfg.communicate else None
    return types.Channel(dim=cfg.message_dim, noise=cfg.message_noise, hear=hear, drawn=drawn)


def _decoding(cfg: LsfSacConfig) -> dict[str, Any]:
    """What the decoder predicts, and among which actions."""
    logits = readings.logits_of_available if cfg.decoder_mask else readings.logits_of_all
    return {"label": readings.LABELS[cfg.label], "decoder_logits": logits}


ENTRIES = (
    Entry(
        name="lsf_sac",
        config=LsfSacConfig,
        factory=partial(make_lsf_sac, name="lsf_sac"),
        doc="LSF-SAC: soft actor-critic with a monotone critic that reads messages, the paper's losses; tuned to learn "
        "predator-prey on a CPU: small batches, several updates a rollout",
    ),
    Entry(
        name="lsf_sac_fixed_alpha",
        config=FixedAlphaConfig,
        factory=partial(make_lsf_sac, name="lsf_sac_fixed_alpha"),
        doc="LSF-SAC_Fixed_alpha (Ablation 2): LSF-SAC whose temperature stays 1",
    ),
    Entry(
        name="masac",
        config=SoftConfig,
        factory=partial(make_lsf_sac, name="masac"),
        doc="MASAC (Ablations 1 and 3): LSF-SAC without messages, the same protocol",
    ),
    Entry(
        name="masac_double_q",
        config=DoubleSoftConfig,
        factory=partial(make_lsf_sac, name="masac_double_q"),
        doc="MASAC_DoubleQ (Ablation 4): MASAC with twin critics, targets of a sampled joint action and the smaller "
        "Q_tot",
    ),
)
