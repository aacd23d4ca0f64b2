"""What messages carry, and who listens: bits, the decoder's accuracy, and what changes when one sender says otherwise.

For every algorithm that offers a `types.Channel` (LSF-SAC, NDQ), on episodes that a policy has played. A sender is
replaced in all its messages of all steps at once, everything else (noise too) staying as it was; what then moves is
what is heard. Three replacements answer three questions: silence (zeros, the mean of what says nothing), what the
sender said at another step (`shuffle`, so that no message is unusual), and draws from the prior N(0, I) (`resample`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lsf_jax.analysis.policy import Policy, agent_of
from lsf_jax.engine.packing import as_trajectory
from lsf_jax.types import AgentState, Channel, Episode, Insight, Trajectory

MOST_CONTEXTS = 512
"""Steps from which the information of messages is estimated: it takes time in their square, and tells up to 9 bits."""
_SEED = 20_260_101  # of draws, so that a table is the same each time

Hear: TypeAlias = Callable[[np.ndarray], Insight]
"""`sent [B, T+1, N, sent] -> what networks make of it, [B, T, ...]`, NumPy."""
Replace: TypeAlias = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""`(one sender's messages [B, T+1, sent], valid [B, T], random) -> other messages`."""


class Hearing(NamedTuple):
    """What one sender's messages change, by receiver i and sender j; means over valid steps."""

    q: Float[np.ndarray, "receivers senders"]  # |Δqᵢ|, over available actions
    greedy: Float[np.ndarray, "receivers senders"]  # share of steps at which the best available action changes
    total: Float[np.ndarray, " senders"]  # |ΔQ_tot| of what was done
    policy: Float[np.ndarray, "receivers senders"] | None  # share of steps at which π's likeliest action changes


class MessageReport(NamedTuple):
    """What messages of a policy carry, on played episodes. R is 1 where all receivers get the same message, else N."""

    bits: Float[np.ndarray, "senders blocks"]  # information of a message about what its sender saw
    bits_of_dim: Float[np.ndarray, "senders blocks D"]  # of each number alone; redundant ones count each
    kl_bits: Float[np.ndarray, "senders blocks D"]  # what training charges for: KL to N(0, I)
    hearing: dict[str, Hearing]  # by the names of `REPLACEMENTS`
    accuracy: Float[np.ndarray, " receivers"]  # how often the decoder finds the best available action by q
    accuracy_in_silence: Float[np.ndarray, " receivers"]  # the same decoder when nobody says anything
    steps: int  # valid ones, of all episodes


def silence(said: np.ndarray, valid: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Zeros: the mean of a message that says nothing."""
    del valid, random
    return np.zeros_like(said)


def shuffle(said: np.ndarray, valid: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same messages, each at another of the played steps."""
    other = said.copy()
    other[:, :-1][valid] = random.permutation(said[:, :-1][valid])
    return other


def resample(said: np.ndarray, valid: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws from N(0, I), which is what messages without information are."""
    del valid
    return random.standard_normal(said.shape).astype(said.dtype)


REPLACEMENTS: dict[str, Replace] = {"silence": silence, "shuffle": shuffle, "resample": resample}
"""What is put in the place of one sender's messages."""


def inspect_messages(policy: Policy, episodes: Episode) -> MessageReport:
    """What a policy's messages carry and who listens to whom.

    Args:
      policy: of an algorithm with messages.
      episodes: played, `[B, T, ...]`, for example of `play_episodes`.

    Returns:
      Bits, hearing by kind of replacement, and the decoder's accuracy.

    Raises:
      ValueError: the algorithm has no messages.
    """
    channel = channel_of(policy)
    found, valid = policy.look(episodes), np.asarray(episodes.valid)
    if found.messages is None:
        raise ValueError(f"{policy.config.algo_name} does not say which messages it sends (`Insight.messages`)")
    mean = np.concatenate(
        [found.messages, np.zeros_like(found.messages[:, :1])], axis=1
    )  # the last row changes nothing
    random = np.random.default_rng(_SEED)
    sent = (mean + channel.noise * random.standard_normal(mean.shape)).astype(np.float32)
    avail = seen_avail(policy, episodes)
    hear = _hearing_of(policy, channel, episodes)
    blocks = np.asarray(found.messages)[valid].reshape(int(valid.sum()), mean.shape[2], -1, channel.dim)
    bits, bits_of_dim = message_bits(blocks, channel.noise)
    heard, unheard = hear(sent), hear(np.zeros_like(sent))
    best = _best(_given(heard.q), avail)
    return MessageReport(
        bits=bits,
        bits_of_dim=bits_of_dim,
        kl_bits=kl_bits(blocks, channel.noise),
        hearing={name: hearing(hear, sent, valid, avail, replace) for name, replace in REPLACEMENTS.items()},
        accuracy=_accuracy(heard, best, valid, avail),
        accuracy_in_silence=_accuracy(unheard, best, valid, avail),
        steps=int(valid.sum()),
    )


def channel_of(policy: Policy) -> Channel:
    """How messages reach the networks of a policy.

    Raises:
      ValueError: its algorithm has none.
    """
    channel = policy.program.algorithm.channel
    if channel is None:
        raise ValueError(f"{policy.config.algo_name} has no messages (`Algorithm.channel`)")
    return channel


def hearing(
    hear: Hear,
    sent: Float[np.ndarray, "episodes rows senders sent"],
    valid: Bool[np.ndarray, "episodes time"],
    avail: Bool[np.ndarray, "episodes time receivers actions"],
    replace: Replace,
) -> Hearing:
    """Whom each receiver hears: each sender is replaced in turn.

    Args:
      hear: what networks make of messages.
      sent: what was said, noise included.
      valid: which steps count.
      avail: which actions each receiver could take.
      replace: what is put in the place of one sender's messages.

    Returns:
      Zero exactly where nothing moved.
    """
    before, n = hear(sent), sent.shape[2]
    changes = []
    for sender in range(n):
        other = sent.copy()
        other[:, :, sender] = replace(sent[:, :, sender], valid, np.random.default_rng(_SEED + sender))
        changes.append(_change(before, hear(other), valid, avail))
    q, greedy, total, policy = zip(*changes, strict=True)
    return Hearing(
        q=np.stack(q, axis=1),
        greedy=np.stack(greedy, axis=1),
        total=np.array(total),
        policy=None if policy[0] is None else np.stack(policy, axis=1),
    )


def _change(before: Insight, after: Insight, valid: np.ndarray, avail: np.ndarray) -> tuple[Any, Any, float, Any]:
    """What two hearings differ in: |Δq| [N], changed choices [N], |ΔQ_tot|, changed policies [N]."""
    counted = avail & valid[..., None, None]
    moved = np.where(counted, np.abs(_given(after.q) - _given(before.q)), 0.0)
    total = 0.0 if before.total is None else np.abs(_given(after.total) - before.total)[valid].mean()
    policy = None if before.log_pi is None else _choices_changed(before.log_pi, _given(after.log_pi), valid, avail)
    return (
        moved.sum(axis=(0, 1, 3)) / counted.sum(axis=(0, 1, 3)),
        _choices_changed(_given(before.q), _given(after.q), valid, avail),
        float(total),
        policy,
    )


def _given(values: Any) -> np.ndarray:
    if values is None:
        raise ValueError("a channel's `hear` leaves out q, or what it gave before.")
    return np.asarray(values)


def _best(values: Any, avail: np.ndarray) -> np.ndarray:
    return np.where(avail, values, -np.inf).argmax(axis=-1)


def _choices_changed(before: Any, after: Any, valid: np.ndarray, avail: np.ndarray) -> np.ndarray:
    return (_best(before, avail) != _best(after, avail))[valid].mean(axis=0)


def _accuracy(heard: Insight, best: np.ndarray, valid: np.ndarray, avail: np.ndarray) -> np.ndarray:
    """How often the decoder, given what was heard, names the best action `[B, T, N]`; NaN without a decoder."""
    if heard.decoded is None:
        return np.full(avail.shape[2], np.nan)
    return (_best(heard.decoded, avail) == best)[valid].mean(axis=0)


def message_bits(
    mean: Float[np.ndarray, "steps senders blocks D"], noise: float
) -> tuple[Float[np.ndarray, "senders blocks"], Float[np.ndarray, "senders blocks D"]]:
    """Information of messages about what was seen when they were sent, in bits: I(M; step).

        I = E[log p(m | x) - log 1/K Σₖ p(m | xₖ)],   p(m | x) = N(μ(x), noise² I)

    Estimated over at most `MOST_CONTEXTS` of the steps, so it is at most log₂ of their number.

    Args:
      mean: μ at played steps, of every sender and every message it sends.
      noise: standard deviation; at 0 a real number holds any number of bits, and the result is NaN.

    Returns:
      Of whole messages, and of each of their numbers alone.
    """
    if not noise:
        return np.full(mean.shape[1:3], np.nan), np.full(mean.shape[1:], np.nan)
    random = np.random.default_rng(_SEED)
    chosen = mean[random.permutation(len(mean))[:MOST_CONTEXTS]].astype(np.float64) / noise
    whole, single = np.zeros(mean.shape[1:3]), np.zeros(mean.shape[1:])
    for place in np.ndindex(*mean.shape[1:3]):
        centres = chosen[(slice(None), *place)]
        drawn = centres + random.standard_normal(centres.shape)
        logs = -0.5 * np.square(drawn[:, None] - centres[None])  # [message, step it may be of, D]
        whole[place] = _mixture_bits(logs.sum(axis=-1))
        single[place] = [_mixture_bits(logs[..., dim]) for dim in range(logs.shape[-1])]
    return whole, single


def _mixture_bits(logs: Float[np.ndarray, "messages steps"]) -> float:
    top = logs.max(axis=1)
    mixture = top + np.log(np.exp(logs - top[:, None]).mean(axis=1))
    return float((np.diagonal(logs) - mixture).mean() / np.log(2.0))


def kl_bits(mean: Float[np.ndarray, "steps senders blocks D"], noise: float) -> Float[np.ndarray, "senders blocks D"]:
    """KL(N(μ, noise² ) ‖ N(0, 1)) of each number, mean over steps, in bits; infinite without noise."""
    if not noise:
        return np.full(mean.shape[1:], np.inf)
    of_noise = noise**2 - 1.0 - 2.0 * np.log(noise)
    return 0.5 * (np.square(mean.astype(np.float64)).mean(axis=0) + of_noise) / np.log(2.0)


def play_episodes(policy: Policy, n_episodes: int, seed: int = 0) -> Episode:
    """Episodes of a policy in its run's environment, `[B, T, ...]`, NumPy.

    Args:
      policy: which plays.
      n_episodes: B.
      seed: of their randomness.

    Raises:
      ConfigError: the environment is played on the host.
    """
    played = [policy.play(key) for key in jax.random.split(jax.random.key(seed), n_episodes)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *played)


def seen_avail(policy: Policy, episodes: Episode) -> Bool[np.ndarray, "episodes time agents actions"]:
    """Which actions every agent could take at each step of played episodes."""
    observed = jax.jit(jax.vmap(jax.vmap(policy.program.env.observe)))(episodes.world)
    return np.asarray(observed.avail)[:, : episodes.valid.shape[1]]


def _hearing_of(policy: Policy, channel: Channel, episodes: Episode) -> Hear:
    """`hear` of the played episodes, compiled once."""
    agent, env = agent_of(policy.program.algorithm, policy.params), policy.program.env
    trajectories = jax.jit(jax.vmap(partial(as_trajectory, env)))(episodes)

    def one(agent: AgentState, trajectory: Trajectory, sent: Any) -> Insight:
        return channel.hear(agent, trajectory, sent)

    compiled = jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))
    return lambda sent: jax.tree.map(np.asarray, compiled(agent, trajectories, jnp.asarray(sent)))
