# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # The message microscope
#
# What do agents tell each other, who listens, and does it matter? LSF-SAC's messages reach critics only, while training. This notebook trains it on a game in which exactly one thing is worth saying, and looks: bits, hearing, and whether the critics are the better for it.
#
# `two_state_opposed`: two states, equally likely. The first agent cannot see which one it is in, and its order of actions is opposite in the two; the second agent sees it. So one bit, from agent 1 to agent 0, is all that is lacking, and agent 0 has nothing to tell.

# %%
import tempfile
from itertools import permutations, product

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image
from IPython.utils.capture import capture_output

import lsf_jax

small = ["algo.hidden=16", "algo.recurrent=false", "algo.mixer_embed=8", "algo.hyper_hidden=0", "algo.decoder_hidden=4"]
rates = ["algo.lr=1e-3", "algo.actor_lr=1e-3", "algo.batch_size=32", "algo.updates=1", "algo.trace=0", "algo.alpha=1"]
budget = ["train.n_envs=32", "train.buffer_capacity=1024", "train.env_steps=48000", "train.evaluate_every=24000"]
config = lsf_jax.compose(
    env="two_state_opposed",
    overrides=[
        *(*small, *rates, *budget, "seeds=16", "train.block=16"),
        "algo.encoder_hidden=16",  # 4 are too narrow to say much
        "algo.behaviour=epsilon_sample",  # uniform data: every joint action as often
        "algo.epsilon_anneal=1",
        "algo.epsilon_finish=1",
        f"train.run_dir={tempfile.mkdtemp()}",
    ],
)
for name, table in zip(("first state", "second state"), np.array(config.env.payoffs), strict=True):
    print(f"payoff in the {name} (rows: agent 0)\n{table}")

# %%
with capture_output():  # the progress lines
    result = lsf_jax.train(config)
final = result.final
print(f"{result.timing['updates']:,} updates in {result.timing['train_seconds']:.0f} s")
print(
    f"critics that know the best joint action of both states: {int(final['critic_optimal'].sum())} of {len(final['seed'])}"
)
print(f"actors that play it, which no decentralised policy can:  {int(final['optimal'].sum())}")

# %% [markdown]
# ## One seed under the microscope
#
# `inspect_policy` plays episodes and asks the networks. A message's bits are the information between it and what its sender saw, estimated from played steps. To learn who hears whom, one sender's messages are replaced in all steps, everything else (noise too) as it was: by silence, by what it said at another step, or by draws of N(0, I). What then moves is what is heard.

# %%
policies = lsf_jax.load_policies(result.path)
found = [lsf_jax.inspect_policy(policies.row(row), n_episodes=64) for row in range(len(final["seed"]))]
best = int(np.argmin(final["q_error"]))
print(lsf_jax.inspection_text(found[best]))

# %%
lsf_jax.plot_inspection(found[best], f"{result.path}/inside.png")
Image(f"{result.path}/inside.png", width=760)

# %% [markdown]
# The bits are agent 1's, and the one who hears them is agent 0: its values move when agent 1's messages are shuffled among the steps, which keeps every message as likely as it was and only breaks its relation to the state.
#
# ## Does it matter? All seeds
#
# For each seed: the bits of agent 1's message, how much shuffling it moves agent 0's values, and how far $Q_{tot}$ is from the payoffs. Without a message agent 0's ranking of its actions serves both states, and a monotonic $Q_{tot}$ follows it: the least error that any ranking allows is found by trying them all.


# %%
def misfit(column):
    """Least sum of absolute errors of numbers that fall along the column; the best ones are among its own."""
    falling = [fit for fit in product(column, repeat=len(column)) if list(fit) == sorted(fit, reverse=True)]
    return min(np.abs(np.array(fit) - column).sum() for fit in falling)


payoffs = np.array(config.env.payoffs)  # [states, actions of agent 0, actions of agent 1]
rankings = [list(order) for order in permutations(range(payoffs.shape[1]))]
floor = min(sum(misfit(column) for table in payoffs for column in table[order].T) for order in rankings) / payoffs.size
print(f"least mean error without messages: {floor:.3f}")

bits = np.array([each.messages.bits[:, 0] for each in found])  # [seeds, senders]; one message to all
heard = np.array([each.messages.hearing["shuffle"].q for each in found])  # [seeds, receivers, senders]
knows = final["critic_optimal"] > 0
error = final["q_error"]
print(f"bits of a message, mean over seeds:    agent 0 {bits[:, 0].mean():.2f}   agent 1 {bits[:, 1].mean():.2f}")
print(
    f"|ΔQ| of agent 0 if agent 1 is shuffled: {heard[:, 0, 1].mean():.2f}, of agent 1 if agent 0 is: {heard[:, 1, 0].mean():.2f}"
)
for which, name in ((knows, "know"), (~knows, "do not know")):
    if which.any():
        print(
            f"critics that {name} the best joint actions: {bits[which, 1].mean():.2f} bits, error {error[which].mean():.2f}"
        )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained", sharey=True)
for axis, across, name in (
    (left, bits[:, 1], "bits of agent 1's message"),
    (right, heard[:, 0, 1], "|ΔQ| of agent 0 when agent 1's messages are shuffled"),
):
    axis.axhline(floor, color="0.6", linestyle=":")
    for which, colour, label in (
        (knows, "#009E73", "critic knows the best joint actions"),
        (~knows, "#D55E00", "it does not"),
    ):
        axis.scatter(across[which], error[which], color=colour, label=label, zorder=3)
    axis.set_xlabel(name)
    axis.spines[["top", "right"]].set_visible(False)
left.set_ylabel("mean |Q_tot - payoff|")
left.annotate(
    "least error without messages",
    (0.02, floor),
    xycoords=("axes fraction", "data"),
    va="top",
    fontsize="small",
    color="0.4",
)
left.axvline(1, color="0.6", linestyle=":")
right.legend(fontsize="small")
figure.suptitle("What is said, who hears it, and what it is worth: 16 seeds", fontsize="medium")
plt.show()

# %% [markdown]
# Saying it is not enough. Some seeds send most of the bit, and their critics stay where critics without messages are: what tells the two groups apart is whether agent 0 listens.
