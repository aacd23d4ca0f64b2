# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # The method, equation by equation
#
# LSF-SAC has four losses: equations (16), (12), (14) and (15) of the paper. This notebook plays one episode of a small game, runs every network once, computes each loss with NumPy from what the networks put out, and holds it against the function that training differentiates. No toy code: these are the functions of every run.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lsf_jax
from lsf_jax.algorithms.lsf_sac import binding
from lsf_jax.algorithms.lsf_sac.networks import OWNS
from lsf_jax.programs.parts import bind

config = lsf_jax.compose(algo="lsf_sac", env="predator_prey", overrides=["env.episode_limit=20", "algo.hidden=16"])
program = bind(config)  # the run's parts: environment, algorithm, replay, all of them functions of one seed
env, algorithm, hyper = program.env, program.algorithm, program.algorithm.hyper
env.spec

# %% [markdown]
# ## One episode, one pass
#
# `init` makes an agent: parameters by group (critic with mixer, encoder and decoder; actor; temperature), targets, optimisers. `rollout` plays an episode with the actor alone: messages exist in training only. `forward` is the pass that an update runs and differentiates.

# %%
agent = algorithm.init(jax.random.key(0), hyper)
clock = lsf_jax.Clock(*(jnp.int32(0) for _ in lsf_jax.Clock._fields))
params = algorithm.policy_params(agent)


@jax.jit
def play(key):
    def act(carry, observation, key):
        return algorithm.act(params, carry, observation, key, clock, hyper)

    return lsf_jax.rollout(env, act, algorithm.start(), key)


episode = play(jax.random.key(1))
trajectory = lsf_jax.as_trajectory(env, episode)
keys = jax.random.split(jax.random.key(2), env.spec.episode_limit + 1)
f = jax.jit(algorithm.forward)(agent.params, agent.targets, trajectory, keys)
for name, value in f._asdict().items():
    print(f"{name:12}", jax.tree.map(np.shape, value))

# %% [markdown]
# `log_pi` and `q` have T+1 rows (the last one is what learning bootstraps from), `mixing` are the mixer's weights at the T steps, `next_mixing` the target mixer's one step later. Everything below is NumPy on these numbers.

# %%
value = jax.tree.map(np.asarray, f)
t = jax.tree.map(np.asarray, trajectory._replace(layout=None))
n_steps, n_agents = t.action.shape
steps, agents = np.arange(n_steps)[:, None], np.arange(n_agents)


def mixed(weights, utilities):
    """Eq. (1) and (4): a small network whose kernels are non-negative, its weights made from the state."""
    hidden = np.einsum("ti,tie->te", utilities, weights.kernel_1) + weights.bias_1
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))  # ELU
    return (hidden * weights.kernel_2).sum(-1) + weights.bias_2


one = jax.tree.map(lambda leaf: leaf[0], (value.mixing, value.next_mixing))  # LSF-SAC has one critic, MASAC-DoubleQ two
terms = {}  # name: (by hand, by the library)

# %% [markdown]
# ## Eq. (16): the TD error
#
# $Q_{tot}$ mixes the utilities of the actions taken. The target takes each agent's most probable next action (the paper's max over $a^*$ and expectation over $\pi$ cannot both hold; so does the released code), the target networks' utilities of it, mixed at the next state. With $\lambda = 0$ that is one step; the default's TD(λ) goes backwards through the episode.

# %%
chosen = value.q[0][:-1][steps, agents, t.action]
q_tot = mixed(one[0], chosen)
avail = t.observation.avail
best = np.where(avail, value.log_pi, -np.inf).argmax(-1)[1:]
bootstrap = mixed(one[1], value.target_q[0][1:][steps, agents, best])

gamma, trace = float(hyper.discount), float(hyper.trace)
y = np.zeros(n_steps)
for k in reversed(range(n_steps)):  # y_k = r + γ (1 - d) ((1 - λ) v_{k+1} + λ y_{k+1})
    last = k == n_steps - 1 or not t.valid[k + 1]
    follow = bootstrap[k] if last else (1 - trace) * bootstrap[k] + trace * y[k + 1]
    y[k] = float(hyper.reward_scale) * t.reward[k] + gamma * (1 - t.terminal[k]) * follow
library = binding.make_losses(config.algo)
terms["td"] = 0.5 * (q_tot - y) ** 2

# %% [markdown]
# ## Eq. (12): the message loss
#
# The decoder guesses agent $j$'s action from its own observation and the messages: cross-entropy against the best action by the target critic. A message costs its KL to a standard normal, half of its mean squared: the bottleneck.

# %%
logits = value.decoded.logits[:-1]
log_prob = (
    logits
    - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    - logits.max(-1, keepdims=True)
)
label = np.where(avail[:-1], value.target_q[0][:-1], -np.inf).argmax(-1)
cross_entropy = -np.log(np.exp(log_prob[steps, agents, label]) + 1e-6).sum(-1)
kl = 0.5 * np.square(value.decoded.message_mean[:-1]).sum((-2, -1))
terms["message_ce"] = float(hyper.lambda_1) * cross_entropy
terms["message_kl"] = float(hyper.lambda_1) * float(hyper.beta) * kl

# %% [markdown]
# ## Eq. (14): the policy loss
#
# The expectation over $\pi$ is exact, one sum over the actions of each agent, and the mixer is climbed at the state of the step. No message enters $\pi$: what the critic learned with messages has to be acted out without.

# %%
log_pi, alpha = value.log_pi[:-1], float(np.exp(value.log_alpha))
pi = np.where(avail[:-1], np.exp(log_pi), 0.0)
soft = (pi * (value.q[0][:-1] - alpha * np.where(avail[:-1], log_pi, 0.0))).sum(-1)
terms["policy"] = -float(hyper.lambda_2) * mixed(one[0], soft)

# %% [markdown]
# ## Eq. (15): the temperature
#
# α rises where the policy's entropy is below $H_0$, a share of the logarithm of how many actions are available, and falls where it is above.

# %%
entropy = -(pi * np.where(avail[:-1], log_pi, 0.0)).sum(-1)
target = float(hyper.target_entropy_fraction) * np.log(avail[:-1].sum(-1))
choosing = avail[:-1].sum(-1) > 1
excess = ((entropy - target) * choosing).sum(-1) / np.maximum(choosing.sum(-1), 1)
terms["temperature"] = float(value.log_alpha) * excess

# %% [markdown]
# ## Against the functions that train
#
# `make_losses` gives the functions that a run differentiates, by parameter group.

# %%
theirs = {
    name: np.asarray(term) for part in library.values() for name, term in part(f, trajectory, clock, hyper).items()
}
for name, ours in terms.items():
    difference = np.abs(ours - theirs[name])[t.valid].max()
    print(f"{name:12} mean {ours[t.valid].mean():9.4f}   largest difference {difference:.1e}")
    assert difference < 1e-4 * (1 + np.abs(ours).max())

figure, axes = plt.subplots(len(terms), 1, figsize=(6, 7), sharex=True, layout="constrained")
for axis, (name, ours) in zip(axes, terms.items(), strict=True):
    axis.plot(ours, color="0.75", linewidth=5, label="by hand")
    axis.plot(theirs[name], color="C0", linewidth=1, label="the library's")
    axis.set_ylabel(name)
axes[0].legend(ncols=2)
axes[-1].set_xticks(range(0, len(ours), 5))
axes[-1].set_xlabel("step of the episode")
plt.show()

# %% [markdown]
# ## What moves what
#
# All losses are summed as eq. (8) has it and give one gradient, but each group of networks may learn through some of the record's fields only: the critic, encoder and decoder through `q`, `decoded` and `mixing`; the actor through `log_pi`; the temperature through itself. Below: how long each group's gradient is for each loss. The zeros are what makes it an actor-critic.


# %%
forward = jax.vmap(algorithm.forward, in_axes=(None, None, 0, 0))  # gradients are taken of batches: here, of one
one_of = partial(jax.tree.map, lambda leaf: leaf[None])


@partial(jax.jit, static_argnames="name")
def gradient_of(params, name):
    """The gradient of one loss, for every group through its own fields alone."""

    def loss(params):
        record = jax.tree.map(lambda leaf: leaf[0], forward(params, agent.targets, one_of(trajectory), keys[None]))
        total = 0.0
        for group, part in library.items():
            own = {
                field: jax.lax.stop_gradient(getattr(record, field)) for field in set(record._fields) - set(OWNS[group])
            }
            total += part(record._replace(**own), trajectory, clock, hyper).get(name, jnp.zeros(1)).sum()
        return total

    return jax.grad(loss)(params)


def length(tree):
    return np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree)))


sizes = np.array([[length(gradient_of(agent.params, name)[group]) for group in agent.params] for name in terms])

figure, axis = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
axis.imshow(np.log10(sizes + 1e-6), cmap="cividis", aspect="auto")
axis.set_xticks(range(len(agent.params)), agent.params)
axis.set_yticks(range(len(terms)), terms)
for (row, column), size in np.ndenumerate(sizes):
    axis.text(column, row, f"{size:.2g}", ha="center", va="center", color="w" if size < 1 else "k")
axis.set_title("length of the gradient of each loss")
plt.show()
